// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of process_vmsplice(): each line of its contract (see sys_process_vmsplice()
 * in fs/splice.c), and which pages it shares with the pipe and which it copies.
 */
#define _GNU_SOURCE
#include <sys/resource.h>
#include "pvm_test.h"

TEST(probe)
{
	/* With no segments, nothing else is looked at. */
	ASSERT_EQ(0, pvm(NO_PID, -1, BAD_PTR, 0, 0)) {
		TH_LOG("is CONFIG_CROSS_MEMORY_ATTACH off?");
	}
}

TEST(bad_flags)
{
	struct iovec iov = { .iov_base = &iov, .iov_len = 1 };

	/* Before all else. */
	EXPECT_EQ(-EINVAL, pvm(NO_PID, -1, BAD_PTR, 1025, 0x10));
	EXPECT_EQ(-EINVAL, pvm(NO_PID, -1, BAD_PTR, 0, 0x80000000));
	EXPECT_EQ(-EINVAL, pvm(getpid(), -1, &iov, 1, 0x8000));
}

TEST(too_many_segments)
{
	/* Before fd and iov are looked at. */
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

TEST_F(pipe, bad_fd)
{
	int file = memfd_create("file", 0), sv[2], opath;
	char path[32];

	/* All before the iov array is read. */
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

TEST_F(pipe, notification_pipe)
{
	int p[2];

	if (pipe2(p, O_NOTIFICATION_PIPE))
		SKIP(return, "no notification pipes");
	EXPECT_EQ(-EBADF, pvm(NO_PID, p[1], BAD_PTR, 1, 0));
}

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
	/* A bad length comes first; but not in 6.1, which copies all before. */
	iov->iov_len = (size_t)SSIZE_MAX + 1;
	err = process_vm_readv(getpid(), &local, 1, iov, 2, 0) < 0 ? -errno : 0;
	EXPECT_EQ(err, pvm(NO_PID, self->wr, iov, 2, 0));
}

TEST_F(pipe, bad_lengths)
{
	struct iovec iov[2] = { { &iov, 1 }, { &iov, (size_t)-1 } };

	/* All before the process is looked up. */
	EXPECT_EQ(-EINVAL, pvm(NO_PID, self->wr, iov, 2, 0));
	iov[1].iov_len = (size_t)SSIZE_MAX + 1;
	EXPECT_EQ(-EINVAL, pvm(NO_PID, self->wr, iov, 2, 0));
	/* SSIZE_MAX + 1 in total, and SSIZE_MAX. */
	iov[1].iov_len = SSIZE_MAX;
	EXPECT_EQ(-EINVAL, pvm(NO_PID, self->wr, iov, 2, 0));
	iov[1].iov_len = SSIZE_MAX - 1;
	EXPECT_EQ(-ESRCH, pvm(NO_PID, self->wr, iov, 2, 0));
}

TEST_F(pipe, gift_alignment)
{
	struct iovec iov = { map_anon(page_size), page_size };

	*(char *)iov.iov_base = 1;
	EXPECT_EQ((ssize_t)page_size, pvm(getpid(), self->wr, &iov, 1, SPLICE_F_GIFT));
	iov.iov_len--;
	EXPECT_EQ(-EINVAL, pvm(NO_PID, self->wr, &iov, 1, SPLICE_F_GIFT));
	iov = (struct iovec){ iov.iov_base + 1, page_size };
	EXPECT_EQ(-EINVAL, pvm(NO_PID, self->wr, &iov, 1, SPLICE_F_GIFT));
	/* Without the flag, it is fine. */
	EXPECT_EQ(-ESRCH, pvm(NO_PID, self->wr, &iov, 1, 0));
}

TEST_F(pipe, no_process)
{
	char byte = 1;
	/* Before lengths of 0 and the state of the pipe matter. */
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

TEST_F_TIMEOUT(target, flags, TIMEOUT)
{
	static const unsigned int flags[] = {
		0, SPLICE_F_MOVE, SPLICE_F_MORE, SPLICE_F_GIFT, SPLICE_F_NONBLOCK,
		SPLICE_F_MOVE | SPLICE_F_MORE | SPLICE_F_GIFT | SPLICE_F_NONBLOCK,
	};

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		ASSERT_EQ((ssize_t)(2 * page_size), PVM(0, 2 * page_size, flags[i]));
		EXPECT_PIPE(0, 2 * page_size, OLD_BYTES);
	}
	/* Not even to wait, or not to, is the effect of the others. */
	ASSERT_TRUE(fill_pipe(self->wr));
	EXPECT_EQ(-EAGAIN, PVM(0, 1, SPLICE_F_MOVE | SPLICE_F_MORE | SPLICE_F_NONBLOCK));
}

TEST_F_TIMEOUT(target, itself, TIMEOUT)
{
	struct iovec iov = { self->buf, 100 };

	set_pattern(self->buf, 0, 100, OLD_BYTES);
	ASSERT_EQ(100, pvm(getpid(), self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, 100, OLD_BYTES);
}

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
	size_t total = page_size + 31;

	ASSERT_EQ((ssize_t)total, pvm(self->pid, self->wr, iov, ARRAY_SIZE(iov), 0));
	EXPECT_EQ((int)total, in_pipe(self->rd));
	for (size_t i = 0; i < ARRAY_SIZE(iov); i++) {
		ssize_t len = iov[i].iov_len;

		ASSERT_EQ(len, read_all(self->rd, self->buf, len));
		EXPECT_EQ((size_t)len, differs(self->buf, (unsigned char *)iov[i].iov_base -
					       self->mem, len, OLD_BYTES));
	}
}

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
		iov[i] = (struct iovec){ self->mem + (i % 8) * page_size + i, 1 };
	ret = pvm(self->pid, self->wr, iov, 1024, 0);
	ASSERT_EQ(expected, ret);
	ASSERT_EQ(ret, read_all(self->rd, self->buf, ret));
	for (int i = 0; i < ret; i++)
		ASSERT_EQ((size_t)1, differs(self->buf + i, (i % 8) * page_size + i, 1,
					     OLD_BYTES));
}

