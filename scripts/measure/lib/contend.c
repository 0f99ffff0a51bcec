// SPDX-License-Identifier: GPL-2.0
/*
 * contend SECONDS - how many turns does a writer get at a full pipe, beside others?
 *
 * A turn is a page, placed by process_vmsplice() (of another process), by vmsplice() (its own)
 * or by write(); the others write() a page at a time; one reader takes what there is, 64 KiB
 * at most. All wait when they have to. Lines of
 *
 *	turns,METHOD,OTHERS,TURNS A SECOND,OTHERS' TURNS A SECOND FOR EACH,LONGEST TURN IN ms
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef __NR_process_vmsplice
#define __NR_process_vmsplice 473
#endif

#define PAGE 4096
#define MAX_OTHERS 3

enum method { CALL, OWN, WRITE, NR_METHODS };

static const char *const names[NR_METHODS] = { "process_vmsplice", "vmsplice", "write" };

/* What the processes share: how often the others had their turn. */
static unsigned long *others_turns;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

static void *map(size_t len, int flags)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

/* Returns in the child only. */
static bool start(pid_t *pid)
{
	*pid = fork();
	if (*pid < 0)
		err(1, "fork");
	if (!*pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return !*pid;
}

static void be_reader(int fd)
{
	static char data[16 * PAGE];

	while (read(fd, data, sizeof(data)) > 0)
		;
	_exit(1);
}

static void be_writer(int fd, unsigned long *turns)
{
	static char data[PAGE];

	while (write(fd, data, PAGE) == PAGE)
		++*turns;
	_exit(1);
}

/* A page that is there, and the same at the same address in the parent, who does not use it. */
static void be_target(char *page)
{
	memset(page, 1, PAGE);
	for (;;)
		pause();
}

static void take_turn(enum method method, pid_t target, int fd, char *page)
{
	struct iovec iov = { page, PAGE };
	ssize_t n;

	if (method == CALL)
		n = syscall(__NR_process_vmsplice, target, fd, &iov, 1, 0);
	else if (method == OWN)
		n = vmsplice(fd, &iov, 1, 0);
	else
		n = write(fd, page, PAGE);
	if (n != PAGE)
		err(1, "%s: %zd", names[method], n);
}

static void measure(enum method method, int others, double seconds)
{
	char *page = map(PAGE, MAP_PRIVATE), *own = map(PAGE, MAP_PRIVATE);
	double from, at, begin, longest = 0;
	unsigned long turns = 0, sum = 0;
	pid_t pids[MAX_OTHERS + 2];
	int fds[2], nr = 0;

	memset(others_turns, 0, PAGE);
	memset(own, 1, PAGE);
	if (pipe(fds))
		err(1, "pipe");
	if (start(&pids[nr++]))
		be_target(page);
	if (start(&pids[nr++]))
		be_reader(fds[0]);
	for (int i = 0; i < others; i++)
		if (start(&pids[nr++]))
			be_writer(fds[1], &others_turns[i * 64]);
	/* Until all are at work; and until the target has its page. */
	usleep(200000);
	for (int i = 0; i < others; i++)
		sum -= others_turns[i * 64];
	begin = now();
	for (at = begin; at - begin < seconds; turns++) {
		from = at;
		take_turn(method, pids[0], fds[1], method == CALL ? page : own);
		at = now();
		if (at - from > longest)
			longest = at - from;
	}
	for (int i = 0; i < others; i++)
		sum += others_turns[i * 64];
	printf("turns,%s,%d,%.0f,%.0f,%.1f\n", names[method], others, turns / (at - begin),
	       others ? sum / (at - begin) / others : 0, longest * 1e3);
	fflush(stdout);
	for (int i = 0; i < nr; i++)
		kill(pids[i], SIGKILL);
	while (wait(NULL) > 0)
		;
	close(fds[0]);
	close(fds[1]);
	munmap(page, PAGE);
	munmap(own, PAGE);
}

int main(int argc, char **argv)
{
	double seconds = argc == 2 ? atof(argv[1]) : 0;

	if (seconds <= 0)
		errx(2, "usage: contend SECONDS");
	others_turns = map(PAGE, MAP_SHARED);
	for (int round = 0; round < 3; round++)
		for (int others = 0; others <= MAX_OTHERS; others += others ? 2 : 1)
			for (enum method method = 0; method < NR_METHODS; method++)
				measure(method, others, seconds);
}
