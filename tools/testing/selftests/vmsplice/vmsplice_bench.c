// SPDX-License-Identifier: GPL-2.0
/*
 * What a page costs on its way from memory through a pipe to /dev/null, by the
 * kind of memory. Run it in a guest whose clock counts instructions, such as
 * that of QEMU with -icount shift=0: a nanosecond is an instruction there.
 */
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SIZE	(16UL << 20)
#define HUGE	(2UL << 20)
#define PIPE	(1024UL << 10)
#define RUNS	5

static size_t page_size;
static int p[2], null;

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void *map(int prot, int flags, int fd)
{
	char *mem = mmap(NULL, SIZE, prot, flags, fd, 0);

	if (mem == MAP_FAILED)
		err(1, "mmap");
	return mem;
}

static char *anon(bool huge)
{
	int prot = PROT_READ | PROT_WRITE;
	char *mem = map(prot, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	/* More than is used, for an aligned part of it. */
	if (huge) {
		munmap(mem, SIZE);
		mem = mmap(NULL, SIZE + HUGE, prot,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (mem == MAP_FAILED)
			err(1, "mmap");
		mem += -(uintptr_t)mem & (HUGE - 1);
	}
	if (madvise(mem, SIZE, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		err(1, "madvise");
	return mem;
}

static char *touched(char *mem)
{
	for (size_t i = 0; i < SIZE; i += page_size)
		mem[i] = 1;
	return mem;
}

static char *make_anon(void)
{
	return touched(anon(false));
}

static char *make_huge(void)
{
	return touched(anon(true));
}

static char *make_untouched(void)
{
	return anon(false);
}

/* Shared with a child, copy-on-write. */
static char *make_forked(void)
{
	char *mem = make_anon();
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return mem;
}

static char *make_shmem(void)
{
	return touched(map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			   -1));
}

static int open_file(unsigned int flags)
{
	int fd = memfd_create("vmsplice_bench", flags);

	if (fd < 0 || ftruncate(fd, SIZE))
		err(1, "memfd_create");
	return fd;
}

static char *make_file(void)
{
	int fd = open_file(0);
	char *mem = touched(map(PROT_READ | PROT_WRITE, MAP_SHARED, fd));

	munmap(mem, SIZE);
	mem = map(PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd);
	close(fd);
	return mem;
}

static char *make_hugetlb(void)
{
	int fd = open_file(MFD_HUGETLB);
	char *mem = touched(map(PROT_READ | PROT_WRITE, MAP_SHARED, fd));

	close(fd);
	return mem;
}

static const struct {
	const char *name;
	char *(*make)(void);
	size_t at_once;		/* bytes a call; 0: a page */
} kinds[] = {
	{ "anonymous", make_anon, PIPE },
	{ "anonymous, a page a call", make_anon, 0 },
	{ "anonymous, huge pages", make_huge, PIPE },
	{ "anonymous, never touched", make_untouched, PIPE },
	{ "anonymous, shared by fork", make_forked, PIPE },
	{ "file, private mapping", make_file, PIPE },
	{ "shared memory", make_shmem, PIPE },
	{ "hugetlb", make_hugetlb, PIPE },
};

/* The bytes that calls move in one go; so many calls are made. */
static unsigned long move_all(char *mem, size_t at_once)
{
	unsigned long calls = 0;

	for (size_t done = 0; done < SIZE; calls++) {
		struct iovec iov = { mem + done, at_once };
		ssize_t n = vmsplice(p[1], &iov, 1, 0);

		if (n <= 0)
			err(1, "vmsplice");
		done += n;
		while (n > 0) {
			ssize_t m = splice(p[0], NULL, null, NULL, n, 0);

			if (m <= 0)
				err(1, "splice");
			n -= m;
		}
	}
	return calls;
}

static void measure(unsigned int i)
{
	size_t at_once = kinds[i].at_once ?: page_size;
	unsigned long best = -1UL, calls = 0;

	for (int run = 0; run < RUNS; run++) {
		char *mem = kinds[i].make();
		uint64_t start = now(), took;

		calls = move_all(mem, at_once);
		took = now() - start;
		if (took / (SIZE / page_size) < best)
			best = took / (SIZE / page_size);
		munmap(mem, SIZE);
	}
	printf("| %s | %lu | %lu |\n", kinds[i].name, best, calls);
	fflush(stdout);
}

int main(void)
{
	page_size = sysconf(_SC_PAGESIZE);
	null = open("/dev/null", O_WRONLY);
	if (null < 0 || pipe(p) || fcntl(p[1], F_SETPIPE_SZ, PIPE) < 0)
		err(1, "a pipe of %lu bytes", PIPE);
	printf("| memory | ns a page | calls |\n| --- | --: | --: |\n");
	for (unsigned int i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		measure(i);
	return 0;
}
