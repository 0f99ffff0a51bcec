// SPDX-License-Identifier: GPL-2.0
/*
 * vmsplice() to a pipe: what is shared and what is copied; what programs have
 * always been able to rely on; and that a fault keeps nobody from the pipe.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/memfd.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kselftest_harness.h"

#define SLOTS	16		/* of a pipe, unless somebody asks for more */
#define HUGE	(2UL << 20)

static size_t page_size;

/* The result, or -errno: one value to compare. */
static ssize_t vms(int fd, void *mem, size_t len, unsigned int flags)
{
	struct iovec iov = { mem, len };
	ssize_t ret = vmsplice(fd, &iov, 1, flags);

	return ret < 0 ? -errno : ret;
}

static int in_pipe(int fd)
{
	int n = -1;

	ioctl(fd, FIONREAD, &n);
	return n;
}

/* Unlike FIONREAD, poll() does not wait for pipe->mutex. */
static bool is_readable(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, 0) == 1;
}

static unsigned char *map(size_t len, int prot, int flags, int fd)
{
	void *mem = mmap(NULL, len, prot, flags, fd, 0);

	return mem == MAP_FAILED ? NULL : mem;
}

static unsigned char *map_anon(size_t len)
{
	return map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		   -1);
}

static void set_pattern(unsigned char *mem, size_t len)
{
	for (size_t i = 0; i < len; i++)
		mem[i] = i ^ i >> 8 ^ i >> 16;
}

/* Is what the pipe has next @len bytes of the pattern, from byte @from on? */
static bool reads_pattern(int fd, size_t from, size_t len)
{
	unsigned char buf[4096];
	size_t done = 0;

	while (done < len) {
		size_t left = len - done;
		ssize_t n = read(fd, buf,
				 left < sizeof(buf) ? left : sizeof(buf));

		if (n <= 0)
			return false;
		for (ssize_t j = 0; j < n; j++, done++) {
			size_t i = from + done;

			if (buf[j] != (unsigned char)(i ^ i >> 8 ^ i >> 16))
				return false;
		}
	}
	return true;
}

/* A thread that makes one call: vmsplice(), or read(), or splice() to @to. */
struct caller {
	pthread_t thread;
	pid_t tid;
	enum { VMSPLICE, READ, SPLICE } call;
	int fd, to;
	void *mem;
	size_t len;
	ssize_t ret;
};

