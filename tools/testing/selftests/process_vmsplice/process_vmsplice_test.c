// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of process_vmsplice(): each line of its contract (see
 * sys_process_vmsplice() in fs/splice.c), and which pages it shares with the
 * pipe and which it copies.
 */
#define _GNU_SOURCE
#include <linux/capability.h>
#include <sys/resource.h>
#include "pvm_test.h"

static const struct iovec bad = { BAD_PTR, 1 };

/* Assert that with no segments, the call returns 0 and checks nothing else. */
TEST(probe)
{
	ASSERT_EQ(0, pvm(NO_PID, -1, BAD_PTR, 0, 0)) {
		TH_LOG("is CONFIG_CROSS_MEMORY_ATTACH off?");
	}
}

/* Assert that the call looks at the flags before all else. */
TEST(bad_flags)
{
	struct iovec iov = { .iov_base = &iov, .iov_len = 1 };

	EXPECT_EQ(-EINVAL, pvm(NO_PID, -1, BAD_PTR, 1025, 0x10));
	EXPECT_EQ(-EINVAL, pvm(NO_PID, -1, BAD_PTR, 0, 0x80000000));
	EXPECT_EQ(-EINVAL, pvm(getpid(), -1, &iov, 1, 0x8000));
}

/* Assert that the call refuses 1025 segments before it looks at fd and iov. */
TEST(too_many_segments)
{
	EXPECT_EQ(-EINVAL, pvm(NO_PID, -1, BAD_PTR, 1025, 0));
	EXPECT_EQ(-EINVAL, pvm(NO_PID, -1, BAD_PTR, ULONG_MAX, 0));
	EXPECT_EQ(-EBADF, pvm(NO_PID, -1, BAD_PTR, 1024, 0));
}

FIXTURE(pipe) {
	int rd, wr;
};

FIXTURE_SETUP(pipe)
{
	ASSERT_TRUE(open_pipe(&self->rd, &self->wr, 0));
}

FIXTURE_TEARDOWN(pipe) {}

/* Assert that the call wants a pipe to write to before it reads the array. */
TEST_F(pipe, bad_fd)
{
	int file = memfd_create("file", 0), sv[2], opath;
	char path[32];

	EXPECT_EQ(-EBADF, pvm(NO_PID, -1, BAD_PTR, 1, 0));
	EXPECT_EQ(-EBADF, pvm(NO_PID, self->rd, BAD_PTR, 1, 0));
	ASSERT_LE(0, file);
	EXPECT_EQ(-EBADF, pvm(NO_PID, file, BAD_PTR, 1, 0));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	EXPECT_EQ(-EBADF, pvm(NO_PID, sv[0], BAD_PTR, 1, 0));

	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->wr);
	opath = open(path, O_PATH);
	ASSERT_LE(0, opath);
	EXPECT_EQ(-EBADF, pvm(NO_PID, opath, BAD_PTR, 1, 0));
	EXPECT_EQ(-EFAULT, pvm(NO_PID, self->wr, BAD_PTR, 1, 0));
}

/* Assert that the call takes no notification pipe. */
TEST_F(pipe, notification_pipe)
{
	int p[2];

	if (pipe2(p, O_NOTIFICATION_PIPE))
		SKIP(return, "no notification pipes");
	EXPECT_EQ(-EBADF, pvm(NO_PID, p[1], BAD_PTR, 1, 0));
}

/* Assert that the call refuses an iov array that it can't read. */
TEST_F(pipe, bad_iov_array)
{
	char *mem = (char *)map_anon(2 * page_size);
	struct iovec *iov = (struct iovec *)(mem + page_size) - 1, local;
	int err;

	ASSERT_EQ(0, mprotect(mem + page_size, page_size, PROT_NONE));
	*iov = local = (struct iovec){ mem, 1 };
	EXPECT_EQ(-EFAULT, pvm(NO_PID, self->wr, BAD_PTR, 1, 0));
	EXPECT_EQ(-EFAULT, pvm(NO_PID, self->wr, iov, 2, 0));
	EXPECT_EQ(1, pvm(getpid(), self->wr, iov, 1, 0));
	/* A bad length comes first, except in 6.1, which copies all before. */
	iov->iov_len = (size_t)SSIZE_MAX + 1;
	err = process_vm_readv(getpid(), &local, 1, iov, 2, 0) < 0 ? -errno : 0;
	EXPECT_EQ(err, pvm(NO_PID, self->wr, iov, 2, 0));
}

/* Assert that the call adds up the lengths before it looks for the process. */
TEST_F(pipe, bad_lengths)
{
	struct iovec iov[2] = { { &iov, 1 }, { &iov, (size_t)-1 } };

	EXPECT_EQ(-EINVAL, pvm(NO_PID, self->wr, iov, 2, 0));
	iov[1].iov_len = (size_t)SSIZE_MAX + 1;
	EXPECT_EQ(-EINVAL, pvm(NO_PID, self->wr, iov, 2, 0));
	/* SSIZE_MAX + 1 in total, and SSIZE_MAX. */
	iov[1].iov_len = SSIZE_MAX;
	EXPECT_EQ(-EINVAL, pvm(NO_PID, self->wr, iov, 2, 0));
	iov[1].iov_len = SSIZE_MAX - 1;
	EXPECT_EQ(-ESRCH, pvm(NO_PID, self->wr, iov, 2, 0));
}

