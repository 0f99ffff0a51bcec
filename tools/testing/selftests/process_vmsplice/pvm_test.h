/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of process_vmsplice() share: the call, patterns, a target that takes
 * commands, a caller that can be seen blocked. No test waits for time to pass: one that
 * wants to see a thread blocked waits until /proc says that it sleeps.
 */
#ifndef PVM_TEST_H
#define PVM_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pvm_host.h"

#ifndef __NR_process_vmsplice
#ifdef __alpha__
#define __NR_process_vmsplice 583
#elif defined(__mips__) && _MIPS_SIM == _MIPS_SIM_ABI32
#define __NR_process_vmsplice (4000 + 473)
#elif defined(__mips__) && _MIPS_SIM == _MIPS_SIM_ABI64
#define __NR_process_vmsplice (5000 + 473)
#elif defined(__mips__)
#define __NR_process_vmsplice (6000 + 473)
#elif defined(__x86_64__) && defined(__ILP32__)
#define __NR_process_vmsplice (0x40000000 + 473)
#else
#define __NR_process_vmsplice 473
#endif
#endif

#ifndef PROCESS_VMSPLICE_PIDFD
#define PROCESS_VMSPLICE_PIDFD 0x10000U
#endif

#ifndef O_NOTIFICATION_PIPE
#define O_NOTIFICATION_PIPE O_EXCL
#endif

/* Under TCG with a debug kernel, the harness's 30 s are few. */
#define TIMEOUT 240

#define NR_PAGES 320
#define NOBODY 65534
/* No process has it: above the limit of pids. */
#define NO_PID 0x7ffffff0
/* In the last 64 KiB, arm has what a program may read. */
#define BAD_PTR ((void *)(-2UL << 16))

static size_t page_size;

static inline ssize_t process_vmsplice(pid_t pid, int fd, const struct iovec *iov,
				       unsigned long nr_segs, unsigned int flags)
{
	return syscall(__NR_process_vmsplice, pid, fd, iov, nr_segs, flags);
}

/* The result, or -errno: one value to compare. */
static inline ssize_t pvm(pid_t pid, int fd, const struct iovec *iov,
			  unsigned long nr_segs, unsigned int flags)
{
	ssize_t ret;

	errno = 0;
	ret = process_vmsplice(pid, fd, iov, nr_segs, flags);
	return ret < 0 ? -errno : ret;
}

static inline unsigned char pattern(size_t i, unsigned char seed)
{
	return (i ^ (i >> 8) * 7 ^ (i >> 16) * 13) + seed;
}

static inline void set_pattern(unsigned char *mem, size_t from, size_t to,
			       unsigned char seed)
{
	for (size_t i = from; i < to; i++)
		mem[i] = pattern(i, seed);
}

/* The first of the bytes from..from+len that is not as in buf, or len. */
static inline size_t differs(const unsigned char *buf, size_t from, size_t len,
			     unsigned char seed)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i] != pattern(from + i, seed))
			return i;
	return len;
}

/* Just len bytes; fewer only at the end of the file or if there is nothing now. */
static inline ssize_t read_all(int fd, void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = read(fd, (char *)buf + done, len - done);

		if (n <= 0)
			break;
		done += n;
	}
	return done;
}

static inline int in_pipe(int fd)
{
	int n;

	return ioctl(fd, FIONREAD, &n) ? -1 : n;
}

/*
 * The child. A command is a letter and a range of the region:
 *   f  fill it with the pattern of seed 0
 *   w  write the pattern of seed 1
 *   r  read it
 *   u  unmap it
 *   n  make it PROT_NONE, o  PROT_WRITE alone
 *   c  fork a child that shares all memory, copy-on-write, until the end;
 *      the answer is its pid
 *   h  make a huge page of it, if the kernel does
 *   z  exit, leaving a zombie
 */
struct command {
	char what;
	size_t from, to;
};