static void *caller_main(void *arg)
{
	struct caller *c = arg;

	__atomic_store_n(&c->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	if (c->call == VMSPLICE)
		c->ret = vms(c->fd, c->mem, c->len, 0);
	else if (c->call == READ)
		c->ret = read(c->fd, c->mem, c->len);
	else
		c->ret = splice(c->fd, NULL, c->to, NULL, c->len, 0);
	return NULL;
}

static bool start_caller(struct caller *c)
{
	return !pthread_create(&c->thread, NULL, caller_main, c);
}

static bool start(struct caller *c, int fd, void *mem, size_t len)
{
	*c = (struct caller) { .fd = fd, .mem = mem, .len = len };
	return start_caller(c);
}

static ssize_t finish(struct caller *c)
{
	return pthread_join(c->thread, NULL) ? -EINVAL : c->ret;
}

/* Until the thread sleeps where a signal can wake it: in the call only. */
static bool wait_asleep(struct caller *c)
{
	char path[64], state = 0;
	pid_t tid;

	while (!(tid = __atomic_load_n(&c->tid, __ATOMIC_ACQUIRE)))
		sched_yield();
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	while (state != 'S') {
		FILE *f = fopen(path, "r");
		bool ok = f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1;

		if (f)
			fclose(f);
		if (!ok)
			return false;
		sched_yield();
	}
	return true;
}

static void handler(int sig)
{
}

static void catch_signals(void)
{
	struct sigaction sa = { .sa_handler = handler };

	sigaction(SIGUSR1, &sa, NULL);
}

FIXTURE(vmsplice) {
	int p[2];
	unsigned char *mem;	/* what a pipe takes, and a page more */
	size_t full;		/* bytes that a pipe takes */
};

FIXTURE_SETUP(vmsplice)
{
	page_size = sysconf(_SC_PAGESIZE);
	self->full = SLOTS * page_size;
	ASSERT_EQ(pipe(self->p), 0);
	ASSERT_EQ(fcntl(self->p[1], F_GETPIPE_SZ), (int)self->full);
	self->mem = map_anon(self->full + page_size);
	ASSERT_NE(self->mem, NULL);
	set_pattern(self->mem, self->full + page_size);
}

FIXTURE_TEARDOWN(vmsplice)
{
	close(self->p[0]);
	close(self->p[1]);
}

TEST_F(vmsplice, fills_the_pipe_with_one_call)
{
	EXPECT_EQ(vms(self->p[1], self->mem, self->full + page_size, 0),
		  (ssize_t)self->full);
	EXPECT_EQ(vms(self->p[1], self->mem, 1, SPLICE_F_NONBLOCK), -EAGAIN);
	EXPECT_TRUE(reads_pattern(self->p[0], 0, self->full));
	EXPECT_EQ(in_pipe(self->p[0]), 0);
}

TEST_F(vmsplice, fills_it_with_memory_that_nobody_has_touched)
{
	unsigned char *mem = map_anon(self->full), buf[512];

	ASSERT_NE(mem, NULL);
	EXPECT_EQ(vms(self->p[1], mem, self->full, 0), (ssize_t)self->full);
	for (size_t i = 0; i < self->full; i += sizeof(buf)) {
		ASSERT_EQ(read(self->p[0], buf, sizeof(buf)),
			  (ssize_t)sizeof(buf));
		for (size_t j = 0; j < sizeof(buf); j++)
			ASSERT_EQ(buf[j], 0);
	}
}

static bool has_huge_pages(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	char line[128];
	long kb = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "AnonHugePages: %ld", &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb > 0;
}

TEST_F(vmsplice, takes_a_slot_for_each_page_of_a_huge_page)
{
	unsigned char *mem = map_anon(2 * HUGE);

	ASSERT_NE(mem, NULL);
	mem = (void *)(((unsigned long)mem + HUGE - 1) & -HUGE);
	ASSERT_EQ(madvise(mem, HUGE, MADV_HUGEPAGE), 0);
	set_pattern(mem, HUGE);
	if (!has_huge_pages())
		SKIP(return, "no huge page to be had");
	EXPECT_EQ(vms(self->p[1], mem, HUGE, 0), (ssize_t)self->full);
	EXPECT_TRUE(reads_pattern(self->p[0], 0, self->full));
}

/* Ranges that start and end anywhere, some empty; gifts need no alignment. */
TEST_F(vmsplice, takes_ranges_as_they_are)
{
	struct iovec iov[] = {
		{ NULL, 0 },
		{ self->mem + 1, page_size },
		{ self->mem + page_size + 1, 0 },
		{ self->mem + page_size + 1, 1 },
		{ self->mem + page_size + 2, 2 * page_size + 7 },
		{ NULL, 0 },
	};
	size_t len = 3 * page_size + 8;

	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(vmsplice(self->p[1], iov, 6, i ? SPLICE_F_GIFT : 0),
			  (ssize_t)len);
		EXPECT_TRUE(reads_pattern(self->p[0], 1, len));
	}
}

TEST_F(vmsplice, takes_up_to_IOV_MAX_ranges)
{
	struct iovec iov[IOV_MAX + 1] = { };

	iov[IOV_MAX - 1] = (struct iovec) { self->mem, page_size };
	EXPECT_EQ(vmsplice(self->p[1], iov, IOV_MAX, 0), (ssize_t)page_size);
	EXPECT_TRUE(reads_pattern(self->p[0], 0, page_size));
	EXPECT_EQ(vmsplice(self->p[1], iov, IOV_MAX + 1, 0), -1);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_EQ(vmsplice(self->p[1], iov, 1, 0), 0);
	EXPECT_EQ(vmsplice(self->p[1], NULL, 0, 0), 0);
}