TEST_F_TIMEOUT(target, several_batches, TIMEOUT)
{
	ssize_t expected = 256 * page_size - 5;

	ASSERT_LT(0, fcntl(self->wr, F_SETPIPE_SZ, 256 * page_size));
	ASSERT_EQ(expected, PVM(5, self->size - 5, 0));
	EXPECT_PIPE(5, expected, OLD_BYTES);
}

TEST_F_TIMEOUT(target, short_count_pipe_full, TIMEOUT)
{
	struct iovec two[2] = { { self->mem + 1, 2 }, { self->mem, self->size } };
	ssize_t expected = self->slots * page_size - 100;

	ASSERT_EQ(expected, PVM(100, self->size - 100, 0));
	EXPECT_PIPE(100, expected, OLD_BYTES);
	/* In the middle of the second segment. */
	expected = 2 + (self->slots - 1) * page_size;
	ASSERT_EQ(expected, pvm(self->pid, self->wr, two, 2, 0));
	EXPECT_EQ(expected, in_pipe(self->rd));
}

TEST_F_TIMEOUT(target, no_wait_once_something_is_in, TIMEOUT)
{
	/* Room for one page. */
	ASSERT_TRUE(fill_pipe(self->wr));
	ASSERT_TRUE(drain(self->rd, page_size));
	ASSERT_EQ((ssize_t)page_size, PVM(0, 2 * page_size, 0));
	ASSERT_TRUE(drain(self->rd, (self->slots - 1) * page_size));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
}

/* Go on where the count ends, until all has come out into a file. */
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

/* What is in the pipe is no memory that is locked. */
TEST_F_TIMEOUT(target, no_limit_of_locked_memory, TIMEOUT)
{
	struct rlimit none = { 0, 0 };

	ASSERT_EQ(0, setrlimit(RLIMIT_MEMLOCK, &none));
	if (!getuid())
		ASSERT_EQ(0, prctl(PR_CAPBSET_DROP, 14 /* CAP_IPC_LOCK */, 0, 0, 0));
	ASSERT_EQ((ssize_t)page_size, PVM(0, page_size, 0));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
}

/* What can't be read ends the call at the page where it starts. */
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
		ASSERT_TRUE(self->mem == mmap(self->mem, 6 * page_size, PROT_READ | PROT_WRITE,
					      MAP_PRIVATE | MAP_FIXED, fd, 0));
	}
	START_TARGET();
	TELL(WRITE_OLD, 0, HOLE);
	TELL(WRITE_OLD, HOLE + page_size, self->size);
	if (!variant->in_file && !command(self->ctl[0], variant->make, HOLE, HOLE + page_size))
		SKIP(return, "this kernel makes no such hole");
}

