/*
 * The probe: what a guest's kernel says about KSM and its processes.
 *
 *     probe report                          all of it, as one JSON object
 *     probe settle MIN_SCANS STABLE MAX     let ksmd scan until its counters stay the same over
 *                                           STABLE full scans, but at least MIN_SCANS; a line of
 *                                           counters per stop ("-": this kernel has no such file),
 *                                           ksmd is off in the end
 *     probe scan COUNT                      let ksmd make (at least) COUNT full scans
 *     probe unmerge                         write 2 to "run"; memory before (twice: looking takes
 *                                           some itself, once) and after, as a JSON list
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KSM "/sys/kernel/mm/ksm/"

/* The first of them says which scan it is, the last ones change in every scan. */
static const char *const COUNTERS[] = { "full_scans",         "pages_shared",     "pages_sharing",
					"pages_unshared",     "pages_volatile",   "ksm_zero_pages",
					"stable_node_chains", "stable_node_dups", "general_profit",
					"pages_scanned",      "pages_skipped" };
enum { COUNTER_COUNT = sizeof(COUNTERS) / sizeof(*COUNTERS), AT_REST_FROM = 1, AT_REST_TO = 9 };

/* The content of a file, at most size - 1 bytes, without the last newline; false: no such file. */
static bool slurp(const char *name, char *text, size_t size)
{
	int file = open(name, O_RDONLY);
	ssize_t length = 0, part;

	if (file < 0)
		return false;
	while ((part = read(file, text + length, size - 1 - length)) > 0)
		length += part;
	close(file);
	while (length && text[length - 1] == '\n')
		length--;
	text[length] = 0;
	return true;
}

static void print_string(const char *text)
{
	putchar('"');
	for (; *text; text++)
		if (*text == '"' || *text == '\\')
			printf("\\%c", *text);
		else if ((unsigned char)*text < ' ')
			printf("\\u%04x", *text);
		else
			putchar(*text);
	putchar('"');
}

/* ---- report ---- */

static void report_ksm(void)
{
	char name[300], text[256];
	struct dirent *entry;
	DIR *directory = opendir(KSM);
	const char *comma = "";

	printf("\"ksm\":{");
	while ((entry = readdir(directory))) {
		snprintf(name, sizeof(name), KSM "%s", entry->d_name);
		if (entry->d_name[0] == '.' || !slurp(name, text, sizeof(text)))
			continue;
		printf("%s\"%s\":", comma, entry->d_name);
		print_string(text);
		comma = ",";
	}
	closedir(directory);
	printf("}");
}

/* "name value" lines of "file" whose names start with "prefix", as members of an object. */
static void report_numbers(const char *file, const char *prefix)
{
	static char text[1 << 16];
	char *line, *save, key[64];
	const char *comma = "";
	long value;

	printf("{");
	if (slurp(file, text, sizeof(text)))
		for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
			if (!strncmp(line, prefix, strlen(prefix)) &&
			    sscanf(line, "%63s %ld", key, &value) == 2) {
				printf("%s\"%s\":%ld", comma, key, value);
				comma = ",";
			}
	printf("}");
}

/* Pages on the buddy lists and on the per-CPU lists of all zones. */
static void report_free(void)
{
	static char text[1 << 16];
	char *line, *save;
	long buddy = 0, per_cpu = 0, value;

	slurp("/proc/zoneinfo", text, sizeof(text));
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (sscanf(line, " nr_free_pages %ld", &value) == 1)
			buddy += value;
		else if (sscanf(line, " count: %ld", &value) == 1)
			per_cpu += value;
	printf("\"free_pages\":%ld,\"per_cpu_free_pages\":%ld", buddy, per_cpu);
}

/* Bytes of slabs that no object is in: SLUB keeps partly filled and some empty slabs. */
static void report_slabs(void)
{
	static char text[1 << 16];
	char *line, *save;
	long active, total, size, unused = 0;

	slurp("/proc/slabinfo", text, sizeof(text));
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (sscanf(line, "%*s %ld %ld %ld", &active, &total, &size) == 3)
			unused += (total - active) * size;
	printf(",\"slab_unused_bytes\":%ld", unused);
}