/* Assert that SPLICE_F_GIFT wants whole pages. */
TEST_F(pipe, gift_alignment)
{
	struct iovec iov = { map_anon(page_size), page_size };

	*(char *)iov.iov_base = 1;
	EXPECT_EQ((ssize_t)page_size,
		  pvm(getpid(), self->wr, &iov, 1, SPLICE_F_GIFT));
	iov.iov_len--;
	EXPECT_EQ(-EINVAL, pvm(NO_PID, self->wr, &iov, 1, SPLICE_F_GIFT));
	iov = (struct iovec){ iov.iov_base + 1, page_size };
	EXPECT_EQ(-EINVAL, pvm(NO_PID, self->wr, &iov, 1, SPLICE_F_GIFT));
	/* Without the flag, the call does not mind. */
	EXPECT_EQ(-ESRCH, pvm(NO_PID, self->wr, &iov, 1, 0));
}

/* Assert that a missing process comes before lengths and a broken pipe. */
TEST_F(pipe, no_process)
{
	char byte = 1;
	struct iovec iov[2] = { { &byte, 1 }, { &byte, 0 } };
	pid_t zombie;

	close(self->rd);
	EXPECT_EQ(-ESRCH, pvm(NO_PID, self->wr, &iov[0], 1, 0));
	EXPECT_EQ(-ESRCH, pvm(NO_PID, self->wr, &iov[1], 1, 0));
	EXPECT_EQ(-ESRCH, pvm(0, self->wr, &iov[1], 1, 0));
	EXPECT_EQ(-ESRCH, pvm(-1, self->wr, &iov[1], 1, 0));

	zombie = fork();
	ASSERT_LE(0, zombie);
	if (!zombie)
		_exit(0);
	wait_for_state(zombie, 'Z');
	EXPECT_EQ(-ESRCH, pvm(zombie, self->wr, &iov[1], 1, 0));
	EXPECT_EQ(zombie, waitpid(zombie, NULL, 0));
	EXPECT_EQ(-ESRCH, pvm(zombie, self->wr, &iov[1], 1, 0));
}

/* Assert that a kernel thread is no process for the call. */
TEST_F(pipe, kernel_thread)
{
	int fd = open("/proc/2/cmdline", O_RDONLY);
	char byte;
	struct iovec iov = { &byte, 0 };

	if (fd < 0 || read(fd, &byte, 1))
		SKIP(return, "pid 2 is no kernel thread here");
	EXPECT_EQ(-ESRCH, pvm(2, self->wr, &iov, 1, 0));
}

FIXTURE(target) {
	TARGET_MEMBERS;
};

FIXTURE_SETUP(target)
{
	self->size = NR_PAGES * page_size;
	self->mem = map_small(self->size);
	ASSERT_FALSE(!self->mem);
	START_TARGET();
	TELL(WRITE_OLD, 0, self->size);
}

FIXTURE_TEARDOWN(target) {}

/* Assert that the call accepts each flag and inserts the same bytes. */
TEST_F_TIMEOUT(target, flags, TIMEOUT)
{
	static const unsigned int flags[] = {
		0, SPLICE_F_MOVE, SPLICE_F_MORE, SPLICE_F_GIFT,
		SPLICE_F_NONBLOCK, SPLICE_F_NONBLOCK | SPLICE_F_MOVE |
				   SPLICE_F_MORE | SPLICE_F_GIFT,
	};
	ssize_t len = 2 * page_size;

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		ASSERT_EQ(len, PVM(0, len, flags[i]));
		EXPECT_PIPE(0, len, OLD_BYTES);
	}
	/* The others do not undo SPLICE_F_NONBLOCK. */
	ASSERT_TRUE(fill_pipe(self->wr));
	EXPECT_EQ(-EAGAIN, PVM(0, 1, SPLICE_F_MOVE | SPLICE_F_MORE |
				     SPLICE_F_NONBLOCK));
}

