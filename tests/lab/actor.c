/*
 * The actor: executes a script that states what a process of a workload does with its memory.
 *
 *     actor start SCRIPT NUMBER    start the script in a new process, wait until it has stopped
 *     actor go PID                 let a stopped process go on, wait until it stops again
 *
 * A script is a list of operations, one per line; '#' starts a comment. R is a region or a part of
 * it in pages: "data", "data[10:20]", "data[10:]", "data[5]". Every process stops (SIGSTOP) at the
 * end of its script. See tests/lab/workload.py for the operations.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "actor.h"

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif
enum { LINE = 256, RECORD = 24 };
static const char READY[] = "/tmp/ready"; /* a record per process that is set up: pid, thread, state */

static char comm[16] = "actor";
static char path[128]; /* of the script */
static char *lines[512];
static int line_count;
static int current;     /* line that is executed */
uint64_t number;

void die(const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "actor %s: line %d (%s): ", comm, current + 1,
		current < line_count ? lines[current] : "");
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, ": %s\n", strerror(errno));
	exit(1);
}

/* ---- stopping and going on ---- */

static long ready_count(void)
{
	struct stat status;

	return stat(READY, &status) ? 0 : status.st_size;
}

static char state_of(long pid)
{
	char name[64], text[512], *end;
	FILE *file;
	size_t size;

	snprintf(name, sizeof(name), "/proc/%ld/stat", pid);
	file = fopen(name, "r");
	if (!file)
		return 'X';
	size = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[size] = 0;
	end = strrchr(text, ')');
	return end ? end[2] : 'X';
}

/*
 * Wait until process "pid" reports itself after offset "seen", and until it holds still. Ends
 * this process if the other one ends instead.
 */
static void wait_ready(long seen, long pid)
{
	char text[RECORD + 1] = "";
	long thread;
	int file = open(READY, O_RDONLY | O_CREAT, 0600);

	for (;;) {
		if (pread(file, text, RECORD, seen) == RECORD) {
			if (atol(text) == pid)
				break;
			seen += RECORD;
		} else if (waitpid(pid, NULL, WNOHANG) == pid || state_of(pid) == 'X')
			exit(1);
		else
			usleep(1000);
	}
	close(file);
	thread = atol(text + RECORD / 2);
	while (!strchr(text, '+') && state_of(thread) != 'T')
		usleep(1000);
}

/* Report process "pid" as set up by this thread; one that "runs" goes on changing its memory. */
static void report(long pid, bool runs)
{
	char text[RECORD + 1];
	int file = open(READY, O_WRONLY | O_APPEND | O_CREAT, 0600);

	snprintf(text, sizeof(text), "%-11ld %-10ld%c\n", pid, (long)syscall(SYS_gettid),
		 runs ? '+' : ' ');
	if (write(file, text, RECORD) != RECORD)
		die("writing %s", READY);
	close(file);
}

static void stop(void)
{
	report(getpid(), false);
	kill(getpid(), SIGSTOP);
}

/* ---- processes ---- */

static void run(int line, int end);

/* The line after the "end" that closes the block starting at "line". */
static int after_block(int line)
{
	for (int depth = 1; line < line_count; line++) {
		depth += !strncmp(lines[line], "fork ", 5);
		depth -= !strcmp(lines[line], "end");
		if (!depth)
			return line + 1;
	}
	die("a block without end");
	return 0;
}

static void finish(void)
{
	for (;;)
		stop();
}

static void op_fork(int children, int line, int next)
{
	for (int i = 0; i < children; i++) {
		long seen = ready_count();
		pid_t child = fork();

		if (child < 0)
			die("fork");
		if (!child) {
			number = number * 100 + i + 1;
			run(line, next - 1);
			finish();
		}
		wait_ready(seen, child);
	}
}

static void *idle(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void op_threads(int count)
{
	pthread_t thread;

	while (count--)
		if (pthread_create(&thread, NULL, idle, NULL))
			die("pthread_create");
}

static int share(void *vfork)
{
	prctl(PR_SET_NAME, "sharer");
	if (vfork)
		report(getppid(), false);
	finish();
	return 0;
}

/* A process with the same mm; with CLONE_VFORK this process waits for it for ever. */
static void op_share(int flags)
{
	long seen = ready_count(), size = 16 * PAGE;
	char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	pid = clone(share, stack + size, flags | SIGCHLD, (void *)(intptr_t)(flags & CLONE_VFORK));
	if (pid < 0)
		die("clone");
	wait_ready(seen, pid);
}

static void *go_on(void *line)
{
	while (state_of(getpid()) != 'Z')
		usleep(1000);
	run((int)(intptr_t)line, line_count);
	finish();
	return NULL;
}

/* The rest of the script is for another thread; the leader becomes a zombie. */
static void op_drop_leader(int line)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, go_on, (void *)(intptr_t)line))
		die("pthread_create");
	syscall(SYS_exit, 0);
}

/* The rest of the script is for a fresh image of this program. */
static void op_exec(int line)
{
	char line_text[16], number_text[24];

	snprintf(line_text, sizeof(line_text), "%d", line);
	snprintf(number_text, sizeof(number_text), "%llu", (unsigned long long)number);
	execl("/bin/actor", "actor", "run", path, number_text, line_text, NULL);
	die("exec");
}

/* Change every page of the region again and again, for ever. */
static void op_rewrite(struct region r, long pause_milliseconds)
{
	report(getpid(), true);
	for (uint64_t round = 1;; round++) {
		for (long i = 0; i < r.pages; i++)
			fill_page(r.start + i * PAGE, mix(number) ^ round, i + 1);
		usleep(pause_milliseconds * 1000);
	}
}

