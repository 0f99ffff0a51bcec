// SPDX-License-Identifier: GPL-2.0
/*
 * keeper - a process that knows what its memory has to be
 *
 * It has memory of several kinds, writes to it all the time, and keeps a sum of each
 * page in other memory. Asked by a signal, it compares, so that a dump and restore
 * which lost, mixed up or tore a page is found out by the very process. A child has
 * some of its memory in common with it, until one of them writes.
 *
 *	keeper MIB [churn|quiet|prefork|huge|hugetlb|reserve|vast]
 *
 * SIGUSR1: compare all pages and print "ok" or "bad" and how many.
 * SIGUSR2: stop writing, or go on. SIGHUP: exec the program anew. churn also maps, unmaps
 * and protects memory; reserve and vast have address space reserved, as runtimes of
 * languages do, vast more pages than a number of 32 bits can count. prefork, huge and hugetlb
 * are quiet, and have most memory in common with the child, in huge pages, or in hugetlbfs.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE	4096UL
#define WORDS	(PAGE / sizeof(uint64_t))
#define RESERVED	(4UL << 40)
#define VAST		(20UL << 40)

struct region {
	const char *name;
	size_t pages;
	int prot;		/* between the accesses */
	uint64_t *mem;
	uint64_t *sums;
	bool there;		/* is mapped at present */
};

/* The child has the first. */
enum { BEFORE_FORK, ANON, HUGE, FILE_PRIVATE, HIDDEN, CHURNED, NR_REGIONS };

static struct region regions[NR_REGIONS] = {
	[BEFORE_FORK]	= { .name = "shared with a child", .pages = 512 },
	[ANON]		= { .name = "anonymous" },
	[HUGE]		= { .name = "huge", .pages = 2048 },
	[FILE_PRIVATE]	= { .name = "private file", .pages = 512 },
	[HIDDEN]	= { .name = "no access", .pages = 300 },
	[CHURNED]	= { .name = "churned", .pages = 1024 },
};

/* Of the mapping HUGE. */
static int huge_flags;
static volatile sig_atomic_t asked, paused, renewed;

static void on_signal(int sig)
{
	if (sig == SIGUSR1)
		asked = 1;
	else if (sig == SIGUSR2)
		paused = !paused;
	else
		renewed = 1;
}

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t sum(const uint64_t *page)
{
	uint64_t s = 14695981039346656037ULL;

	for (size_t i = 0; i < WORDS; i++)
		s = (s ^ page[i]) * 1099511628211ULL;
	return s;
}

static void access_as(struct region *r, int prot)
{
	if (mprotect(r->mem, r->pages * PAGE, prot))
		err(1, "mprotect %s", r->name);
}

/* A few words are enough to tell a page from its former self. */
static void change_page(struct region *r, size_t n, uint64_t *state)
{
	uint64_t *page = r->mem + n * WORDS;

	for (int i = 0; i < 8; i++)
		page[next(state) % WORDS] = next(state);
	r->sums[n] = sum(page);
}

static void fill(struct region *r, uint64_t *state)
{
	for (size_t n = 0; n < r->pages; n++) {
		uint64_t *page = r->mem + n * WORDS;

		for (size_t i = 0; i < WORDS; i++)
			page[i] = next(state);
		r->sums[n] = sum(page);
	}
}

static void *map(size_t pages, int flags, int fd)
{
	void *mem;

	mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | flags, fd, 0);
	if (mem == MAP_FAILED)
		err(1, "mmap");
	return mem;
}

static int scratch_file(size_t pages)
{
	char path[] = "keeper.XXXXXX";
	uint64_t state = 99, page[WORDS];
	int fd;

	fd = mkstemp(path);
	if (fd < 0)
		err(1, "mkstemp");
	for (size_t n = 0; n < pages; n++) {
		for (size_t i = 0; i < WORDS; i++)
			page[i] = next(&state);
		if (write(fd, page, PAGE) != PAGE)
			err(1, "write");
	}
	return fd;
}

static void set_up(struct region *r, uint64_t *state)
{
	int fd;

	r->there = true;
	r->prot = PROT_READ | PROT_WRITE;
	r->sums = map((r->pages * sizeof(uint64_t) + PAGE - 1) / PAGE,
		      MAP_ANONYMOUS, -1);
	if (r != &regions[FILE_PRIVATE]) {
		r->mem = map(r->pages, MAP_ANONYMOUS |
			     (r == &regions[HUGE] ? huge_flags : 0), -1);
		if (r == &regions[HUGE])
			madvise(r->mem, r->pages * PAGE, MADV_HUGEPAGE);
		fill(r, state);
		return;
	}
	fd = scratch_file(r->pages);
	r->mem = map(r->pages, 0, fd);
	close(fd);
	for (size_t n = 0; n < r->pages; n++)
		r->sums[n] = sum(r->mem + n * WORDS);
	for (size_t n = 0; n < r->pages; n += 3)
		change_page(r, n, state);
}