/* With nothing of it but its memory: no end of a pipe or of a socket. */
static inline void live_as_long_as(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int fd = 0; fd < 64; fd++)
		close(fd);
	/* It may have died before the signal was asked for. */
	while (getppid() == parent)
		pause();
	_exit(0);
}

static inline int do_command(unsigned char *mem, const struct command *cmd)
{
	unsigned char *start = mem + cmd->from;
	size_t len = cmd->to - cmd->from;
	volatile unsigned char sink;
	pid_t target, child;

	switch (cmd->what) {
	case 'f':
		set_pattern(mem, cmd->from, cmd->to, 0);
		break;
	case 'w':
		set_pattern(mem, cmd->from, cmd->to, 1);
		break;
	case 'r':
		for (size_t i = 0; i < len; i += page_size)
			sink = start[i];
		(void)sink;
		break;
	case 'u':
		munmap(start, len);
		break;
	case 'n':
		mprotect(start, len, PROT_NONE);
		break;
	case 'o':
		mprotect(start, len, PROT_WRITE);
		break;
	case 'h':
		madvise(start, len, MADV_HUGEPAGE);
		break;
	case 'c':
		target = getpid();
		child = fork();
		if (!child)
			live_as_long_as(target);
		return child;
	default:
		_exit(0);
	}
	return 0;
}

/* Under Yama, callers that are no ancestors would not be allowed to. */
static inline void let_all_call(void)
{
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
}

static inline void target_main(unsigned char *mem, int ctl)
{
	struct command cmd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	let_all_call();
	while (read(ctl, &cmd, sizeof(cmd)) == sizeof(cmd)) {
		int answer = do_command(mem, &cmd);

		if (write(ctl, &answer, sizeof(answer)) != sizeof(answer))
			break;
	}
	_exit(0);
}

