/* The memory of an actor: its regions, their contents, and what is done with them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/mempolicy.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "actor.h"

#ifndef PROT_MTE
#define PROT_MTE 0x20
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { WORDS = 8, MAX_REGIONS = 32, ADDRESS_AT = 100, PIECE = 1024 };

static struct region regions[MAX_REGIONS];
static int region_count;
static uintptr_t next_address = 0x100000000000;

uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

void fill_page(char *page, uint64_t seed, uint64_t index)
{
	uint64_t *word = (uint64_t *)page;
	uint64_t x = mix(mix(seed) ^ index);

	for (int i = 0; i < PAGE / WORDS; i++) {
		word[i] = x;
		x = x * 6364136223846793005 + 1442695040888963407;
	}
}

/* The part of a region that "text" names. */
struct region find(const char *text)
{
	struct region found;
	size_t length = strcspn(text, "[");
	char *end;
	long first, last;

	for (int i = 0; i < region_count; i++) {
		found = regions[i];
		if (strlen(found.name) != length || strncmp(found.name, text, length))
			continue;
		if (!text[length])
			return found;
		first = strtol(text + length + 1, &end, 10);
		last = *end == ':' ? (end[1] == ']' ? found.pages : atol(end + 1)) : first + 1;
		if (first < 0 || last <= first || last > found.pages)
			die("no such pages");
		found.start += first * PAGE;
		found.pages = last - first;
		return found;
	}
	die("no such region");
	return found;
}

static int file_of_pages(long pages)
{
	char name[] = "/tmp/file.XXXXXX", page[PAGE];
	int file = mkstemp(name);

	unlink(name);
	for (long i = 0; i < pages; i++) {
		fill_page(page, 0xf11e, i);
		if (write(file, page, PAGE) != PAGE)
			die("writing a file");
	}
	return file;
}

static char *map_region(long pages, const char *kind)
{
	int flags = MAP_FIXED_NOREPLACE, file = -1, protection = PROT_READ | PROT_WRITE;
	size_t size = pages * PAGE;
	char *start = (char *)next_address;

	next_address = (next_address + size + (2ul << 30)) & -(1ul << 30);
	if (!strcmp(kind, "anon"))
		flags |= MAP_PRIVATE | MAP_ANONYMOUS;
	else if (!strcmp(kind, "mte")) {
		flags |= MAP_PRIVATE | MAP_ANONYMOUS;
		protection |= PROT_MTE;
	} else if (!strcmp(kind, "sparse"))
		flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	else if (!strcmp(kind, "shared"))
		flags |= MAP_SHARED | MAP_ANONYMOUS;
	else if (!strcmp(kind, "shared-hugetlb"))
		flags |= MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE;
	else if (!strcmp(kind, "hugetlb"))
		flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
	else if (!strcmp(kind, "file") || !strcmp(kind, "shared-file"))
		file = file_of_pages(pages);
	else if (!strcmp(kind, "memfd") || !strcmp(kind, "shared-memfd")) {
		file = memfd_create("memfd", 0);
		if (ftruncate(file, size))
			die("ftruncate");
	} else
		die("no such kind of memory");
	if (file >= 0)
		flags |= strncmp(kind, "shared", 6) ? MAP_PRIVATE : MAP_SHARED;
	start = mmap(start, size, protection, flags, file, 0);
	if (start == MAP_FAILED)
		die("mmap");
	if (file >= 0)
		close(file);
	return start;
}

void op_fill(struct region r, const char *content, uint64_t seed)
{
	for (long i = 0; i < r.pages; i++) {
		char *page = r.start + i * PAGE;

		if (!strcmp(content, "zero"))
			memset(page, 0, PAGE);
		else if (!strcmp(content, "same"))
			fill_page(page, seed, 0);
		else if (!strcmp(content, "list"))
			fill_page(page, seed, i + 1);
		else if (!strcmp(content, "own"))
			fill_page(page, mix(number) ^ seed, i + 1);
		else if (!strcmp(content, "end")) {
			fill_page(page, seed, i + 1);
			((uint64_t *)page)[PAGE / WORDS - 1] = mix(number) ^ i;
		} else if (!strcmp(content, "address")) {
			fill_page(page, seed, i + 1);
			((uint64_t *)page)[ADDRESS_AT] = (uint64_t)page + number;
		} else if (!strcmp(content, "piece")) {
			char other[PAGE];

			fill_page(page, mix(number) ^ seed, i + 1);
			fill_page(other, seed, i + 1);
			memcpy(page, other, PIECE);
		} else
			die("no such content");
	}
}