/* Assert that a process can insert its own memory. */
TEST_F_TIMEOUT(target, itself, TIMEOUT)
{
	struct iovec iov = { self->mem, 100 };

	set_pattern(self->mem, 0, 100, OLD_BYTES);
	ASSERT_EQ(100, pvm(getpid(), self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, 100, OLD_BYTES);
}

/* Assert that the call inserts exactly the bytes of any odd range. */
TEST_F_TIMEOUT(target, unaligned, TIMEOUT)
{
	static const struct {
		size_t start, len;
	} at[] = {
		{ 1, 1 }, { 0, 1 }, { 17, 4000 }, { 100, 5000 }, { 4095, 2 },
		{ 4095, 1 }, { 4096, 4095 }, { 3000, 12289 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		ASSERT_EQ((ssize_t)at[i].len, PVM(at[i].start, at[i].len, 0));
		EXPECT_PIPE(at[i].start, at[i].len, OLD_BYTES);
	}
}

/* Assert that the ranges come out in the order of the array. */
TEST_F_TIMEOUT(target, array_order, TIMEOUT)
{
	/* Backwards, overlapping, with empty ones first, last and between. */
	struct iovec iov[] = {
		{ BAD_PTR, 0 },
		{ self->mem + 5 * page_size + 7, page_size },
		{ self->mem + 3 * page_size, 10 },
		{ NULL, 0 },
		{ NULL, 0 },
		{ self->mem + 3 * page_size, 20 },
		{ self->mem + 1, 1 },
		{ BAD_PTR, 0 },
	};
	const size_t nr = ARRAY_SIZE(iov);
	ssize_t total = page_size + 31;

	ASSERT_EQ(total, pvm(self->pid, self->wr, iov, nr, 0));
	EXPECT_EQ(total, in_pipe(self->rd));
	for (size_t i = 0; i < nr; i++) {
		size_t from = (unsigned char *)iov[i].iov_base - self->mem;
		ssize_t len = iov[i].iov_len;

		ASSERT_EQ(len, read_all(self->rd, self->buf, len));
		EXPECT_EQ((size_t)len,
			  differs(self->buf, from, len, OLD_BYTES));
	}
}

/* Assert that the call takes 1024 segments, a slot each. */
TEST_F_TIMEOUT(target, many_segments, TIMEOUT)
{
	struct iovec iov[1024];
	ssize_t ret, expected = 1024;

	/* An ordinary user gets fewer slots than segments: a short count. */
	fcntl(self->wr, F_SETPIPE_SZ, 1024 * page_size);
	if (pipe_slots(self->wr) < 1024)
		expected = self->slots;
	/* Each in another page than the one before. */
	for (int i = 0; i < 1024; i++)
		iov[i] = *RANGE((i % 8) * page_size + i, 1);
	ret = pvm(self->pid, self->wr, iov, 1024, 0);
	ASSERT_EQ(expected, ret);
	ASSERT_EQ(ret, read_all(self->rd, self->buf, ret));
	for (int i = 0; i < ret; i++)
		ASSERT_EQ((size_t)1,
			  differs(self->buf + i, (i % 8) * page_size + i, 1, OLD_BYTES));
}

/* Assert that the call inserts more pages than it gathers at a time. */
TEST_F_TIMEOUT(target, several_batches, TIMEOUT)
{
	ssize_t expected = 256 * page_size - 5;

	ASSERT_LT(0, fcntl(self->wr, F_SETPIPE_SZ, 256 * page_size));
	ASSERT_EQ(expected, PVM(5, self->size - 5, 0));
	EXPECT_PIPE(5, expected, OLD_BYTES);
}

/* Assert that the count is short if the pipe gets full. */
TEST_F_TIMEOUT(target, short_count_pipe_full, TIMEOUT)
{
	struct iovec two[2] = { *RANGE(1, 2), *RANGE(0, self->size) };
	ssize_t expected = self->slots * page_size - 100;

	ASSERT_EQ(expected, PVM(100, self->size - 100, 0));
	EXPECT_PIPE(100, expected, OLD_BYTES);
	/* In the middle of the second segment. */
	expected = 2 + (self->slots - 1) * page_size;
	ASSERT_EQ(expected, pvm(self->pid, self->wr, two, 2, 0));
	EXPECT_EQ(expected, in_pipe(self->rd));
}

/* Assert that the call does not wait once it has inserted something. */
TEST_F_TIMEOUT(target, no_wait_once_something_is_in, TIMEOUT)
{
	/* One slot is free. */
	ASSERT_TRUE(fill_pipe(self->wr));
	ASSERT_TRUE(drain(self->rd, page_size));
	ASSERT_EQ((ssize_t)page_size, PVM(0, 2 * page_size, 0));
	ASSERT_TRUE(drain(self->rd, (self->slots - 1) * page_size));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
}

/* Assert that calls that go on at the count dump a whole region. */
TEST_F_TIMEOUT(target, whole_region_to_a_file, TIMEOUT)
{
	int file = memfd_create("dump", 0);
	size_t done = 3;

	ASSERT_LE(0, file);
	while (done < self->size) {
		ssize_t n = PVM(done, self->size - done, 0);

		ASSERT_LT(0, n);
		ASSERT_EQ(n, splice(self->rd, NULL, file, NULL, n, 0));
		done += n;
	}
	done -= 3;
	ASSERT_EQ((ssize_t)done, pread(file, self->buf, self->size, 0));
	EXPECT_EQ(done, differs(self->buf, 3, done, OLD_BYTES));
}

/* Assert that pages in the pipe do not count as locked memory. */
TEST_F_TIMEOUT(target, no_limit_of_locked_memory, TIMEOUT)
{
	struct rlimit none = { 0, 0 };

	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &none));
	if (!getuid())
		ASSERT_EQ(0, prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0));
	ASSERT_EQ((ssize_t)page_size, PVM(0, page_size, 0));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
}