/* The child inherits the region, untouched: what it writes there is its own. */
static inline pid_t start_target(unsigned char *mem, int *ctl)
{
	int sv[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return -1;
	pid = fork();
	if (!pid) {
		close(sv[0]);
		target_main(mem, sv[1]);
	}
	close(sv[1]);
	*ctl = sv[0];
	return pid;
}

/* The answer to a command, or -1 if the child did not live to give it. */
static inline int ask(int ctl, char what, size_t from, size_t to)
{
	struct command cmd = { what, from, to };
	int answer;

	if (write(ctl, &cmd, sizeof(cmd)) != sizeof(cmd) ||
	    read(ctl, &answer, sizeof(answer)) != sizeof(answer))
		return -1;
	return answer;
}

static inline bool command(int ctl, char what, size_t from, size_t to)
{
	return ask(ctl, what, from, to) >= 0;
}

/* A thread that makes one call. */
struct caller {
	pthread_t thread;
	pid_t pid;
	int fd;
	const struct iovec *iov;
	unsigned long nr_segs;
	pid_t tid;
	bool returned;
	ssize_t ret;
};

static inline void *caller_main(void *arg)
{
	struct caller *c = arg;

	/* After this store, the thread sleeps only in the call. */
	__atomic_store_n(&c->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	c->ret = pvm(c->pid, c->fd, c->iov, c->nr_segs, 0);
	__atomic_store_n(&c->returned, true, __ATOMIC_RELEASE);
	return NULL;
}

/* The state of a thread, as the letter in /proc. */
static inline char thread_state(pid_t tid)
{
	char path[64], buf[512], *paren;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return 'X';
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return 'X';
	buf[n] = 0;
	paren = strrchr(buf, ')');
	return paren ? paren[2] : 'X';
}

/*
 * Until the thread is in one of the states, or can't get there any more: it is a zombie,
 * or gone, in which case the answer is Z or X.
 */
static inline char wait_for_states(pid_t tid, const char *states)
{
	char state;

	while (state = thread_state(tid), !strchr(states, state)) {
		if (state == 'Z' || state == 'X')
			break;
		sched_yield();
	}
	return state;
}

/* There is nothing to be tested any more. What has been changed, the supervisor undoes. */
#define give_up(format, ...) do {					\
	fprintf(TH_LOG_STREAM, "# " format "\n", ##__VA_ARGS__);	\
	fflush(TH_LOG_STREAM);						\
	_exit(KSFT_FAIL);						\
} while (0)

static inline void wait_for_state(pid_t tid, char state)
{
	const char states[] = { state, 0 };
	char is = wait_for_states(tid, states);

	if (is != state)
		give_up("waiting for state %c of %d, which has ended: %c", state, tid, is);
}

/* Until the thread of the call sleeps in it. */
static inline void wait_until_blocked(struct caller *c)
{
	while (!__atomic_load_n(&c->tid, __ATOMIC_ACQUIRE))
		sched_yield();
	while (thread_state(c->tid) != 'S') {
		if (__atomic_load_n(&c->returned, __ATOMIC_ACQUIRE))
			give_up("the call has not waited, but returned %zd", c->ret);
		sched_yield();
	}
}

/* Start the call, and return when it is blocked. */
static inline void caller_start_blocked(struct caller *c)
{
	c->tid = 0;
	c->returned = false;
	if (pthread_create(&c->thread, NULL, caller_main, c))
		give_up("no thread for the call");
	wait_until_blocked(c);
}

static inline ssize_t caller_join(struct caller *c)
{
	pthread_join(c->thread, NULL);
	return c->ret;
}

static inline void ignore_signal(int sig)
{
}

static inline void handle_signal(int sig, int flags)
{
	struct sigaction sa = { .sa_handler = ignore_signal, .sa_flags = flags };

	sigaction(sig, &sa, NULL);
}

/* How many pages a pipe takes. */
static inline int pipe_slots(int fd)
{
	return fcntl(fd, F_GETPIPE_SZ) / page_size;
}

static inline int fill_pipe(int fd)
{
	char *page = calloc(1, page_size);
	int slots = pipe_slots(fd), ret = 0;

	for (int i = 0; i < slots; i++)
		if (write(fd, page, page_size) != (ssize_t)page_size)
			ret = -1;
	free(page);
	return ret;
}

static inline bool drain(int fd, size_t len)
{
	char *buf = malloc(len);
	bool ok = read_all(fd, buf, len) == (ssize_t)len;

	free(buf);
	return ok;
}

/* A file of the size of the region, with the pattern. */
static inline int pattern_file(int fd)
{
	size_t size = NR_PAGES * page_size;
	unsigned char *p;

	if (fd < 0 || ftruncate(fd, size))
		return -1;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -1;
	set_pattern(p, 0, size, 0);
	munmap(p, size);
	return fd;
}

/* Larger ones, 512 MiB where a page has 64 KiB, are more than a test should take. */
#define MAX_HUGE_PAGE (32UL << 20)

/* The size of the huge pages that MADV_HUGEPAGE makes, or 0. */
static inline size_t thp_size(void)
{
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "r");
	size_t size = 0;

	if (!f)
		return 0;
	if (fscanf(f, "%zu", &size) != 1)
		size = 0;
	fclose(f);
	return size <= MAX_HUGE_PAGE ? size : 0;
}

/* The size of the pages that MAP_HUGETLB takes, or 0. */
static inline size_t hugetlb_size(void)
{
	size_t kb = read_number("/proc/meminfo", "Hugepagesize");

	return kb <= MAX_HUGE_PAGE >> 10 ? kb << 10 : 0;
}

/* Does the process have a huge page at addr? */
static inline bool has_huge_page(pid_t pid, void *addr)
{
	char path[64], line[256];
	bool in_range = false, found = false;
	unsigned long start, end, kb;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	f = fopen(path, "r");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			in_range = start <= (unsigned long)addr &&
				   (unsigned long)addr < end;
		else if (in_range &&
			 sscanf(line, "AnonHugePages: %lu kB", &kb) == 1)
			found = kb > 0;
	}
	fclose(f);
	return found;
}