static void report_vmas(const char *task)
{
	char name[64], line[512], *rest;
	const char *comma = "";
	unsigned long start, end;
	FILE *file;
	long kb;
	int at;

	snprintf(name, sizeof(name), "%s/smaps", task);
	file = fopen(name, "r");
	printf("\"vmas\":[");
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %n", &start, &end, &at) == 2) {
			rest = line + at;
			rest[strcspn(rest, "\n")] = 0;
			printf("%s{\"start\":%lu,\"end\":%lu,\"name\":", comma, start, end);
			print_string(rest);
			comma = ",";
		} else if (sscanf(line, "Rss: %ld", &kb) == 1)
			printf(",\"rss_kb\":%ld", kb);
		else if (sscanf(line, "Anonymous: %ld", &kb) == 1)
			printf(",\"anonymous_kb\":%ld", kb);
		else if (sscanf(line, "KSM: %ld", &kb) == 1)
			printf(",\"ksm_kb\":%ld", kb);
		else if (sscanf(line, "AnonHugePages: %ld", &kb) == 1)
			printf(",\"anon_huge_kb\":%ld", kb);
		else if (sscanf(line, "Swap: %ld", &kb) == 1)
			printf(",\"swap_kb\":%ld", kb);
		else if (!strncmp(line, "VmFlags: ", 9)) {
			line[strcspn(line, "\n")] = 0;
			printf(",\"flags\":\"%s\"}", line + 9);
		}
	}
	if (file)
		fclose(file);
	printf("]");
}

/* Neither a kernel thread nor one that has exited. */
static bool has_memory(const char *task)
{
	char name[64], text[64];

	snprintf(name, sizeof(name), "%s/statm", task);
	return slurp(name, text, sizeof(text)) && atol(text) > 0;
}

/*
 * The directory in /proc of a thread of "pid" that has memory: a leader that has exited shows
 * none. Its state and name are left in "stat"; false: no such thread.
 */
static bool find_task(const char *pid, char *task, size_t size, char *stat, size_t stat_size)
{
	char name[64];
	struct dirent *entry;
	DIR *directory;
	bool found = false;

	snprintf(name, sizeof(name), "/proc/%.16s/task", pid);
	directory = opendir(name);
	while (directory && !found && (entry = readdir(directory))) {
		snprintf(task, size, "%s/%.16s", name, entry->d_name);
		snprintf(name, sizeof(name), "%s/stat", task);
		found = isdigit(entry->d_name[0]) && slurp(name, stat, stat_size) &&
			has_memory(task);
		snprintf(name, sizeof(name), "/proc/%.16s/task", pid);
	}
	if (directory)
		closedir(directory);
	return found;
}

static void report_process(const char *pid, const char *task, char *stat)
{
	char name[64], text[64], *end = strrchr(stat, ')');

	*end = 0;
	printf("{\"pid\":%s,\"ppid\":%ld,\"state\":\"%c\",\"comm\":", pid, atol(end + 4), end[2]);
	print_string(strchr(stat, '(') + 1);
	snprintf(name, sizeof(name), "%s/ksm_merging_pages", task);
	if (slurp(name, text, sizeof(text)))
		printf(",\"ksm_merging_pages\":%s", text);
	snprintf(name, sizeof(name), "%s/ksm_stat", task);
	printf(",\"ksm_stat\":");
	report_numbers(name, "ksm_");
	printf(",");
	report_vmas(task);
	printf("}");
}

static void report_processes(void)
{
	char task[48], stat[512];
	struct dirent *entry;
	DIR *directory = opendir("/proc");
	const char *comma = "";

	printf("\"processes\":[");
	while ((entry = readdir(directory))) {
		const char *pid = entry->d_name;

		if (!isdigit(*pid) || atol(pid) == getpid() ||
		    !find_task(pid, task, sizeof(task), stat, sizeof(stat)))
			continue;
		printf("%s", comma);
		comma = ",";
		report_process(pid, task, stat);
	}
	closedir(directory);
	printf("]");
}

/* ---- scanning ---- */

/* What a file of KSM says; "-": there is none. */
static void read_text(const char *counter, char *text, size_t size)
{
	char name[128];

	snprintf(name, sizeof(name), KSM "%s", counter);
	if (!slurp(name, text, size))
		snprintf(text, size, "-");
}

static long read_counter(const char *counter)
{
	char text[64];

	read_text(counter, text, sizeof(text));
	return atol(text);
}

static void write_file(const char *name, const char *value)
{
	int file = open(name, O_WRONLY);

	if (file < 0 || write(file, value, strlen(value)) < 0) {
		perror(name);
		exit(1);
	}
	close(file);
}

static void write_run(const char *value)
{
	write_file(KSM "run", value);
}

/* A shorter one is meant: what a workload writes between two scans takes its time. */
enum { LONG_SLEEP_MILLISECS = 60000 };