TEST_F(vmsplice, refuses_what_is_no_pipe)
{
	int fd = memfd_create("vmsplice", 0);

	ASSERT_GE(fd, 0);
	EXPECT_EQ(vms(fd, self->mem, 1, 0), -EBADF);
	close(fd);
	EXPECT_EQ(vms(fd, self->mem, 1, 0), -EBADF);
	EXPECT_EQ(vms(-1, self->mem, 1, 0), -EBADF);
	EXPECT_EQ(vms(self->p[1], self->mem, 1, 0x80), -EINVAL);
}

TEST_F(vmsplice, stops_at_memory_that_cannot_be_read)
{
	unsigned char *second = self->mem + page_size;

	ASSERT_EQ(mprotect(second, page_size, PROT_NONE), 0);
	EXPECT_EQ(vms(self->p[1], self->mem + 9, self->full, 0),
		  (ssize_t)page_size - 9);
	EXPECT_TRUE(reads_pattern(self->p[0], 9, page_size - 9));
	EXPECT_EQ(vms(self->p[1], second, page_size, 0), -EFAULT);
	ASSERT_EQ(munmap(second, page_size), 0);
	EXPECT_EQ(vms(self->p[1], second, page_size, 0), -EFAULT);
	EXPECT_EQ(vms(self->p[1], (void *)-page_size, 1, 0), -EFAULT);
	EXPECT_EQ(in_pipe(self->p[0]), 0);
}

TEST_F(vmsplice, respects_protection_keys)
{
	int key = pkey_alloc(0, 0);

	if (key < 0)
		SKIP(return, "no protection keys");
	ASSERT_EQ(pkey_mprotect(self->mem, page_size, PROT_READ | PROT_WRITE,
				key), 0);
	EXPECT_EQ(vms(self->p[1], self->mem, 1, 0), 1);
	ASSERT_EQ(pkey_set(key, PKEY_DISABLE_ACCESS), 0);
	EXPECT_EQ(vms(self->p[1], self->mem, 1, 0), -EFAULT);
	ASSERT_EQ(pkey_set(key, 0), 0);
}

TEST_F(vmsplice, fails_without_a_reader)
{
	signal(SIGPIPE, SIG_IGN);
	close(self->p[0]);
	EXPECT_EQ(vms(self->p[1], self->mem, 1, 0), -EPIPE);
}

/* O_NONBLOCK is not asked for: only SPLICE_F_NONBLOCK counts. */
TEST_F(vmsplice, waits_for_the_first_slot_only)
{
	struct caller c;

	ASSERT_EQ(fcntl(self->p[1], F_SETFL, O_NONBLOCK), 0);
	ASSERT_EQ(vms(self->p[1], self->mem, self->full, 0),
		  (ssize_t)self->full);
	ASSERT_TRUE(start(&c, self->p[1], self->mem, 2 * page_size));
	ASSERT_TRUE(wait_asleep(&c));
	EXPECT_TRUE(reads_pattern(self->p[0], 0, page_size));
	EXPECT_EQ(finish(&c), (ssize_t)page_size);
	EXPECT_TRUE(reads_pattern(self->p[0], page_size,
				  self->full - page_size));
	EXPECT_TRUE(reads_pattern(self->p[0], 0, page_size));
}

TEST_F(vmsplice, a_signal_ends_the_wait)
{
	struct caller c;

	catch_signals();
	ASSERT_EQ(vms(self->p[1], self->mem, self->full, 0),
		  (ssize_t)self->full);
	ASSERT_TRUE(start(&c, self->p[1], self->mem, page_size));
	ASSERT_TRUE(wait_asleep(&c));
	pthread_kill(c.thread, SIGUSR1);
	EXPECT_EQ(finish(&c), -EINTR);
	EXPECT_EQ(in_pipe(self->p[0]), (int)self->full);
}