/* Of eight pages, one can't be read: the variants are reasons for that. */
FIXTURE(hole) {
	TARGET_MEMBERS;
};

FIXTURE_VARIANT(hole) {
	enum op make;
	bool in_file;
};

FIXTURE_VARIANT_ADD(hole, unmapped) { .make = UNMAP };
FIXTURE_VARIANT_ADD(hole, prot_none) { .make = NO_ACCESS };
FIXTURE_VARIANT_ADD(hole, prot_write_alone) { .make = WRITE_ONLY };
FIXTURE_VARIANT_ADD(hole, guard_region) { .make = GUARD };
FIXTURE_VARIANT_ADD(hole, end_of_file) { .in_file = true };

#define HOLE (5 * page_size)

/* On riscv, PROT_WRITE implies PROT_READ. */
static bool may_read_what_may_be_written(void)
{
	unsigned char *mem = map_anon(page_size);
	char c;

	mprotect(mem, page_size, PROT_WRITE);
	return readv_from(getpid(), mem, &c, 1) == 1;
}

FIXTURE_SETUP(hole)
{
	int fd;

	if (variant->make == WRITE_ONLY && may_read_what_may_be_written())
		SKIP(return, "what may be written may be read here");
	self->size = 8 * page_size;
	self->mem = map_small(self->size);
	ASSERT_FALSE(!self->mem);
	if (variant->in_file) {
		fd = pattern_file(HOLE, OLD_BYTES);
		ASSERT_TRUE(self->mem == mmap(self->mem, 6 * page_size,
					      PROT_READ | PROT_WRITE,
					      MAP_PRIVATE | MAP_FIXED, fd, 0));
	}
	START_TARGET();
	TELL(WRITE_OLD, 0, HOLE);
	TELL(WRITE_OLD, HOLE + page_size, self->size);
	if (!variant->in_file &&
	    !command(self->ctl[0], variant->make, HOLE, HOLE + page_size))
		SKIP(return, "this kernel makes no such hole");
}

FIXTURE_TEARDOWN(hole) {}

/* Assert that the count ends at the page that can't be read. */
TEST_F_TIMEOUT(hole, in_a_segment, TIMEOUT)
{
	ASSERT_EQ((ssize_t)(HOLE - 10), PVM(10, self->size - 10, 0));
	EXPECT_PIPE(10, HOLE - 10, OLD_BYTES);
}

/* Assert that the call fails if it can't read the first page. */
TEST_F_TIMEOUT(hole, at_the_start, TIMEOUT)
{
	EXPECT_EQ(-EFAULT, PVM(HOLE, page_size, 0));
	EXPECT_EQ(-EFAULT, PVM(HOLE + page_size - 1, page_size, 0));
	EXPECT_EQ(0, in_pipe(self->rd));
	EXPECT_EQ((ssize_t)page_size, PVM(HOLE + page_size, page_size, 0));
}

/* Assert that the call inserts nothing that comes after the hole. */
TEST_F_TIMEOUT(hole, in_the_second_segment, TIMEOUT)
{
	struct iovec iov[3] = {
		*RANGE(1, 9), *RANGE(HOLE + 1, 9), *RANGE(0, page_size),
	};

	ASSERT_EQ(9, pvm(self->pid, self->wr, iov, 3, 0));
	EXPECT_PIPE(1, 9, OLD_BYTES);
}

/* Assert that the call refuses NULL and addresses beyond the last. */
TEST_F_TIMEOUT(target, beyond_the_address_space, TIMEOUT)
{
	struct iovec iov = { (void *)-page_size, 4 * page_size };

	EXPECT_EQ(-EFAULT, pvm(self->pid, self->wr, &bad, 1, 0));
	/* Across the end of it: 32-bit arm maps that if pages are large. */
	if (msync(iov.iov_base, page_size, MS_ASYNC))
		EXPECT_EQ(-EFAULT, pvm(self->pid, self->wr, &iov, 1, 0));
	iov = (struct iovec){ NULL, 1 };
	EXPECT_EQ(-EFAULT, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_EQ(0, in_pipe(self->rd));
}

/* Map RAM as mm/pfnmap.c does. Most kernels allow the first MiB, or none. */
static void map_device(void)
{
	FILE *f = fopen("/proc/iomem", "r");
	int fd = open("/dev/mem", O_RDONLY);
	unsigned long start;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "System RAM") &&
		    sscanf(line, "%lx-", &start) == 1) {
			start = (start + page_size - 1) & -page_size;
			mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, start);
			break;
		}
	if (f)
		fclose(f);
	close(fd);
}

/* A readable mapping with VM_IO or VM_PFNMAP: of some kernels, in the vDSO. */
static void *find_io_mapping(void)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long from, to, start = 0, found = 0;
	char line[512];

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			start = from;
		if (!strncmp(line, "VmFlags:", 8) && strstr(line, " rd ") &&
		    (strstr(line, " io ") || strstr(line, " pf ")))
			found = start;
	}
	if (f)
		fclose(f);
	return (void *)found;
}