/* Use the CPU for so long, and no memory of a region. */
static void op_burn(long milliseconds)
{
	clock_t end = clock() + milliseconds * (CLOCKS_PER_SEC / 1000);

	while (clock() < end)
		;
}

/* ---- scripts ---- */

/* Run the lines from "line" up to "end". Memory on the stack lives as long as this function. */
static void run(int line, int end)
{
	while (line < end) {
		char text[LINE], *op, *a, *b, *c, *save;

		current = line;
		snprintf(text, sizeof(text), "%s", lines[line++]);
		op = strtok_r(text, " \t", &save);
		a = strtok_r(NULL, " \t", &save);
		b = strtok_r(NULL, " \t", &save);
		c = strtok_r(NULL, " \t", &save);
		if (!strcmp(op, "stop"))
			stop();
		else if (!strcmp(op, "drop-leader"))
			op_drop_leader(line);
		else if (!strcmp(op, "exec"))
			op_exec(line);
		else if (!strcmp(op, "share-mm"))
			op_share(CLONE_VM);
		else if (!strcmp(op, "vfork"))
			op_share(CLONE_VM | CLONE_VFORK);
		else if (!a)
			die("no such operation");
		else if (!strcmp(op, "comm")) {
			snprintf(comm, sizeof(comm), "%s", a);
			prctl(PR_SET_NAME, comm);
		} else if (!strcmp(op, "merge-any")) {
			if (prctl(PR_SET_MEMORY_MERGE, atol(a), 0, 0, 0))
				die("prctl");
		} else if (!strcmp(op, "fork")) {
			int next = after_block(line);

			op_fork(atoi(a), line, next);
			line = next;
		} else if (!strcmp(op, "threads"))
			op_threads(atoi(a));
		else if (!strcmp(op, "thin"))
			op_thin(find(a));
		else if (!strcmp(op, "read"))
			op_read(find(a));
		else if (!strcmp(op, "touch"))
			op_touch(find(a));
		else if (!strcmp(op, "stripes"))
			op_stripes(find(a));
		else if (!strcmp(op, "pin"))
			op_pin(find(a));
		else if (!strcmp(op, "register"))
			op_register(find(a));
		else if (!strcmp(op, "burn"))
			op_burn(atol(a));
		else if (!strcmp(op, "cpu")) {
			cpu_set_t only;

			CPU_ZERO(&only);
			CPU_SET(atoi(a), &only);
			if (sched_setaffinity(0, sizeof(only), &only))
				die("sched_setaffinity");
		} else if (!strcmp(op, "lock")) {
			if (mlock(find(a).start, find(a).pages * PAGE))
				die("mlock");
		} else if (!strcmp(op, "unmap")) {
			if (munmap(find(a).start, find(a).pages * PAGE))
				die("munmap");
		} else if (!b)
			die("no such operation, or too few words");
		else if (!strcmp(op, "map") && c && !strcmp(c, "stack"))
			op_map(a, atol(b), c, align(alloca((atol(b) + 1) * PAGE)));
		else if (!strcmp(op, "map") && c && !strcmp(c, "heap"))
			op_map(a, atol(b), c, align(sbrk((atol(b) + 1) * PAGE)));
		else if (!strcmp(op, "map"))
			op_map(a, atol(b), c ? c : "anon", NULL);
		else if (!strcmp(op, "fill"))
			op_fill(find(a), b, c ? strtoull(c, NULL, 0) : 0);
		else if (!strcmp(op, "advise"))
			op_advise(find(a), b);
		else if (!strcmp(op, "protect"))
			op_protect(find(a), b);
		else if (!strcmp(op, "node"))
			op_node(find(a), atoi(b));
		else if (!strcmp(op, "rewrite"))
			op_rewrite(find(a), atol(b));
		else
			die("no such operation");
	}
}

/* Read the script into "lines", without comments, indentation and empty lines. */
static void load(const char *name)
{
	char text[LINE], *start, *end;
	FILE *file = fopen(name, "r");

	snprintf(path, sizeof(path), "%s", name);
	if (!file)
		die("%s", name);
	while (fgets(text, sizeof(text), file)) {
		text[strcspn(text, "#\n")] = 0;
		for (start = text; isspace(*start); start++)
			;
		for (end = start + strlen(start); end > start && isspace(end[-1]); end--)
			end[-1] = 0;
		if (*start && line_count < 512)
			lines[line_count++] = strdup(start);
	}
	fclose(file);
}

int main(int argc, char **argv)
{
	long seen = ready_count();

	if (argc == 4 && !strcmp(argv[1], "start")) {
		pid_t child = fork();

		if (!child) {
			setsid();
			execl("/bin/actor", "actor", "run", argv[2], argv[3], "0", NULL);
			_exit(1);
		}
		wait_ready(seen, child);
		printf("%ld\n", (long)child);
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "go")) {
		kill(atol(argv[2]), SIGCONT);
		wait_ready(seen, atol(argv[2]));
		return 0;
	}
	if (argc == 5 && !strcmp(argv[1], "run")) {
		load(argv[2]);
		number = strtoull(argv[3], NULL, 10);
		prctl(PR_SET_NAME, comm);
		run(atoi(argv[4]), line_count);
		finish();
	}
	fprintf(stderr, "usage: actor start SCRIPT NUMBER | actor go PID\n");
	return 2;
}