FIXTURE_TEARDOWN(hole) {}

TEST_F_TIMEOUT(hole, in_a_segment, TIMEOUT)
{
	ASSERT_EQ((ssize_t)(HOLE - 10), PVM(10, self->size - 10, 0));
	EXPECT_PIPE(10, HOLE - 10, OLD_BYTES);
}

TEST_F_TIMEOUT(hole, at_the_start, TIMEOUT)
{
	EXPECT_EQ(-EFAULT, PVM(HOLE, page_size, 0));
	EXPECT_EQ(-EFAULT, PVM(HOLE + page_size - 1, page_size, 0));
	EXPECT_EQ(0, in_pipe(self->rd));
	EXPECT_EQ((ssize_t)page_size, PVM(HOLE + page_size, page_size, 0));
}

TEST_F_TIMEOUT(hole, in_the_second_segment, TIMEOUT)
{
	struct iovec iov[3] = { *RANGE(1, 9), *RANGE(HOLE + 1, 9), *RANGE(0, page_size) };

	/* What comes after it is not placed. */
	ASSERT_EQ(9, pvm(self->pid, self->wr, iov, 3, 0));
	EXPECT_PIPE(1, 9, OLD_BYTES);
}

TEST_F_TIMEOUT(target, beyond_the_address_space, TIMEOUT)
{
	struct iovec iov = { BAD_PTR, 1 };

	EXPECT_EQ(-EFAULT, pvm(self->pid, self->wr, &iov, 1, 0));
	/* Around the end of it, which is mapped for 32-bit arm if pages are large. */
	iov = (struct iovec){ (void *)-page_size, 4 * page_size };
	if (msync(iov.iov_base, page_size, MS_ASYNC))
		EXPECT_EQ(-EFAULT, pvm(self->pid, self->wr, &iov, 1, 0));
	iov = (struct iovec){ NULL, 1 };
	EXPECT_EQ(-EFAULT, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_EQ(0, in_pipe(self->rd));
}

/* Some RAM, as mm/pfnmap.c does it. Most kernels allow it below 1 MiB, or nowhere. */
static void map_device(void)
{
	FILE *f = fopen("/proc/iomem", "r");
	int fd = open("/dev/mem", O_RDONLY);
	unsigned long start;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "System RAM") && sscanf(line, "%lx-", &start) == 1) {
			start = (start + page_size - 1) & -page_size;
			mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, start);
			break;
		}
	if (f)
		fclose(f);
	close(fd);
}

/*
 * Where the kernel says VM_IO or VM_PFNMAP of a mapping that can be read. The vDSO has some, but
 * not in all kernels: [vvar] is none any more.
 */
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

TEST_F_TIMEOUT(target, io_mapping, TIMEOUT)
{
	struct iovec iov = { .iov_len = 1 };

	map_device();
	iov.iov_base = find_io_mapping();
	if (!iov.iov_base)
		SKIP(return, "no mapping of a device to be had");
	EXPECT_EQ(-EFAULT, pvm(getpid(), self->wr, &iov, 1, 0));
}

TEST_F_TIMEOUT(target, secret_memory, TIMEOUT)
{
#ifdef __NR_memfd_secret
	int fd = syscall(__NR_memfd_secret, 0);
	struct iovec iov = { .iov_len = 1 };

	if (fd < 0)
		SKIP(return, "no memfd_secret()");
	ASSERT_EQ(0, ftruncate(fd, page_size));
	iov.iov_base = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_TRUE(iov.iov_base != MAP_FAILED);
	*(char *)iov.iov_base = 1;
	EXPECT_EQ(-EFAULT, pvm(getpid(), self->wr, &iov, 1, 0));
#else
	SKIP(return, "no memfd_secret()");
#endif
}

/* Permission. The caller must not be one who may do everything. */
TEST_F_TIMEOUT(target, not_permitted, TIMEOUT)
{
	int status;
	pid_t pid;

	if (getuid())
		SKIP(return, "needs root, to become somebody else");
	/* Before a length of 0 and the state of the pipe matter. */
	close(self->rd);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY))
			_exit(100);
		_exit(-PVM(0, 0, 0));
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(EPERM, WEXITSTATUS(status));
}