static size_t compare(struct region *r)
{
	size_t bad = 0;

	if (!r->there)
		return 0;
	if (r->prot != (PROT_READ | PROT_WRITE))
		access_as(r, PROT_READ);
	for (size_t n = 0; n < r->pages; n++) {
		if (sum(r->mem + n * WORDS) == r->sums[n])
			continue;
		if (!bad++)
			printf("bad page: %zu of %s, at %p\n", n, r->name,
			       r->mem + n * WORDS);
	}
	if (r->prot != (PROT_READ | PROT_WRITE))
		access_as(r, r->prot);
	return bad;
}

static void report(const char *who)
{
	size_t bad = 0, pages = 0;

	for (int i = 0; i < NR_REGIONS; i++) {
		bad += compare(&regions[i]);
		pages += regions[i].there ? regions[i].pages : 0;
	}
	printf("%s: %s %zu of %zu pages\n", who, bad ? "bad" : "ok",
	       bad ? bad : pages, pages);
	fflush(stdout);
}

/* Takes memory away and gives it back, and the right to read it. */
static void churn(struct region *r, uint64_t *state)
{
	size_t len = r->pages * PAGE;

	switch (next(state) % 8) {
	case 0:
		access_as(r, PROT_NONE);
		usleep(next(state) % 20000);
		access_as(r, PROT_READ | PROT_WRITE);
		break;
	case 1:
		if (munmap(r->mem, len))
			err(1, "munmap");
		r->there = false;
		usleep(next(state) % 20000);
		if (mmap(r->mem, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != r->mem)
			err(1, "mmap again");
		fill(r, state);
		r->there = true;
		break;
	case 2:
		if (madvise(r->mem, len / 2, MADV_DONTNEED))
			err(1, "madvise");
		for (size_t n = 0; n < r->pages / 2; n++)
			change_page(r, n, state);
		break;
	default:
		change_page(r, next(state) % r->pages, state);
	}
}

static void work(bool churning, uint64_t *state)
{
	static const int written[] = { ANON, HUGE, FILE_PRIVATE, BEFORE_FORK };
	struct region *r = &regions[written[next(state) % 4]];

	change_page(r, next(state) % r->pages, state);
	if (churning && next(state) % 64 == 0)
		churn(&regions[CHURNED], state);
}

static void loop(const char *who, bool writing, bool churning, uint64_t *state)
{
	while (!renewed) {
		if (asked) {
			asked = 0;
			report(who);
		}
		if (!writing || paused) {
			usleep(1000);
			continue;
		}
		for (int i = 0; i < 16; i++)
			work(churning, state);
		usleep(100);
	}
}

static void reserve(size_t size)
{
	if (mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		 -1, 0) == MAP_FAILED)
		err(1, "reserve");
}

/* Which region has the memory that the arguments ask for; is the task to be quiet? */
static bool arrange(const char *how)
{
	int large = ANON;

	if (!strcmp(how, "prefork"))
		large = BEFORE_FORK;
	if (!strcmp(how, "huge") || !strcmp(how, "hugetlb"))
		large = HUGE;
	if (!strcmp(how, "hugetlb"))
		huge_flags = MAP_HUGETLB;
	if (large != ANON) {
		regions[large].pages = regions[ANON].pages;
		regions[ANON].pages = 256;
	}
	return large != ANON || !strcmp(how, "quiet");
}

int main(int argc, char **argv)
{
	const char *how = argc > 2 ? argv[2] : "";
	struct sigaction sa = { .sa_handler = on_signal };
	uint64_t state = 88172645463325252ULL;
	bool quiet;
	pid_t child;

	if (argc < 2 || !(regions[ANON].pages = strtoul(argv[1], NULL, 0) << 8))
		errx(2, "usage: keeper MIB [churn|quiet|prefork|huge|hugetlb|reserve|vast]");
	sigaction(SIGUSR1, &sa, NULL);
	sigaction(SIGUSR2, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	quiet = arrange(how);

	/* What they have in common, both change later, each its own. */
	set_up(&regions[BEFORE_FORK], &state);
	child = fork();
	if (child < 0)
		err(1, "fork");
	if (!child) {
		state ^= 0x5555;
		for (size_t n = 0; n < 512; n += 2)
			change_page(&regions[BEFORE_FORK], n, &state);
		loop("child", false, false, &state);
	}

	for (int i = ANON; i < NR_REGIONS; i++)
		set_up(&regions[i], &state);
	regions[HIDDEN].prot = PROT_NONE;
	access_as(&regions[HIDDEN], PROT_NONE);
	if (!strcmp(how, "reserve"))
		reserve(RESERVED);
	if (!strcmp(how, "vast"))
		reserve(VAST);
	printf("ready: parent %d, child %d\n", getpid(), child);
	fflush(stdout);
	loop("parent", !quiet, !strcmp(how, "churn"), &state);
	execv("/proc/self/exe", argv);
	err(1, "exec");
}