/* Caches that have aliases take shared memory only at some addresses. */
static inline bool may_not_be_shared_there(int error)
{
	return error == EINVAL && page_size < (size_t)SHMLBA;
}

/* Is the number in a file that has a list like 0-1,4? */
static inline bool list_has(const char *path, int number)
{
	char line[512] = "", *at = line;
	FILE *f = fopen(path, "r");
	bool found = false;

	if (!f)
		return false;
	if (!fgets(line, sizeof(line), f))
		line[0] = 0;
	fclose(f);
	for (char *end; *at && !found; at = *end ? end + 1 : end) {
		long from = strtol(at, &end, 10), to = from;

		/* An empty list. */
		if (end == at)
			break;
		if (*end == '-')
			to = strtol(end + 1, &end, 10);
		found = from <= number && number <= to;
	}
	return found;
}

#ifndef MPOL_F_MEMS_ALLOWED
#define MPOL_F_MEMS_ALLOWED 4
#endif

/* Two with memory that our cpuset allows: nodes 0 and 1. */
static inline bool has_two_nodes(void)
{
	unsigned long allowed[1024 / 8 / sizeof(long)] = {};

	if (syscall(SYS_get_mempolicy, NULL, allowed, 1024, NULL, MPOL_F_MEMS_ALLOWED))
		return false;
	return (allowed[0] & 3) == 3 &&
	       list_has("/sys/devices/system/node/has_memory", 0) &&
	       list_has("/sys/devices/system/node/has_memory", 1);
}

#ifndef MPOL_MF_MOVE
#define MPOL_MF_MOVE 2
/* Those that other processes map as well. */
#define MPOL_MF_MOVE_ALL 4
#endif

/*
 * To the other node: only a page that nobody holds can go there. One that is about
 * to enter the LRU lists can't, so not always at the first try.
 */
static inline bool can_move(pid_t pid, void *page)
{
	int was, is, wanted;

	if (syscall(SYS_move_pages, pid, 1, &page, NULL, &was, 0) || was < 0)
		return false;
	wanted = !was;
	for (int i = 0; i < 20; i++)
		if (!syscall(SYS_move_pages, pid, 1, &page, &wanted, &is,
			     MPOL_MF_MOVE_ALL) && is == wanted)
			return true;
	return false;
}

/*
 * What the fixtures have in common: a target with a region of memory, at the
 * same address in the test, where it is not used; a buffer of that size, and a pipe.
 * The target dies with the test.
 */
#define TARGET_MEMBERS							\
	unsigned char *mem, *buf;					\
	size_t size;							\
	pid_t pid;							\
	int ctl, rd, wr, slots

#define START_TARGET() do {						\
	int p[2];							\
									\
	self->buf = malloc(self->size);					\
	ASSERT_FALSE(!self->buf);						\
	self->pid = start_target(self->mem, &self->ctl);		\
	ASSERT_LT(0, self->pid);					\
	/* After the fork: the target must not keep an end open. */	\
	ASSERT_EQ(0, pipe(p));						\
	self->rd = p[0];						\
	self->wr = p[1];						\
	self->slots = pipe_slots(self->wr);				\
	ASSERT_LT(1, self->slots);					\
} while (0)

/* The bytes of the pipe are just those of the region that start at from. */
#define EXPECT_PIPE(from, len, seed) do {					\
	ASSERT_EQ((int)(len), in_pipe(self->rd));				\
	ASSERT_EQ((ssize_t)(len), read_all(self->rd, self->buf, len));		\
	EXPECT_EQ((size_t)(len), differs(self->buf, from, len, seed));		\
} while (0)

static void __attribute__((constructor)) first_of_all(void)
{
	page_size = sysconf(_SC_PAGESIZE);
	if (process_vmsplice(0, -1, NULL, 0, 0) && errno == ENOSYS) {
		ksft_print_header();
		ksft_exit_skip("no process_vmsplice() in this kernel\n");
	}
}

#endif