TEST_F_TIMEOUT(target, lengths_of_zero, TIMEOUT)
{
	struct iovec iov[2] = { { self->mem, 0 }, { BAD_PTR, 0 } };

	EXPECT_EQ(0, pvm(self->pid, self->wr, iov, 2, 0));
	/* Neither a full pipe nor one without a reader matters. */
	ASSERT_TRUE(fill_pipe(self->wr));
	EXPECT_EQ(0, pvm(self->pid, self->wr, iov, 2, 0));
	close(self->rd);
	EXPECT_EQ(0, pvm(self->pid, self->wr, iov, 2, 0));
}

static volatile sig_atomic_t nr_signals;

static void count_signal(int sig)
{
	nr_signals++;
}

TEST_F_TIMEOUT(target, no_reader, TIMEOUT)
{
	struct iovec bad = { BAD_PTR, 1 };

	signal(SIGPIPE, count_signal);
	close(self->rd);
	EXPECT_EQ(-EPIPE, PVM(0, page_size, 0));
	EXPECT_EQ(1, nr_signals);
	EXPECT_EQ(-EPIPE, PVM(0, page_size, SPLICE_F_NONBLOCK));
	EXPECT_EQ(2, nr_signals);
	/* Before the memory is looked at. */
	EXPECT_EQ(-EPIPE, pvm(self->pid, self->wr, &bad, 1, 0));
}

TEST_F_TIMEOUT(target, full_and_nonblocking, TIMEOUT)
{
	struct iovec bad = { BAD_PTR, 1 };

	ASSERT_TRUE(fill_pipe(self->wr));
	EXPECT_EQ(-EAGAIN, PVM(0, page_size, SPLICE_F_NONBLOCK));
	/* Before the memory is looked at. */
	EXPECT_EQ(-EAGAIN, pvm(self->pid, self->wr, &bad, 1, SPLICE_F_NONBLOCK));
	ASSERT_EQ(0, fcntl(self->wr, F_SETFL, O_NONBLOCK));
	EXPECT_EQ(-EAGAIN, pvm(self->pid, self->wr, &bad, 1, 0));
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ(-EFAULT, pvm(self->pid, self->wr, &bad, 1, 0));
	EXPECT_EQ((ssize_t)page_size, PVM(0, page_size, 0));
}

/* Waiting. */

TEST_F_TIMEOUT(target, waits_for_room, TIMEOUT)
{
	struct caller c = CALLER(0, 2 * page_size);

	ASSERT_TRUE(fill_pipe(self->wr));
	caller_start_blocked(&c);
	ASSERT_TRUE(drain(self->rd, page_size));
	/* Room for one page is enough to return. */
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	ASSERT_TRUE(drain(self->rd, (self->slots - 1) * page_size));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
}

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

TEST_F_TIMEOUT(target, target_leaves_during_the_wait, TIMEOUT)
{
	struct caller c = CALLER(0, page_size);

	ASSERT_TRUE(fill_pipe(self->wr));
	caller_start_blocked(&c);
	END_TARGET();
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ(-ESRCH, caller_join(&c));
}

/* States of the target. */

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

TEST_F_TIMEOUT(target, pidfd_self, TIMEOUT)
{
	struct iovec iov = { self->buf, 10 };
	/* PIDFD_SELF_THREAD and PIDFD_SELF_THREAD_GROUP */
	static const int selves[] = { -10000, -10001 };

	set_pattern(self->buf, 0, 10, OLD_BYTES);
	for (size_t i = 0; i < ARRAY_SIZE(selves); i++) {
		ssize_t ret = pvm(selves[i], self->wr, &iov, 1, PROCESS_VMSPLICE_PIDFD);

		if (ret == -EBADF)
			SKIP(return, "no PIDFD_SELF");
		EXPECT_EQ(10, ret);
		EXPECT_PIPE(0, 10, OLD_BYTES);
	}
}

TEST_F_TIMEOUT(target, thread_id, TIMEOUT)
{
	struct caller c = CALLER(0, page_size);
	int rd;

	/* Any thread will do: one that waits for room in another pipe. */
	ASSERT_TRUE(open_pipe(&rd, &c.fd, 0));
	ASSERT_TRUE(fill_pipe(c.fd));
	caller_start_blocked(&c);
	set_pattern(self->buf, 0, 10, OLD_BYTES);
	EXPECT_EQ(10, pvm(c.tid, self->wr, &(struct iovec){ self->buf, 10 }, 1, 0));
	EXPECT_PIPE(0, 10, OLD_BYTES);
	ASSERT_TRUE(drain(rd, page_size));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
}