TEST_F(vmsplice, is_read_by_vmsplice)
{
	unsigned char *copy = map_anon(self->full);

	ASSERT_NE(copy, NULL);
	ASSERT_EQ(vms(self->p[1], self->mem, self->full, 0),
		  (ssize_t)self->full);
	EXPECT_EQ(vms(self->p[0], copy, self->full, 0), (ssize_t)self->full);
	EXPECT_EQ(memcmp(copy, self->mem, self->full), 0);
}

/* As splice() and tee() pass them on. */
TEST_F(vmsplice, is_passed_on)
{
	int fd = memfd_create("vmsplice", 0), q[2];
	unsigned char *copy;
	loff_t off = 0;

	ASSERT_GE(fd, 0);
	ASSERT_EQ(pipe(q), 0);
	ASSERT_EQ(vms(self->p[1], self->mem, self->full, 0),
		  (ssize_t)self->full);
	EXPECT_EQ(tee(self->p[0], q[1], self->full, 0), (ssize_t)self->full);
	EXPECT_EQ(splice(self->p[0], NULL, fd, &off, self->full, 0),
		  (ssize_t)self->full);
	EXPECT_TRUE(reads_pattern(q[0], 0, self->full));
	copy = map(self->full, PROT_READ, MAP_PRIVATE, fd);
	ASSERT_NE(copy, NULL);
	EXPECT_EQ(memcmp(copy, self->mem, self->full), 0);
	close(q[0]);
	close(q[1]);
	close(fd);
}

/* The pages of a large pipe, and a reader that wants its mutex often. */
#define MANY		256
#define ROUNDS		200

static void *reader_main(void *arg)
{
	size_t left = ROUNDS * MANY * page_size;
	char buf[1024];
	ssize_t n;

	while (left && (n = read(*(int *)arg, buf, sizeof(buf))) > 0)
		left -= n;
	return (void *)left;
}

/* Neither less, nor what the reader makes room for during the call. */
TEST_F_TIMEOUT(vmsplice, inserts_all_that_there_was_room_for, 120)
{
	ssize_t len = MANY * page_size;
	unsigned char *mem = map_anon(2 * len);
	pthread_t reader;
	void *left;

	ASSERT_NE(mem, NULL);
	set_pattern(mem, 2 * len);
	ASSERT_EQ(fcntl(self->p[1], F_SETPIPE_SZ, len), len);
	ASSERT_EQ(pthread_create(&reader, NULL, reader_main, &self->p[0]), 0);
	for (int i = 0; i < ROUNDS; i++) {
		ASSERT_EQ(vms(self->p[1], mem, 2 * len, 0), len);
		while (in_pipe(self->p[0]) > 0)
			sched_yield();
	}
	pthread_join(reader, &left);
	EXPECT_EQ(left, NULL);
}

/* Memory that others have, too: copies, if there are any, take time. */
static unsigned char *map_shared(size_t len)
{
	unsigned char *mem = map(len, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1);

	if (mem)
		set_pattern(mem, len);
	return mem;
}

/* A reader that waits sees all that one call inserts, or nothing. */
TEST_F(vmsplice, is_seen_as_a_whole)
{
	ssize_t len = MANY * page_size;
	struct caller c = { .call = READ, .fd = self->p[0], .len = len };
	unsigned char *mem = map_shared(len);

	c.mem = map_anon(len);
	ASSERT_NE(mem, NULL);
	ASSERT_NE(c.mem, NULL);
	set_pattern(c.mem, len);
	ASSERT_EQ(fcntl(self->p[1], F_SETPIPE_SZ, len), len);
	ASSERT_TRUE(start_caller(&c));
	ASSERT_TRUE(wait_asleep(&c));
	EXPECT_EQ(vms(self->p[1], mem, len, 0), len);
	EXPECT_EQ(finish(&c), len);
}