/* Assert that the call does not read devices. */
TEST_F_TIMEOUT(target, io_mapping, TIMEOUT)
{
	struct iovec iov = { .iov_len = 1 };

	map_device();
	iov.iov_base = find_io_mapping();
	if (!iov.iov_base)
		SKIP(return, "this process can map no device");
	EXPECT_EQ(-EFAULT, pvm(getpid(), self->wr, &iov, 1, 0));
}

/* Assert that the call does not read secret memory, not even the caller's. */
TEST_F_TIMEOUT(target, secret_memory, TIMEOUT)
{
#ifdef __NR_memfd_secret
	int fd = syscall(__NR_memfd_secret, 0);
	struct iovec iov = { .iov_len = 1 };

	if (fd < 0)
		SKIP(return, "no memfd_secret()");
	ASSERT_EQ(0, ftruncate(fd, page_size));
	iov.iov_base = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			    fd, 0);
	ASSERT_TRUE(iov.iov_base != MAP_FAILED);
	*(char *)iov.iov_base = 1;
	EXPECT_EQ(-EFAULT, pvm(getpid(), self->wr, &iov, 1, 0));
#else
	SKIP(return, "no memfd_secret()");
#endif
}

/* Assert that the call asks for permission before it looks at lengths. */
TEST_F_TIMEOUT(target, not_permitted, TIMEOUT)
{
	int status;
	pid_t pid;

	if (getuid())
		SKIP(return, "needs root, to become somebody else");
	/* Nor does the broken pipe come first. */
	close(self->rd);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (setresgid(NOBODY, NOBODY, NOBODY) ||
		    setresuid(NOBODY, NOBODY, NOBODY))
			_exit(100);
		_exit(-PVM(0, 0, 0));
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(EPERM, WEXITSTATUS(status));
}

/* Assert that lengths of 0 give 0, even if the pipe is full or broken. */
TEST_F_TIMEOUT(target, lengths_of_zero, TIMEOUT)
{
	struct iovec iov[2] = { { self->mem, 0 }, { BAD_PTR, 0 } };

	EXPECT_EQ(0, pvm(self->pid, self->wr, iov, 2, 0));
	ASSERT_TRUE(fill_pipe(self->wr));
	EXPECT_EQ(0, pvm(self->pid, self->wr, iov, 2, 0));
	close(self->rd);
	EXPECT_EQ(0, pvm(self->pid, self->wr, iov, 2, 0));
}

/* Assert that a pipe without a reader gives EPIPE and SIGPIPE. */
TEST_F_TIMEOUT(target, no_reader, TIMEOUT)
{
	signal(SIGPIPE, count_signal);
	close(self->rd);
	EXPECT_EQ(-EPIPE, PVM(0, page_size, 0));
	EXPECT_EQ(1, nr_signals);
	EXPECT_EQ(-EPIPE, PVM(0, page_size, SPLICE_F_NONBLOCK));
	EXPECT_EQ(2, nr_signals);
	/* The call has not looked at the memory by then. */
	EXPECT_EQ(-EPIPE, pvm(self->pid, self->wr, &bad, 1, 0));
}

/* Assert that a nonblocking call on a full pipe returns EAGAIN. */
TEST_F_TIMEOUT(target, full_and_nonblocking, TIMEOUT)
{
	ASSERT_TRUE(fill_pipe(self->wr));
	EXPECT_EQ(-EAGAIN, PVM(0, page_size, SPLICE_F_NONBLOCK));
	/* The call has not looked at the memory by then. */
	EXPECT_EQ(-EAGAIN,
		  pvm(self->pid, self->wr, &bad, 1, SPLICE_F_NONBLOCK));
	ASSERT_EQ(0, fcntl(self->wr, F_SETFL, O_NONBLOCK));
	EXPECT_EQ(-EAGAIN, pvm(self->pid, self->wr, &bad, 1, 0));
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ(-EFAULT, pvm(self->pid, self->wr, &bad, 1, 0));
	EXPECT_EQ((ssize_t)page_size, PVM(0, page_size, 0));
}

/* Assert that the call waits for a free slot, and returns with one page. */
TEST_F_TIMEOUT(target, waits_for_room, TIMEOUT)
{
	struct caller c = CALLER(0, 2 * page_size);

	ASSERT_TRUE(fill_pipe(self->wr));
	caller_start_blocked(&c);
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	ASSERT_TRUE(drain(self->rd, (self->slots - 1) * page_size));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
}

/* Assert that the call wakes a reader that waits for data. */
TEST_F_TIMEOUT(target, wakes_a_reader, TIMEOUT)
{
	pid_t reader = fork();
	int status;

	ASSERT_LE(0, reader);
	if (!reader) {
		close(self->wr);
		_exit(read(self->rd, self->buf, page_size) != (ssize_t)page_size ||
		      differs(self->buf, 0, page_size, OLD_BYTES) != page_size);
	}
	wait_for_state(reader, 'S');
	ASSERT_EQ((ssize_t)page_size, PVM(0, page_size, 0));
	ASSERT_EQ(reader, waitpid(reader, &status, 0));
	EXPECT_EQ(0, status);
}

