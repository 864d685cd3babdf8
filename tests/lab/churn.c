/*
 * Churn: processes that fork, exec, exit, map, unmap, collapse, swap and opt in as fast as they can.
 *
 *     churn WORKERS    start them in the background
 *
 * All memory that they map stands at BASE and holds TEMPLATE[i % CONTENTS] on page i, or nothing yet.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { CONTENTS = 16, PAGES = 512 };
static char *const BASE = (char *)0x200000000000;

static void fill(char *start, int pages)
{
	for (int i = 0; i < pages; i++)
		memset(start + (size_t)i * PAGE, 'a' + i % CONTENTS, PAGE);
}

static char *map(char *start, int pages)
{
	char *area = mmap(start, (size_t)pages * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (area == MAP_FAILED)
		_exit(1);
	return area;
}

static void work(unsigned seed)
{
	for (;;) {
		int pages = 1 + rand_r(&seed) % PAGES;

		map(BASE, PAGES); /* one huge page, if it is collapsed: what is not filled is zero */
		fill(BASE, pages);
		switch (rand_r(&seed) % 4) { /* what the kernel refuses is left out */
		case 0:
			madvise(BASE, (size_t)PAGES * PAGE, MADV_COLLAPSE);
			break;
		case 1:
			madvise(BASE, (size_t)PAGES * PAGE, MADV_PAGEOUT);
			break;
		case 2:
			madvise(BASE, (size_t)PAGES * PAGE, MADV_MERGEABLE);
			break;
		}
		for (int i = 0; i < 16; i++) { /* many VMAs: the tree of VMAs grows and shrinks */
			char *area = BASE + (size_t)(i * 2 + 4) * PAGES * PAGE;

			fill(map(area, CONTENTS), CONTENTS);
		}
		pid_t child = fork();

		if (child == 0) {
			fill(BASE, pages / 2);
			if (rand_r(&seed) % 2)
				execl("/bin/busybox", "true", (char *)NULL);
			_exit(0);
		}
		fill(BASE, pages);
		munmap(BASE + (size_t)pages * PAGE, (size_t)(PAGES - pages) * PAGE); /* splits it */
		munmap(BASE, (size_t)PAGES * PAGE);
		for (int i = 0; i < 16; i++)
			munmap(BASE + (size_t)(i * 2 + 4) * PAGES * PAGE, (size_t)CONTENTS * PAGE);
		waitpid(child, NULL, 0);
	}
}

int main(int argc, char **argv)
{
	for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++)
		if (fork() == 0)
			work(i + 1);
	return 0;
}