/* A read() or write() that must not block still need not, after vmsplice(). */
TEST_F(vmsplice, keeps_RWF_NOWAIT)
{
	struct iovec iov = { self->mem, 1 };

	if (pwritev2(self->p[1], &iov, 1, -1, RWF_NOWAIT) != 1)
		SKIP(return, "pipes don't have RWF_NOWAIT here");
	ASSERT_EQ(vms(self->p[1], self->mem, 1, 0), 1);
	EXPECT_EQ(pwritev2(self->p[1], &iov, 1, -1, RWF_NOWAIT), 1);
}

/* Memory whose second page waits for us. */
static int register_missing(unsigned char *mem)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { (unsigned long)mem, page_size },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) ||
	    madvise(mem, page_size, MADV_DONTNEED) ||
	    ioctl(fd, UFFDIO_REGISTER, &reg))
		return -1;
	return fd;
}

static bool provide(int uffd, unsigned char *mem)
{
	struct uffdio_zeropage zero = {
		.range = { (unsigned long)mem, page_size },
	};

	return !ioctl(uffd, UFFDIO_ZEROPAGE, &zero);
}

TEST_F(vmsplice, a_fault_keeps_nobody_from_the_pipe)
{
	unsigned char *second = self->mem + page_size, zero[64] = { };
	unsigned char buf[sizeof(zero)];
	int uffd = register_missing(second);
	struct uffd_msg msg;
	struct caller c;

	if (uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	ASSERT_TRUE(start(&c, self->p[1], self->mem, 3 * page_size));
	ASSERT_EQ(read(uffd, &msg, sizeof(msg)), (ssize_t)sizeof(msg));
	ASSERT_EQ(write(self->p[1], "x", 1), 1);
	ASSERT_EQ(read(self->p[0], buf, sizeof(buf)), 1);

	ASSERT_TRUE(provide(uffd, second));
	EXPECT_EQ(finish(&c), (ssize_t)(3 * page_size));
	EXPECT_TRUE(reads_pattern(self->p[0], 0, page_size));
	for (size_t i = 0; i < page_size; i += sizeof(buf)) {
		ASSERT_EQ(read(self->p[0], buf, sizeof(buf)),
			  (ssize_t)sizeof(buf));
		EXPECT_EQ(memcmp(buf, zero, sizeof(buf)), 0);
	}
	EXPECT_TRUE(reads_pattern(self->p[0], 2 * page_size, page_size));
	close(uffd);
}

/* Nor does it show a part of what the call inserts. */
TEST_F(vmsplice, a_fault_lets_nobody_see_half)
{
	unsigned char *second = self->mem + page_size;
	int uffd = register_missing(second);
	struct uffd_msg msg;
	struct caller c;

	if (uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	ASSERT_TRUE(start(&c, self->p[1], self->mem, 3 * page_size));
	ASSERT_EQ(read(uffd, &msg, sizeof(msg)), (ssize_t)sizeof(msg));
	EXPECT_FALSE(is_readable(self->p[0]));
	ASSERT_TRUE(provide(uffd, second));
	EXPECT_EQ(finish(&c), (ssize_t)(3 * page_size));
	EXPECT_TRUE(is_readable(self->p[0]));
	close(uffd);
}

/*
 * splice() holds pipe->mutex while it waits for room in a socket. If the caller
 * is the one who will make it, vmsplice() must not wait for the mutex any more
 * once somebody can see what it has inserted. So it comes back while the socket
 * is full, whether or not there was a fault.
 */
TEST_F(vmsplice, comes_back_to_who_empties_the_socket)
{
	unsigned char *second = self->mem + page_size, buf[4096] = { };
	struct caller to_socket = { .call = SPLICE, .fd = self->p[0] }, c;
	int uffd = register_missing(second), sk[2];
	struct uffd_msg msg;
	size_t filled = 0;

	if (uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sk), 0);
	for (ssize_t n; (n = send(sk[0], buf, sizeof(buf), MSG_DONTWAIT)) > 0;)
		filled += n;
	ASSERT_EQ(errno, EAGAIN);
	to_socket.to = sk[0];
	to_socket.len = 3 * page_size;
	ASSERT_TRUE(start_caller(&to_socket));
	ASSERT_TRUE(wait_asleep(&to_socket));

	ASSERT_TRUE(start(&c, self->p[1], self->mem, 3 * page_size));
	ASSERT_EQ(read(uffd, &msg, sizeof(msg)), (ssize_t)sizeof(msg));
	/* If splice() has seen something, let it get to the socket. */
	usleep(300000);
	ASSERT_TRUE(provide(uffd, second));
	ASSERT_EQ(finish(&c), (ssize_t)(3 * page_size));

	for (ssize_t n; filled; filled -= n) {
		n = read(sk[1], buf, filled < sizeof(buf) ? filled :
			 sizeof(buf));
		ASSERT_GT(n, 0);
	}
	EXPECT_TRUE(reads_pattern(sk[1], 0, page_size));
	EXPECT_EQ(finish(&to_socket), (ssize_t)(3 * page_size));
	close(sk[0]);
	close(sk[1]);
	close(uffd);
}

/* A signal that has a handler does not make the count short. */
TEST_F(vmsplice, a_signal_ends_nothing_else)
{
	unsigned char *second = self->mem + page_size;
	int uffd = register_missing(second);
	struct uffd_msg msg;
	struct caller c;

	if (uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(errno));
	catch_signals();
	ASSERT_TRUE(start(&c, self->p[1], self->mem, 3 * page_size));
	ASSERT_EQ(read(uffd, &msg, sizeof(msg)), (ssize_t)sizeof(msg));
	pthread_kill(c.thread, SIGUSR1);
	ASSERT_TRUE(provide(uffd, second));
	EXPECT_EQ(finish(&c), (ssize_t)(3 * page_size));
	close(uffd);
}

/*
 * Whose memory may be in a pipe. What is mapped is @mem; who else has it sees
 * it as @alias.
 */
FIXTURE(memory) {
	int p[2], fd;
	size_t len;
	unsigned char *mem, *alias;
};

enum kind { OWN, FILE_PRIVATE, FILE_SHARED, HUGETLB };

FIXTURE_VARIANT(memory) {
	enum kind kind;
};

FIXTURE_VARIANT_ADD(memory, own) { .kind = OWN };
FIXTURE_VARIANT_ADD(memory, file_private) { .kind = FILE_PRIVATE };
FIXTURE_VARIANT_ADD(memory, file_shared) { .kind = FILE_SHARED };
FIXTURE_VARIANT_ADD(memory, hugetlb) { .kind = HUGETLB };

/* A file that one may only read, as libraries are. */
static int open_read_only(int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY);
}