/* Where the data comes from and goes. */

TEST_F_TIMEOUT(target, fifo, TIMEOUT)
{
	static const int modes[] = { O_WRONLY, O_RDWR };
	const char *path = scratch_path("fifo");
	int rd, wr, watch = inotify_init1(IN_NONBLOCK);
	char event[512];

	ASSERT_LE(0, watch);
	ASSERT_EQ(0, mkfifo(path, 0600));
	rd = open(path, O_RDONLY | O_NONBLOCK);
	ASSERT_LE(0, inotify_add_watch(watch, path, IN_MODIFY));
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		wr = open(path, modes[i]);
		ASSERT_LE(0, wr);
		/* Who watches it is told of what is in, and of nothing else. */
		EXPECT_EQ(-EFAULT, pvm(self->pid, wr, &(struct iovec){ BAD_PTR, 1 }, 1, 0));
		EXPECT_EQ(-1, read(watch, event, sizeof(event)));
		ASSERT_EQ((ssize_t)page_size, pvm(self->pid, wr, RANGE(0, page_size), 1, 0));
		EXPECT_LT(0, read(watch, event, sizeof(event)));
		ASSERT_EQ((ssize_t)page_size, read_all(rd, self->buf, page_size));
		EXPECT_EQ(page_size, differs(self->buf, 0, page_size, OLD_BYTES));
		/* And of that. */
		while (read(watch, event, sizeof(event)) > 0)
			;
	}
	undo_change(undo_create, path);
}

/* A shared page is live wherever the pipe's reader has put it, until somebody reads it. */
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

TEST_F_TIMEOUT(live, until_it_is_consumed, TIMEOUT)
{
	ssize_t len = 3 * page_size;
	int to[2];

	ASSERT_EQ(0, variant->to_socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, to) : pipe(to));
	ASSERT_EQ(len, PVM(0, len, 0));
	ASSERT_EQ(len, variant->by_tee ? tee(self->rd, to[1], len, 0) :
		       splice(self->rd, NULL, to[1], NULL, len, 0));
	TELL(WRITE_NEW, 0, len);
	ASSERT_EQ(len, read_all(to[0], self->buf, len));
	EXPECT_EQ((size_t)len, differs(self->buf, 0, len, NEW_BYTES));
}

/*
 * The rule of sharing, seen from outside: what the target writes after the call shows
 * in the pipe if the page is shared, and does not if it was copied.
 */
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
	bool huge = variant->backing == HUGE_PAGE || variant->backing == HUGE_PAGE_SPLIT;

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
		SKIP(return, "no huge page was to be had");
	if (variant->backing == ANON_COW)
		TELL(FORK, 0, 0);
	/* A change of protection that leaves the page there, in small parts. */
	if (variant->backing == HUGE_PAGE_SPLIT) {
		TELL(NO_ACCESS, self->size - page_size, self->size);
		ASSERT_EQ((size_t)0, huge_bytes(self->pid, self->mem, self->size));
	}
}

FIXTURE_TEARDOWN(backing) {}

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

TEST_F_TIMEOUT(backing, gone_while_in_the_pipe, TIMEOUT)
{
	/* Odd bytes: a copy has them at the place that they have in the page. */
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

/* To read a hole allocates its page, as a fault of the target would. */
TEST_F_TIMEOUT(target, hole_of_a_memfd, TIMEOUT)
{
	int fd = memfd_create("hole", 0);
	struct iovec iov = { .iov_len = page_size };
	struct stat st;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 2 * page_size));
	iov.iov_base = mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, page_size);
	ASSERT_TRUE(iov.iov_base != MAP_FAILED);
	ASSERT_EQ((ssize_t)page_size, pvm(getpid(), self->wr, &iov, 1, 0));
	ASSERT_EQ((ssize_t)page_size, read_all(self->rd, self->buf, page_size));
	EXPECT_TRUE(is_filled(self->buf, page_size, 0));
	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ((long long)page_size, st.st_blocks * 512LL);
}

/*
 * A page that another process has, too, must not be in the pipe, even though neither's
 * writes would show: a consumer that writes to it would reach that process. If only the
 * other maps it in the end, a write can take it as it is, unless the pipe holds it.
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