/* Keep three bytes of each word: data that compresses. What was equal stays equal. */
void op_thin(struct region r)
{
	for (uint64_t *word = (uint64_t *)r.start; (char *)word < r.start + r.pages * PAGE; word++)
		*word &= 0xffffff;
}

void op_read(struct region r)
{
	for (long i = 0; i < r.pages; i++)
		(void)*(volatile char *)(r.start + i * PAGE);
}

/* As a debugger reads: twice, so that the page becomes an active one (mark_page_accessed). */
void op_touch(struct region r)
{
	int memory = open("/proc/self/mem", O_RDONLY);
	char byte;

	for (long i = 0; i < 2 * r.pages; i++)
		if (pread(memory, &byte, 1, (off_t)(r.start + i / 2 * PAGE)) != 1)
			die("/proc/self/mem");
	close(memory);
}

void op_advise(struct region r, const char *advice)
{
	static const struct {
		const char *name;
		int advice;
	} known[] = {
		{ "mergeable", MADV_MERGEABLE },   { "unmergeable", MADV_UNMERGEABLE },
		{ "hugepage", MADV_HUGEPAGE },     { "nohugepage", MADV_NOHUGEPAGE },
		{ "pageout", MADV_PAGEOUT },       { "free", MADV_FREE },
		{ "dontneed", MADV_DONTNEED },     { "collapse", MADV_COLLAPSE },
		{ "cold", MADV_COLD },
		{ "wipeonfork", MADV_WIPEONFORK }, { "dontfork", MADV_DONTFORK },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (!strcmp(known[i].name, advice)) {
			if (madvise(r.start, r.pages * PAGE, known[i].advice))
				die("madvise");
			return;
		}
	die("no such advice");
}

void op_protect(struct region r, const char *mode)
{
	int protection = !strcmp(mode, "none") ? PROT_NONE :
			 !strcmp(mode, "read") ? PROT_READ :
			 !strcmp(mode, "write") ? PROT_READ | PROT_WRITE : -1;

	if (protection < 0 || mprotect(r.start, r.pages * PAGE, protection))
		die("mprotect");
}

/* Make every second page a VMA of its own. */
void op_stripes(struct region r)
{
	for (long i = 1; i < r.pages; i += 2)
		if (mprotect(r.start + i * PAGE, PAGE, PROT_READ))
			die("mprotect");
}

void op_node(struct region r, int node)
{
	unsigned long mask = 1ul << node;

	if (syscall(SYS_mbind, r.start, r.pages * PAGE, MPOL_BIND, &mask, 64ul,
		    MPOL_MF_MOVE | MPOL_MF_STRICT))
		die("mbind");
}

/* Hold a reference to every page in a pipe that nobody reads. */
void op_pin(struct region r)
{
	struct iovec vector = { r.start, r.pages * PAGE };
	int ends[2];

	if (pipe(ends) || fcntl(ends[1], F_SETPIPE_SZ, r.pages * PAGE) < 0)
		die("pipe");
	if (vmsplice(ends[1], &vector, 1, 0) != r.pages * PAGE)
		die("vmsplice");
}

/* Pin every page (FOLL_PIN) as a registered buffer. */
void op_register(struct region r)
{
	struct io_uring_params parameters = { 0 };
	struct iovec vector = { r.start, r.pages * PAGE };
	int ring = syscall(SYS_io_uring_setup, 4, &parameters);

	if (ring < 0 || syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &vector, 1))
		die("io_uring");
}

void op_map(char *name, long pages, const char *kind, char *memory)
{
	struct region *new = &regions[region_count++];

	if (region_count > MAX_REGIONS || pages < 1)
		die("too many regions, or no pages");
	snprintf(new->name, sizeof(new->name), "%s", name);
	new->pages = pages;
	new->start = memory ? memory : map_region(pages, kind);
}

char *align(void *memory)
{
	return (char *)(((uintptr_t)memory + PAGE - 1) & -(uintptr_t)PAGE);
}