FIXTURE_SETUP(memory)
{
	bool shared = variant->kind == FILE_SHARED || variant->kind == HUGETLB;
	bool huge = variant->kind == HUGETLB;
	int ro;

	page_size = sysconf(_SC_PAGESIZE);
	self->fd = -1;
	self->len = huge ? HUGE : page_size;
	ASSERT_EQ(pipe(self->p), 0);
	if (variant->kind == OWN) {
		self->mem = map_anon(self->len);
		ASSERT_NE(self->mem, NULL);
		self->alias = self->mem;
		memset(self->mem, 'a', self->len);
		return;
	}
	self->fd = memfd_create("vmsplice",
				huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
	if (self->fd < 0)
		SKIP(return, "memfd_create: %s", strerror(errno));
	ASSERT_EQ(ftruncate(self->fd, self->len), 0);
	self->alias = map(self->len, PROT_READ | PROT_WRITE, MAP_SHARED,
			  self->fd);
	if (!self->alias)
		SKIP(return, "no page of hugetlb: see vm.nr_hugepages");
	memset(self->alias, 'a', self->len);
	ro = open_read_only(self->fd);
	ASSERT_GE(ro, 0);
	self->mem = map(self->len, PROT_READ,
			shared ? MAP_SHARED : MAP_PRIVATE, ro);
	close(ro);
	ASSERT_NE(self->mem, NULL);
}

FIXTURE_TEARDOWN(memory)
{
	close(self->p[0]);
	close(self->p[1]);
	if (self->fd >= 0) {
		munmap(self->mem, self->len);
		munmap(self->alias, self->len);
		close(self->fd);
	}
}

TEST_F(memory, is_live_only_if_it_is_the_callers_own)
{
	unsigned char buf[64];

	ASSERT_EQ(vms(self->p[1], self->mem, sizeof(buf), 0),
		  (ssize_t)sizeof(buf));
	self->alias[0] = 'b';
	ASSERT_EQ(read(self->p[0], buf, sizeof(buf)), (ssize_t)sizeof(buf));
	EXPECT_EQ(buf[0], variant->kind == OWN ? 'b' : 'a');
	EXPECT_EQ(buf[1], 'a');
}

static int open_scribble(void)
{
	char exe[PATH_MAX] = "", path[PATH_MAX + 64];
	int fd = open("/dev/splice_scribble", O_WRONLY);

	if (fd >= 0)
		return fd;
	if (readlink("/proc/self/exe", exe, sizeof(exe) - 1) < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/test_modules/splice_scribble.ko",
		 dirname(exe));
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return -1;
	if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
		perror("# splice_scribble.ko");
	close(fd);
	return open("/dev/splice_scribble", O_WRONLY);
}

/*
 * Copy Fail, Dirty Frag and their like: a consumer down the line writes in
 * place. What it may reach that way is the caller's own memory: as OWN shows,
 * it does.
 */
TEST_F(memory, that_is_others_cannot_be_written_through_a_pipe)
{
	int fd = open_scribble();

	if (fd < 0)
		SKIP(return, "no module splice_scribble");
	ASSERT_EQ(vms(self->p[1], self->mem, self->len, 0), (ssize_t)
		  (self->len < SLOTS * page_size ? self->len :
		   SLOTS * page_size));
	ASSERT_EQ(splice(self->p[0], NULL, fd, NULL, page_size, 0),
		  (ssize_t)page_size);
	close(fd);
	EXPECT_EQ(self->alias[0], variant->kind == OWN ? 'X' : 'a');
}

/* Says what it has at *mem, once. */
static pid_t start_child(const unsigned char *mem, int *ask, int *answer)
{
	int q[2], a[2];
	pid_t pid;
	char c;

	if (pipe(q) || pipe(a))
		return -1;
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(q[1]);
		if (read(q[0], &c, 1) != 1 || write(a[1], mem, 1) != 1)
			_exit(1);
		_exit(0);
	}
	*ask = q[1];
	*answer = a[0];
	return pid;
}

TEST_F(vmsplice, a_childs_memory_cannot_be_written_through_a_pipe)
{
	int fd = open_scribble(), ask, answer;
	unsigned char c = 0;
	pid_t pid;

	if (fd < 0)
		SKIP(return, "no module splice_scribble");
	pid = start_child(self->mem + 1, &ask, &answer);
	ASSERT_GT(pid, 0);
	ASSERT_EQ(vms(self->p[1], self->mem + 1, 1, 0), 1);
	ASSERT_EQ(splice(self->p[0], NULL, fd, NULL, 1, 0), 1);
	ASSERT_EQ(write(ask, "?", 1), 1);
	ASSERT_EQ(read(answer, &c, 1), 1);
	EXPECT_EQ(c, 1);
	EXPECT_EQ(self->mem[1], 1);
	EXPECT_EQ(waitpid(pid, NULL, 0), pid);
	close(fd);
}

TEST_HARNESS_MAIN