/* Assert that a signal ends the wait, and nothing is inserted. */
TEST_F_TIMEOUT(target, signal_ends_the_wait, TIMEOUT)
{
	struct caller c = CALLER(0, page_size);

	handle_signal(SIGUSR1, ignore_signal, 0);
	ASSERT_TRUE(fill_pipe(self->wr));
	caller_start_blocked(&c);
	pthread_kill(c.thread, SIGUSR1);
	EXPECT_EQ(-EINTR, caller_join(&c));
	EXPECT_EQ((int)(self->slots * page_size), in_pipe(self->rd));
}

/* Assert that the wait goes on after a signal with SA_RESTART. */
TEST_F_TIMEOUT(target, wait_is_restarted, TIMEOUT)
{
	struct caller c = CALLER(0, page_size);

	handle_signal(SIGUSR1, count_signal, SA_RESTART);
	ASSERT_TRUE(fill_pipe(self->wr));
	caller_start_blocked(&c);
	pthread_kill(c.thread, SIGUSR1);
	while (!nr_signals)
		sched_yield();
	wait_until_blocked(&c);
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
}

/* Assert that the call returns EPIPE if the reader leaves. */
TEST_F_TIMEOUT(target, reader_leaves_during_the_wait, TIMEOUT)
{
	struct caller c = CALLER(0, page_size);

	signal(SIGPIPE, count_signal);
	ASSERT_TRUE(fill_pipe(self->wr));
	caller_start_blocked(&c);
	close(self->rd);
	EXPECT_EQ(-EPIPE, caller_join(&c));
	EXPECT_EQ(1, nr_signals);
}

/* Assert that the call returns ESRCH if the target exits while it waits. */
TEST_F_TIMEOUT(target, target_leaves_during_the_wait, TIMEOUT)
{
	struct caller c = CALLER(0, page_size);

	ASSERT_TRUE(fill_pipe(self->wr));
	caller_start_blocked(&c);
	END_TARGET();
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ(-ESRCH, caller_join(&c));
}

/* Assert that a pidfd stands for its process until that exits. */
TEST_F_TIMEOUT(target, pidfd, TIMEOUT)
{
	int pidfd = syscall(SYS_pidfd_open, self->pid, 0);
	struct iovec iov = *RANGE(0, page_size);
	unsigned int flags = PROCESS_VMSPLICE_PIDFD;

	ASSERT_LE(0, pidfd);
	EXPECT_EQ((ssize_t)page_size, pvm(pidfd, self->wr, &iov, 1, flags));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
	/* A pid is no pidfd, nor is a pidfd a pid. */
	EXPECT_EQ(-EBADF, pvm(NO_PID, self->wr, &iov, 1, flags));
	EXPECT_EQ(-EBADF, pvm(self->rd, self->wr, &iov, 1, flags));
	EXPECT_EQ(-EFAULT, pvm(NO_PID, self->wr, BAD_PTR, 1, flags));
	EXPECT_EQ(0, pvm(NO_PID, -1, BAD_PTR, 0, flags));

	END_TARGET();
	EXPECT_EQ(-ESRCH, pvm(pidfd, self->wr, &iov, 1, flags));
	ASSERT_EQ(self->pid, waitpid(self->pid, NULL, 0));
	EXPECT_EQ(-ESRCH, pvm(pidfd, self->wr, &iov, 1, flags));
	close(pidfd);
	EXPECT_EQ(-EBADF, pvm(pidfd, self->wr, &iov, 1, flags));
}

/* Assert that PIDFD_SELF_* stand for the caller. */
TEST_F_TIMEOUT(target, pidfd_self, TIMEOUT)
{
	struct iovec iov = { self->buf, 10 };
	/* PIDFD_SELF_THREAD and PIDFD_SELF_THREAD_GROUP */
	static const int selves[] = { -10000, -10001 };

	set_pattern(self->buf, 0, 10, OLD_BYTES);
	for (size_t i = 0; i < ARRAY_SIZE(selves); i++) {
		ssize_t ret = pvm(selves[i], self->wr, &iov, 1,
				  PROCESS_VMSPLICE_PIDFD);

		if (ret == -EBADF)
			SKIP(return, "no PIDFD_SELF");
		EXPECT_EQ(10, ret);
		EXPECT_PIPE(0, 10, OLD_BYTES);
	}
}

/* Assert that the id of any thread stands for its process. */
TEST_F_TIMEOUT(target, thread_id, TIMEOUT)
{
	struct iovec own = { self->buf, 10 };
	struct caller c = CALLER(0, page_size);
	int rd;

	/* This thread waits for a free slot in another pipe. */
	ASSERT_TRUE(open_pipe(&rd, &c.fd, 0));
	ASSERT_TRUE(fill_pipe(c.fd));
	caller_start_blocked(&c);
	set_pattern(self->buf, 0, 10, OLD_BYTES);
	EXPECT_EQ(10, pvm(c.tid, self->wr, &own, 1, 0));
	EXPECT_PIPE(0, 10, OLD_BYTES);
	ASSERT_TRUE(drain(rd, page_size));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
}