/* Another value of sleep_millisecs ends the sleep of ksmd: only then does it look at "run". */
static void end_sleep(void)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", read_counter("sleep_millisecs") ^ 1);
	write_file(KSM "sleep_millisecs", text);
}

/* /proc/PID/stat of ksmd. */
static const char *ksmd_stat(void)
{
	static char name[64];
	char text[512];
	struct dirent *entry;
	DIR *directory = *name ? NULL : opendir("/proc");

	while (directory && !*name && (entry = readdir(directory))) {
		snprintf(name, sizeof(name), "/proc/%.16s/stat", entry->d_name);
		if (!isdigit(*entry->d_name) || !slurp(name, text, sizeof(text)) ||
		    !strstr(text, "(ksmd)"))
			*name = 0;
	}
	if (directory)
		closedir(directory);
	return name;
}

/* What ksmd waits for in a scan, locks and pages, it can't be woken from. */
static bool ksmd_sleeps(void)
{
	char text[512];

	return slurp(ksmd_stat(), text, sizeof(text)) && strstr(text, "(ksmd) S");
}

/*
 * Let ksmd finish at least one full scan, and stop it between two scans: writing to "run" waits
 * for the end of the batch, and a batch of many pages ends where the full scan ends. It is one
 * scan if ksmd sleeps longer than it takes to see that the scan has ended. A long sleep is ended
 * where ksmd has not scanned yet: ksm_scan_thread() looks at "run" before a batch and before its
 * sleep, and where "1" is written in between it goes to sleep without a batch.
 */
static void one_scan(void)
{
	long before = read_counter("full_scans");
	bool long_sleep = read_counter("sleep_millisecs") > LONG_SLEEP_MILLISECS;

	write_run("1");
	for (;;) {
		bool sleeps = long_sleep && ksmd_sleeps();

		if (read_counter("full_scans") != before)
			break;
		if (sleeps)
			end_sleep();
		else
			usleep(2000);
	}
	write_run("0");
}

static int settle(int min_scans, int stable, int max_scans)
{
	long first = read_counter("full_scans"), last[COUNTER_COUNT] = { 0 }, same_since = first;

	for (;;) {
		long now[COUNTER_COUNT];

		one_scan();
		for (int i = 0; i < COUNTER_COUNT; i++) {
			char text[64];

			read_text(COUNTERS[i], text, sizeof(text));
			now[i] = atol(text);
			printf("%s%c", text, i + 1 < COUNTER_COUNT ? ' ' : '\n');
		}
		fflush(stdout);
		if (memcmp(now + AT_REST_FROM, last + AT_REST_FROM,
			   (AT_REST_TO - AT_REST_FROM) * sizeof(*now)))
			same_since = now[0];
		memcpy(last, now, sizeof(now));
		if (now[0] - first >= min_scans && now[0] - same_since >= stable)
			return 0;
		if (now[0] - first >= max_scans) {
			printf("the counters still change after %d scans\n", max_scans);
			return 1;
		}
	}
}

/* ---- unmerging ---- */

static void report_memory(void)
{
	write_file("/proc/sys/vm/stat_refresh", "1");
	printf("{");
	report_free();
	printf(",\"vmstat\":");
	report_numbers("/proc/vmstat", "nr_");
	printf("}");
}

/* Nothing else happens in between, and what is printed has its memory before. */
static int unmerge(void)
{
	static char out[1 << 16];

	memset(out, ' ', sizeof(out));
	setvbuf(stdout, out, _IOFBF, sizeof(out));
	sleep(1); /* processes that have ended give back tables and stacks a little later (RCU) */
	printf("[");
	report_memory();
	printf(",");
	report_memory();
	write_run("2");
	printf(",");
	report_memory();
	printf("]\n");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "report")) {
		printf("{");
		report_free();
		report_slabs();
		printf(",");
		report_ksm();
		printf(",\"vmstat\":");
		report_numbers("/proc/vmstat", "");
		printf(",");
		report_processes();
		printf("}\n");
		return 0;
	}
	if (argc == 5 && !strcmp(argv[1], "settle"))
		return settle(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
	if (argc == 3 && !strcmp(argv[1], "scan")) {
		for (int i = 0; i < atoi(argv[2]); i++)
			one_scan();
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "unmerge"))
		return unmerge();
	fprintf(stderr, "usage: probe report | probe settle MIN STABLE MAX | probe scan COUNT | "
			"probe unmerge\n");
	return 2;
}