/* Assert that a FIFO takes pages, and inotify reports just what is inserted. */
TEST_F_TIMEOUT(target, fifo, TIMEOUT)
{
	static const int modes[] = { O_WRONLY, O_RDWR };
	const char *path = scratch_path("fifo");
	int rd, wr, watch = inotify_init1(IN_NONBLOCK);
	ssize_t len = page_size;
	char event[512];

	ASSERT_LE(0, watch);
	ASSERT_EQ(0, mkfifo(path, 0600));
	rd = open(path, O_RDONLY | O_NONBLOCK);
	ASSERT_LE(0, inotify_add_watch(watch, path, IN_MODIFY));
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		wr = open(path, modes[i]);
		ASSERT_LE(0, wr);
		EXPECT_EQ(-EFAULT, pvm(self->pid, wr, &bad, 1, 0));
		EXPECT_EQ(-1, read(watch, event, sizeof(event)));
		ASSERT_EQ(len, pvm(self->pid, wr, RANGE(0, len), 1, 0));
		EXPECT_LT(0, read(watch, event, sizeof(event)));
		ASSERT_EQ(len, read_all(rd, self->buf, len));
		EXPECT_EQ((size_t)len, differs(self->buf, 0, len, OLD_BYTES));
		/* The read is an event, too. */
		while (read(watch, event, sizeof(event)) > 0)
			;
	}
	undo_change(undo_create, path);
}

FIXTURE(live) {
	TARGET_MEMBERS;
};

FIXTURE_VARIANT(live) {
	bool to_socket, by_tee;
};

FIXTURE_VARIANT_ADD(live, in_a_second_pipe) {};
FIXTURE_VARIANT_ADD(live, after_tee) { .by_tee = true };
FIXTURE_VARIANT_ADD(live, in_the_queue_of_a_socket) { .to_socket = true };

FIXTURE_SETUP(live)
{
	self->size = 4 * page_size;
	self->mem = map_small(self->size);
	ASSERT_FALSE(!self->mem);
	START_TARGET();
	TELL(WRITE_OLD, 0, self->size);
}

FIXTURE_TEARDOWN(live) {}

/* Assert that a shared page is live wherever splice() has moved it. */
TEST_F_TIMEOUT(live, until_it_is_consumed, TIMEOUT)
{
	ssize_t len = 3 * page_size;
	int to[2];

	ASSERT_EQ(0, variant->to_socket ?
		     socketpair(AF_UNIX, SOCK_STREAM, 0, to) : pipe(to));
	ASSERT_EQ(len, PVM(0, len, 0));
	ASSERT_EQ(len, variant->by_tee ? tee(self->rd, to[1], len, 0) :
		       splice(self->rd, NULL, to[1], NULL, len, 0));
	TELL(WRITE_NEW, 0, len);
	ASSERT_EQ(len, read_all(to[0], self->buf, len));
	EXPECT_EQ((size_t)len, differs(self->buf, 0, len, NEW_BYTES));
}

/* The kinds of memory, and whether the call shares or copies their pages. */
FIXTURE(backing) {
	TARGET_MEMBERS;
};

enum backing {
	ANON, ANON_COW, ZERO_PAGE, SHARED_ANON, MEMFD, FILE_CLEAN, FILE_DIRTY,
	HUGE_PAGE, HUGE_PAGE_SPLIT, HUGETLB,
};

FIXTURE_VARIANT(backing) {
	enum backing backing;
	bool shared;
};

FIXTURE_VARIANT_ADD(backing, anon) { ANON, true };
FIXTURE_VARIANT_ADD(backing, anon_cow) { ANON_COW, false };
FIXTURE_VARIANT_ADD(backing, zero_page) { ZERO_PAGE, false };
FIXTURE_VARIANT_ADD(backing, shared_anon) { SHARED_ANON, false };
FIXTURE_VARIANT_ADD(backing, memfd) { MEMFD, false };
FIXTURE_VARIANT_ADD(backing, file_clean) { FILE_CLEAN, false };
FIXTURE_VARIANT_ADD(backing, file_dirty) { FILE_DIRTY, true };
FIXTURE_VARIANT_ADD(backing, huge_page) { HUGE_PAGE, true };
FIXTURE_VARIANT_ADD(backing, huge_page_split) { HUGE_PAGE_SPLIT, true };
FIXTURE_VARIANT_ADD(backing, hugetlb) { HUGETLB, false };

static void *map_backing(enum backing backing, size_t *size)
{
	int flags = MAP_PRIVATE, fd = -1;

	switch (backing) {
	case SHARED_ANON:
		flags = MAP_SHARED | MAP_ANONYMOUS;
		break;
	case MEMFD:
	case FILE_CLEAN:
	case FILE_DIRTY:
		flags = backing == MEMFD ? MAP_SHARED : MAP_PRIVATE;
		fd = pattern_file(*size, OLD_BYTES);
		break;
	case HUGETLB:
		flags |= MAP_ANONYMOUS | MAP_HUGETLB;
		*size = hugetlb_size();
		if (!*size || !reserve_huge_pages(4))
			return MAP_FAILED;
		break;
	case HUGE_PAGE:
	case HUGE_PAGE_SPLIT:
		*size = thp_size();
		return *size ? map_aligned(*size, *size) : MAP_FAILED;
	default:
		return map_small(*size);
	}
	return mmap(NULL, *size, PROT_READ | PROT_WRITE, flags, fd, 0);
}

FIXTURE_SETUP(backing)
{
	bool split = variant->backing == HUGE_PAGE_SPLIT;
	bool huge = variant->backing == HUGE_PAGE || split;

	self->size = NR_PAGES * page_size;
	self->mem = map_backing(variant->backing, &self->size);
	if (self->mem == MAP_FAILED)
		SKIP(return, "the kernel has no such memory");
	START_TARGET();
	if (huge)
		TELL(HUGE_PAGES, 0, self->size);
	TELL(variant->backing == ZERO_PAGE || variant->backing == FILE_CLEAN ?
	     READ : WRITE_OLD, 0, self->size);
	if (huge && !huge_bytes(self->pid, self->mem, self->size))
		SKIP(return, "the kernel had no huge page");
	if (variant->backing == ANON_COW)
		TELL(FORK, 0, 0);
	/* A change of protection splits the PMD, not the huge page. */
	if (split) {
		TELL(NO_ACCESS, self->size - page_size, self->size);
		ASSERT_FALSE(huge_bytes(self->pid, self->mem, self->size));
	}
}

FIXTURE_TEARDOWN(backing) {}

/* Assert that the target's later writes show in shared pages alone. */
TEST_F_TIMEOUT(backing, later_writes, TIMEOUT)
{
	/* Not at the start: a huge page's first is not like the others. */
	size_t at = 3 * page_size, len = 4 * page_size;

	ASSERT_EQ((ssize_t)len, PVM(at, len, 0));
	TELL(WRITE_NEW, at, at + len);
	if (variant->backing == ZERO_PAGE) {
		ASSERT_EQ((ssize_t)len, read_all(self->rd, self->buf, len));
		EXPECT_TRUE(is_filled(self->buf, len, 0));
	} else {
		EXPECT_PIPE(at, len, variant->shared ? NEW_BYTES : OLD_BYTES);
	}
	/* What the target has now is what it wrote. */
	ASSERT_EQ(4, PVM(at, 4, 0));
	EXPECT_PIPE(at, 4, NEW_BYTES);
}

/* Assert that the pipe keeps the bytes when the target is gone. */
TEST_F_TIMEOUT(backing, gone_while_in_the_pipe, TIMEOUT)
{
	/* Odd bytes: a copy has them at the same offset in its page. */
	size_t from = 123, len = 4 * page_size - 200;

	ASSERT_EQ((ssize_t)len, PVM(from, len, 0));
	END_TARGET();
	if (variant->backing == ZERO_PAGE) {
		ASSERT_EQ((ssize_t)len, read_all(self->rd, self->buf, len));
		EXPECT_TRUE(is_filled(self->buf, len, 0));
	} else {
		EXPECT_PIPE(from, len, OLD_BYTES);
	}
}

/* Assert that reading a hole allocates its page, as a fault would. */
TEST_F_TIMEOUT(target, hole_of_a_memfd, TIMEOUT)
{
	int fd = memfd_create("hole", 0);
	struct iovec iov = { NULL, page_size };
	struct stat st;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 2 * page_size));
	iov.iov_base = mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd,
			    page_size);
	ASSERT_TRUE(iov.iov_base != MAP_FAILED);
	ASSERT_EQ((ssize_t)page_size, pvm(getpid(), self->wr, &iov, 1, 0));
	ASSERT_EQ((ssize_t)page_size, read_all(self->rd, self->buf, page_size));
	EXPECT_TRUE(is_filled(self->buf, page_size, 0));
	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ((long long)page_size, st.st_blocks * 512LL);
}

/*
 * Assert that the pipe never holds a page that another process maps, too: a
 * consumer that writes to it would reach that process. The last process that
 * maps a page reuses it for its writes, unless something else holds it.
 */
TEST_F_TIMEOUT(target, cow_page_is_not_in_the_pipe, TIMEOUT)
{
	pid_t other = ask(self->ctl[0], FORK, 0, 0);
	uint64_t frame;

	ASSERT_LT(0, other);
	frame = page_frame(other, self->mem);
	if (!frame)
		SKIP(return, "may not see page frames");
	ASSERT_EQ(frame, page_frame(self->pid, self->mem));
	ASSERT_EQ((ssize_t)page_size, PVM(0, page_size, 0));
	TELL(UNMAP, 0, page_size);
	ASSERT_TRUE(command(self->ctl[1], WRITE_OTHER, 0, page_size));
	EXPECT_EQ(frame, page_frame(other, self->mem));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
}

PVM_HARNESS_MAIN
