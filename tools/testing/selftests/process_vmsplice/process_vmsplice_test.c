// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of process_vmsplice(): each line of its contract (see sys_process_vmsplice()
 * in fs/splice.c), and which pages it shares with the pipe and which it copies.
 *
 * The target is a child that has a region of memory at an address that the test
 * knows, and takes commands. A test that wants to see a caller blocked waits until
 * /proc says that the thread sleeps; none waits for time to pass.
 */
#define _GNU_SOURCE
#include "pvm_test.h"

/* Checks that need neither a target nor, but for one, a pipe. */

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

FIXTURE(pipe)
{
	int rd, wr;
};

FIXTURE_SETUP(pipe)
{
	int p[2];

	ASSERT_EQ(0, pipe(p));
	self->rd = p[0];
	self->wr = p[1];
}

FIXTURE_TEARDOWN(pipe)
{
}

TEST_F(pipe, bad_fd)
{
	int file = memfd_create("file", 0), p[2], opath;
	char fifo[80];

	/* All before the iov array is read. */
	EXPECT_EQ(-EBADF, pvm(NO_PID, -1, BAD_PTR, 1, 0));
	EXPECT_EQ(-EBADF, pvm(NO_PID, self->rd, BAD_PTR, 1, 0));
	ASSERT_LE(0, file);
	EXPECT_EQ(-EBADF, pvm(NO_PID, file, BAD_PTR, 1, 0));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, p));
	EXPECT_EQ(-EBADF, pvm(NO_PID, p[0], BAD_PTR, 1, 0));

	ASSERT_EQ(0, mkfifo(scratch_path(fifo, sizeof(fifo), "fifo"), 0600));
	opath = open(fifo, O_PATH);
	ASSERT_LE(0, opath);
	EXPECT_EQ(-EBADF, pvm(NO_PID, opath, BAD_PTR, 1, 0));
	unlink(fifo);
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
	struct iovec *iov;
	char *mem = mmap(NULL, 2 * page_size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_TRUE(mem != MAP_FAILED);
	ASSERT_EQ(0, mprotect(mem + page_size, page_size, PROT_NONE));
	/* The last one that can be read, and the first that can't. */
	iov = (struct iovec *)(mem + page_size) - 1;
	iov->iov_base = mem;
	iov->iov_len = 1;
	EXPECT_EQ(-EFAULT, pvm(NO_PID, self->wr, BAD_PTR, 1, 0));
	EXPECT_EQ(-EFAULT, pvm(NO_PID, self->wr, iov, 2, 0));
	EXPECT_EQ(1, pvm(getpid(), self->wr, iov, 1, 0));
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
	char *mem = mmap(NULL, page_size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec iov = { mem, page_size };

	ASSERT_TRUE(mem != MAP_FAILED);
	mem[0] = 1;
	EXPECT_EQ((ssize_t)page_size,
		  pvm(getpid(), self->wr, &iov, 1, SPLICE_F_GIFT));
	iov.iov_len--;
	EXPECT_EQ(-EINVAL, pvm(NO_PID, self->wr, &iov, 1, SPLICE_F_GIFT));
	iov = (struct iovec){ mem + 1, page_size };
	EXPECT_EQ(-EINVAL, pvm(NO_PID, self->wr, &iov, 1, SPLICE_F_GIFT));
	/* Without the flag, both are fine. */
	EXPECT_EQ(-ESRCH, pvm(NO_PID, self->wr, &iov, 1, 0));
}

static bool is_kernel_thread(pid_t pid)
{
	char path[64], c;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return false;
	n = read(fd, &c, 1);
	close(fd);
	return n == 0;
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
	char byte = 1;
	struct iovec iov = { &byte, 0 };

	if (!is_kernel_thread(2))
		SKIP(return, "pid 2 is no kernel thread here");
	EXPECT_EQ(-ESRCH, pvm(2, self->wr, &iov, 1, 0));
}

FIXTURE(target)
{
	TARGET_MEMBERS;
};

FIXTURE_SETUP(target)
{
	self->size = NR_PAGES * page_size;
	self->mem = mmap(NULL, self->size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_TRUE(self->mem != MAP_FAILED);
	/* Small pages, also where huge ones are the default. */
	madvise(self->mem, self->size, MADV_NOHUGEPAGE);
	START_TARGET();
	ASSERT_TRUE(command(self->ctl, 'f', 0, self->size));
}

FIXTURE_TEARDOWN(target)
{
}

TEST_F_TIMEOUT(target, one_page, TIMEOUT)
{
	struct iovec iov = { self->mem, page_size };

	ASSERT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, page_size, 0);
}

TEST_F_TIMEOUT(target, flags_without_effect, TIMEOUT)
{
	struct iovec iov = { self->mem, 2 * page_size };

	ASSERT_EQ((ssize_t)(2 * page_size),
		  pvm(self->pid, self->wr, &iov, 1, SPLICE_F_MOVE |
		      SPLICE_F_MORE | SPLICE_F_GIFT | SPLICE_F_NONBLOCK));
	EXPECT_PIPE(0, 2 * page_size, 0);
}

TEST_F_TIMEOUT(target, itself, TIMEOUT)
{
	struct iovec iov = { self->buf, 100 };

	set_pattern(self->buf, 0, 100, 0);
	ASSERT_EQ(100, pvm(getpid(), self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, 100, 0);
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
		struct iovec iov = { self->mem + at[i].start, at[i].len };

		ASSERT_EQ((ssize_t)at[i].len,
			  pvm(self->pid, self->wr, &iov, 1, 0));
		EXPECT_PIPE(at[i].start, at[i].len, 0);
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
	size_t total = page_size + 31, at = 0;

	ASSERT_EQ((ssize_t)total,
		  pvm(self->pid, self->wr, iov, ARRAY_SIZE(iov), 0));
	EXPECT_EQ((int)total, in_pipe(self->rd));
	ASSERT_EQ((ssize_t)total, read_all(self->rd, self->buf, total));
	for (size_t i = 0; i < ARRAY_SIZE(iov); i++) {
		size_t from = (unsigned char *)iov[i].iov_base - self->mem;

		EXPECT_EQ(iov[i].iov_len, differs(self->buf + at, from,
						  iov[i].iov_len, 0));
		at += iov[i].iov_len;
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
	for (int i = 0; i < 1024; i++) {
		/* Each in another page than the one before. */
		iov[i].iov_base = self->mem + (i % 8) * page_size + i;
		iov[i].iov_len = 1;
	}
	ret = pvm(self->pid, self->wr, iov, 1024, 0);
	ASSERT_EQ(expected, ret);
	ASSERT_EQ(ret, read_all(self->rd, self->buf, ret));
	for (int i = 0; i < ret; i++)
		ASSERT_EQ(pattern((i % 8) * page_size + i, 0), self->buf[i]);
}

TEST_F_TIMEOUT(target, several_batches, TIMEOUT)
{
	struct iovec iov = { self->mem + 5, self->size - 5 };
	ssize_t ret;

	ASSERT_LT(0, fcntl(self->wr, F_SETPIPE_SZ, 256 * page_size));
	ret = pvm(self->pid, self->wr, &iov, 1, 0);
	ASSERT_EQ((ssize_t)(256 * page_size - 5), ret);
	EXPECT_PIPE(5, ret, 0);
}

TEST_F_TIMEOUT(target, short_count_pipe_full, TIMEOUT)
{
	struct iovec iov = { self->mem + 100, self->size - 100 };
	ssize_t expected = self->slots * page_size - 100;

	ASSERT_EQ(expected, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(100, expected, 0);

	/* In the middle of the second segment. */
	struct iovec two[2] = {
		{ self->mem + 1, 2 }, { self->mem, self->size },
	};

	expected = 2 + (self->slots - 1) * page_size;
	ASSERT_EQ(expected, pvm(self->pid, self->wr, two, 2, 0));
	EXPECT_EQ(expected, in_pipe(self->rd));
}

TEST_F_TIMEOUT(target, no_wait_once_something_is_in, TIMEOUT)
{
	struct iovec iov = { self->mem, 2 * page_size };

	/* Room for one page. */
	ASSERT_EQ(0, fill_pipe(self->wr));
	ASSERT_TRUE(drain(self->rd, page_size));
	ASSERT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
	ASSERT_TRUE(drain(self->rd, (self->slots - 1) * page_size));
	EXPECT_PIPE(0, page_size, 0);
}

TEST_F_TIMEOUT(target, whole_region_in_pieces, TIMEOUT)
{
	size_t done = 3;

	while (done < self->size) {
		struct iovec iov = { self->mem + done, self->size - done };
		ssize_t n = pvm(self->pid, self->wr, &iov, 1, 0);

		ASSERT_LT(0, n);
		EXPECT_PIPE(done, n, 0);
		done += n;
	}
}

/* What can't be read ends the call at the page where it starts. */
FIXTURE(hole)
{
	TARGET_MEMBERS;
};

FIXTURE_VARIANT(hole)
{
	char make;
};

FIXTURE_VARIANT_ADD(hole, unmapped) { .make = 'u' };
FIXTURE_VARIANT_ADD(hole, prot_none) { .make = 'n' };
FIXTURE_VARIANT_ADD(hole, prot_write_alone) { .make = 'o' };

/* On riscv, PROT_WRITE implies PROT_READ. */
static bool may_read_what_may_be_written(void)
{
	char *mem = mmap(NULL, page_size, PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char c;
	struct iovec to = { &c, 1 }, from = { mem, 1 };
	bool may = process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1;

	munmap(mem, page_size);
	return may;
}

FIXTURE_SETUP(hole)
{
	if (variant->make == 'o' && may_read_what_may_be_written())
		SKIP(return, "what may be written may be read here");
	self->size = 8 * page_size;
	self->mem = mmap(NULL, self->size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_TRUE(self->mem != MAP_FAILED);
	START_TARGET();
	ASSERT_TRUE(command(self->ctl, 'f', 0, self->size));
	ASSERT_TRUE(command(self->ctl, variant->make, 5 * page_size,
			    6 * page_size));
}

FIXTURE_TEARDOWN(hole)
{
}

TEST_F_TIMEOUT(hole, in_a_segment, TIMEOUT)
{
	struct iovec iov = { self->mem + 10, self->size - 10 };

	ASSERT_EQ((ssize_t)(5 * page_size - 10),
		  pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(10, 5 * page_size - 10, 0);
}

TEST_F_TIMEOUT(hole, at_the_start, TIMEOUT)
{
	struct iovec iov = { self->mem + 5 * page_size, page_size };

	EXPECT_EQ(-EFAULT, pvm(self->pid, self->wr, &iov, 1, 0));
	iov.iov_base = self->mem + 6 * page_size - 1;
	EXPECT_EQ(-EFAULT, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_EQ(0, in_pipe(self->rd));
	iov.iov_base = self->mem + 6 * page_size;
	EXPECT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
}

TEST_F_TIMEOUT(hole, in_the_second_segment, TIMEOUT)
{
	struct iovec iov[3] = {
		{ self->mem + 1, 9 },
		{ self->mem + 5 * page_size + 1, 9 },
		{ self->mem, page_size },
	};

	/* What comes after it is not placed. */
	ASSERT_EQ(9, pvm(self->pid, self->wr, iov, 3, 0));
	EXPECT_PIPE(1, 9, 0);
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
	iov.iov_base = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			    fd, 0);
	ASSERT_TRUE(iov.iov_base != MAP_FAILED);
	*(char *)iov.iov_base = 1;
	EXPECT_EQ(-EFAULT, pvm(getpid(), self->wr, &iov, 1, 0));
#else
	SKIP(return, "no memfd_secret()");
#endif
}

/* Permission. The caller must not be one who may do everything. */

static void drop_privileges(void)
{
	if (!getuid() && (setresgid(NOBODY, NOBODY, NOBODY) ||
			  setresuid(NOBODY, NOBODY, NOBODY)))
		_exit(100);
}

TEST_F_TIMEOUT(target, not_permitted, TIMEOUT)
{
	struct iovec iov = { self->mem, 0 };
	int status;
	pid_t pid;

	if (getuid())
		SKIP(return, "needs root, to become somebody else");
	/* Before a length of 0 and the state of the pipe matter. */
	close(self->rd);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		drop_privileges();
		_exit(-pvm(self->pid, self->wr, &iov, 1, 0));
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(EPERM, WEXITSTATUS(status));
}

TEST_F_TIMEOUT(target, lengths_of_zero, TIMEOUT)
{
	struct iovec iov[2] = { { self->mem, 0 }, { BAD_PTR, 0 } };

	EXPECT_EQ(0, pvm(self->pid, self->wr, iov, 2, 0));
	/* Neither a full pipe nor one without a reader matters. */
	ASSERT_EQ(0, fill_pipe(self->wr));
	EXPECT_EQ(0, pvm(self->pid, self->wr, iov, 2, 0));
	close(self->rd);
	EXPECT_EQ(0, pvm(self->pid, self->wr, iov, 2, 0));
}

static volatile sig_atomic_t nr_sigpipe;

static void count_sigpipe(int sig)
{
	nr_sigpipe++;
}

TEST_F_TIMEOUT(target, no_reader, TIMEOUT)
{
	struct iovec iov = { self->mem, page_size };

	signal(SIGPIPE, count_sigpipe);
	close(self->rd);
	EXPECT_EQ(-EPIPE, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_EQ(1, nr_sigpipe);
	EXPECT_EQ(-EPIPE, pvm(self->pid, self->wr, &iov, 1, SPLICE_F_NONBLOCK));
	EXPECT_EQ(2, nr_sigpipe);
	/* Before the memory is looked at. */
	iov.iov_base = BAD_PTR;
	EXPECT_EQ(-EPIPE, pvm(self->pid, self->wr, &iov, 1, 0));
}

TEST_F_TIMEOUT(target, full_and_nonblocking, TIMEOUT)
{
	struct iovec iov = { self->mem, page_size };

	ASSERT_EQ(0, fill_pipe(self->wr));
	EXPECT_EQ(-EAGAIN, pvm(self->pid, self->wr, &iov, 1, SPLICE_F_NONBLOCK));
	/* Before the memory is looked at. */
	iov.iov_base = BAD_PTR;
	EXPECT_EQ(-EAGAIN, pvm(self->pid, self->wr, &iov, 1, SPLICE_F_NONBLOCK));
	ASSERT_EQ(0, fcntl(self->wr, F_SETFL, O_NONBLOCK));
	EXPECT_EQ(-EAGAIN, pvm(self->pid, self->wr, &iov, 1, 0));
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ(-EFAULT, pvm(self->pid, self->wr, &iov, 1, 0));
	iov.iov_base = self->mem;
	EXPECT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
}

/* Waiting. */

#define CALLER(len) {							\
	.pid = self->pid, .fd = self->wr, .nr_segs = 1,			\
	.iov = &(struct iovec){ self->mem, len },			\
}

TEST_F_TIMEOUT(target, waits_for_room, TIMEOUT)
{
	struct caller c = CALLER(2 * page_size);

	ASSERT_EQ(0, fill_pipe(self->wr));
	caller_start_blocked(&c);
	ASSERT_TRUE(drain(self->rd, page_size));
	/* Room for one page is enough to return. */
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	ASSERT_TRUE(drain(self->rd, (self->slots - 1) * page_size));
	EXPECT_PIPE(0, page_size, 0);
}

TEST_F_TIMEOUT(target, wakes_a_reader, TIMEOUT)
{
	struct iovec iov = { self->mem, page_size };
	pid_t reader = fork();
	int status;

	ASSERT_LE(0, reader);
	if (!reader) {
		close(self->wr);
		_exit(read(self->rd, self->buf, page_size) !=
			      (ssize_t)page_size ||
		      differs(self->buf, 0, page_size, 0) != page_size);
	}
	wait_for_state(reader, 'S');
	ASSERT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
	ASSERT_EQ(reader, waitpid(reader, &status, 0));
	EXPECT_EQ(0, status);
}

TEST_F_TIMEOUT(target, signal_ends_the_wait, TIMEOUT)
{
	struct caller c = CALLER(page_size);

	handle_signal(SIGUSR1, 0);
	ASSERT_EQ(0, fill_pipe(self->wr));
	caller_start_blocked(&c);
	pthread_kill(c.thread, SIGUSR1);
	EXPECT_EQ(-EINTR, caller_join(&c));
	EXPECT_EQ((int)(self->slots * page_size), in_pipe(self->rd));
}

static volatile sig_atomic_t nr_restarts;

static void count_restarts(int sig)
{
	nr_restarts++;
}

TEST_F_TIMEOUT(target, wait_is_restarted, TIMEOUT)
{
	struct sigaction sa = {
		.sa_handler = count_restarts, .sa_flags = SA_RESTART,
	};
	struct caller c = CALLER(page_size);

	sigaction(SIGUSR1, &sa, NULL);
	ASSERT_EQ(0, fill_pipe(self->wr));
	caller_start_blocked(&c);
	pthread_kill(c.thread, SIGUSR1);
	while (!nr_restarts)
		sched_yield();
	wait_until_blocked(&c);
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
}

TEST_F_TIMEOUT(target, reader_leaves_during_the_wait, TIMEOUT)
{
	struct caller c = CALLER(page_size);

	signal(SIGPIPE, count_sigpipe);
	ASSERT_EQ(0, fill_pipe(self->wr));
	caller_start_blocked(&c);
	close(self->rd);
	EXPECT_EQ(-EPIPE, caller_join(&c));
	EXPECT_EQ(1, nr_sigpipe);
}

TEST_F_TIMEOUT(target, target_leaves_during_the_wait, TIMEOUT)
{
	struct caller c = CALLER(page_size);

	ASSERT_EQ(0, fill_pipe(self->wr));
	caller_start_blocked(&c);
	ASSERT_FALSE(command(self->ctl, 'z', 0, 0));
	wait_for_state(self->pid, 'Z');
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ(-ESRCH, caller_join(&c));
}

#define RACE_PAGES 2000

struct racer {
	pthread_t thread;
	pid_t pid;
	int fd;
	struct iovec iov;
	int pages, again;
};

static void *racer_main(void *arg)
{
	struct racer *r = arg;

	while (r->pages < RACE_PAGES) {
		ssize_t ret = pvm(r->pid, r->fd, &r->iov, 1, 0);

		if (ret > 0)
			r->pages += ret / page_size;
		else if (ret == -EAGAIN)
			r->again++;
		else
			break;
	}
	return NULL;
}

TEST_F_TIMEOUT(target, racing_writers, TIMEOUT)
{
	struct racer racers[3];
	int seen[ARRAY_SIZE(racers)] = {};

	/* The fewer slots, the more often one takes what another waited for. */
	ASSERT_LT(0, fcntl(self->wr, F_SETPIPE_SZ, page_size));
	for (size_t i = 0; i < ARRAY_SIZE(racers); i++) {
		racers[i] = (struct racer){
			.pid = self->pid, .fd = self->wr,
			.iov = { self->mem + i * page_size, page_size },
		};
		pthread_create(&racers[i].thread, NULL, racer_main, &racers[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(racers) * RACE_PAGES; i++) {
		size_t who;

		ASSERT_EQ((ssize_t)page_size,
			  read_all(self->rd, self->buf, page_size));
		for (who = 0; who < ARRAY_SIZE(racers); who++)
			if (differs(self->buf, who * page_size, page_size,
				    0) == page_size)
				break;
		ASSERT_GT(ARRAY_SIZE(racers), who);
		seen[who]++;
	}
	for (size_t i = 0; i < ARRAY_SIZE(racers); i++) {
		pthread_join(racers[i].thread, NULL);
		EXPECT_EQ(RACE_PAGES, racers[i].pages);
		EXPECT_EQ(RACE_PAGES, seen[i]);
		EXPECT_EQ(0, racers[i].again);
	}
}

/* States of the target. */

TEST_F_TIMEOUT(target, stopped, TIMEOUT)
{
	struct iovec iov = { self->mem, page_size };
	int status;

	ASSERT_EQ(0, kill(self->pid, SIGSTOP));
	ASSERT_EQ(self->pid, waitpid(self->pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status));
	EXPECT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, page_size, 0);
	kill(self->pid, SIGCONT);
}

TEST_F_TIMEOUT(target, ptrace_stopped, TIMEOUT)
{
	struct iovec iov = { self->mem, page_size };
	int status;

	ASSERT_EQ(0, ptrace(PTRACE_ATTACH, self->pid, NULL, NULL));
	ASSERT_EQ(self->pid, waitpid(self->pid, &status, 0));
	EXPECT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, page_size, 0);
	ptrace(PTRACE_DETACH, self->pid, NULL, NULL);
}

TEST_F_TIMEOUT(target, pidfd, TIMEOUT)
{
	struct iovec iov = { self->mem, page_size };
	int pidfd = syscall(SYS_pidfd_open, self->pid, 0);
	unsigned int flags = PROCESS_VMSPLICE_PIDFD;

	ASSERT_LE(0, pidfd);
	EXPECT_EQ((ssize_t)page_size, pvm(pidfd, self->wr, &iov, 1, flags));
	EXPECT_PIPE(0, page_size, 0);
	/* A pid is no pidfd, nor is a pidfd a pid. */
	EXPECT_EQ(-EBADF, pvm(NO_PID, self->wr, &iov, 1, flags));
	EXPECT_EQ(-EBADF, pvm(self->rd, self->wr, &iov, 1, flags));
	EXPECT_EQ(-EFAULT, pvm(NO_PID, self->wr, BAD_PTR, 1, flags));
	EXPECT_EQ(0, pvm(NO_PID, -1, BAD_PTR, 0, flags));

	ASSERT_FALSE(command(self->ctl, 'z', 0, 0));
	wait_for_state(self->pid, 'Z');
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

	set_pattern(self->buf, 0, 10, 0);
	for (size_t i = 0; i < ARRAY_SIZE(selves); i++) {
		ssize_t ret = pvm(selves[i], self->wr, &iov, 1,
				  PROCESS_VMSPLICE_PIDFD);

		if (ret == -EBADF)
			SKIP(return, "no PIDFD_SELF");
		EXPECT_EQ(10, ret);
		EXPECT_PIPE(0, 10, 0);
	}
}

static void *say_tid(void *arg)
{
	__atomic_store_n((pid_t *)arg, syscall(SYS_gettid), __ATOMIC_RELEASE);
	for (;;)
		pause();
	return NULL;
}

TEST_F_TIMEOUT(target, thread_id, TIMEOUT)
{
	struct iovec iov = { self->buf, 10 };
	pthread_t thread;
	pid_t tid = 0;

	set_pattern(self->buf, 0, 10, 0);
	ASSERT_EQ(0, pthread_create(&thread, NULL, say_tid, &tid));
	while (!__atomic_load_n(&tid, __ATOMIC_ACQUIRE))
		sched_yield();
	EXPECT_EQ(10, pvm(tid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, 10, 0);
}

/* Where the data goes. */

TEST_F_TIMEOUT(target, to_a_file, TIMEOUT)
{
	int file = memfd_create("dump", 0);
	size_t done = 0;

	ASSERT_LE(0, file);
	while (done < self->size) {
		struct iovec iov = { self->mem + done, self->size - done };
		ssize_t n = pvm(self->pid, self->wr, &iov, 1, 0);

		ASSERT_LT(0, n);
		ASSERT_EQ(n, splice(self->rd, NULL, file, NULL, n, 0));
		done += n;
	}
	ASSERT_EQ((ssize_t)self->size, pread(file, self->buf, self->size, 0));
	EXPECT_EQ(self->size, differs(self->buf, 0, self->size, 0));
}

TEST_F_TIMEOUT(target, to_a_socket, TIMEOUT)
{
	size_t len = self->slots * page_size - 3;
	struct iovec iov = { self->mem + 3, len };
	size_t sent = 0, got = 0;
	int sv[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv));
	ASSERT_EQ((ssize_t)len, pvm(self->pid, self->wr, &iov, 1, 0));
	while (got < len) {
		ssize_t n = splice(self->rd, NULL, sv[0], NULL, len,
				   SPLICE_F_NONBLOCK);

		sent += n > 0 ? n : 0;
		n = read(sv[1], self->buf + got, len - got);
		got += n > 0 ? n : 0;
	}
	EXPECT_EQ(len, sent);
	EXPECT_EQ(len, differs(self->buf, 3, len, 0));
}

TEST_F_TIMEOUT(target, fifo_and_inotify, TIMEOUT)
{
	char fifo[80], event[512];
	struct iovec iov = { self->mem, page_size };
	int watch = inotify_init1(IN_NONBLOCK), rd, wr;

	if (watch < 0)
		SKIP(return, "no inotify");
	ASSERT_EQ(0, mkfifo(scratch_path(fifo, sizeof(fifo), "fifo"), 0600));
	rd = open(fifo, O_RDONLY | O_NONBLOCK);
	wr = open(fifo, O_WRONLY);
	ASSERT_LE(0, wr);
	ASSERT_LE(0, inotify_add_watch(watch, fifo, IN_MODIFY));
	EXPECT_EQ(-EFAULT, pvm(self->pid, wr,
			       &(struct iovec){ BAD_PTR, 1 }, 1, 0));
	EXPECT_EQ(-1, read(watch, event, sizeof(event)));
	ASSERT_EQ((ssize_t)page_size, pvm(self->pid, wr, &iov, 1, 0));
	EXPECT_LT(0, read(watch, event, sizeof(event)));
	EXPECT_EQ((ssize_t)page_size, read_all(rd, self->buf, page_size));
	EXPECT_EQ(page_size, differs(self->buf, 0, page_size, 0));
	unlink(fifo);
}

/*
 * The rule of sharing, seen from outside: what the target writes after the call shows
 * in the pipe if the page is shared, and does not if it was copied.
 */
FIXTURE(backing)
{
	TARGET_MEMBERS;
};

enum backing {
	ANON, ANON_COW, ZERO_PAGE, SHARED_ANON, MEMFD, FILE_CLEAN, FILE_DIRTY,
	HUGE_PAGE, HUGE_PAGE_SPLIT, HUGETLB,
};

FIXTURE_VARIANT(backing)
{
	enum backing backing;
	bool shared;
};

FIXTURE_VARIANT_ADD(backing, anon) { .backing = ANON, .shared = true };
FIXTURE_VARIANT_ADD(backing, anon_cow) { .backing = ANON_COW };
FIXTURE_VARIANT_ADD(backing, zero_page) { .backing = ZERO_PAGE };
FIXTURE_VARIANT_ADD(backing, shared_anon) { .backing = SHARED_ANON };
FIXTURE_VARIANT_ADD(backing, memfd) { .backing = MEMFD };
FIXTURE_VARIANT_ADD(backing, file_clean) { .backing = FILE_CLEAN };

FIXTURE_VARIANT_ADD(backing, file_dirty) {
	.backing = FILE_DIRTY, .shared = true
};

FIXTURE_VARIANT_ADD(backing, huge_page) {
	.backing = HUGE_PAGE, .shared = true
};

FIXTURE_VARIANT_ADD(backing, huge_page_split) {
	.backing = HUGE_PAGE_SPLIT, .shared = true
};

FIXTURE_VARIANT_ADD(backing, hugetlb) { .backing = HUGETLB };

static void *map_backing(enum backing backing, size_t *size, int fd)
{
	int prot = PROT_READ | PROT_WRITE;
	char *mem;

	switch (backing) {
	case SHARED_ANON:
		return mmap(NULL, *size, prot, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	case MEMFD:
		return mmap(NULL, *size, prot, MAP_SHARED, fd, 0);
	case FILE_CLEAN:
	case FILE_DIRTY:
		return mmap(NULL, *size, prot, MAP_PRIVATE, fd, 0);
	case HUGETLB:
		*size = hugetlb_size();
		if (!*size)
			return MAP_FAILED;
		reserve_huge_pages(4);
		return mmap(NULL, *size, prot,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	case HUGE_PAGE:
	case HUGE_PAGE_SPLIT:
		*size = thp_size();
		if (!*size)
			return MAP_FAILED;
		mem = mmap(NULL, 2 * *size, prot,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (mem == MAP_FAILED)
			return mem;
		return (void *)(((uintptr_t)mem + *size - 1) & -*size);
	default:
		mem = mmap(NULL, *size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		madvise(mem, *size, MADV_NOHUGEPAGE);
		return mem;
	}
}

FIXTURE_SETUP(backing)
{
	int fd;

	fd = pattern_file(memfd_create("backing", 0));
	ASSERT_LE(0, fd);
	self->size = NR_PAGES * page_size;
	self->mem = map_backing(variant->backing, &self->size, fd);
	if (self->mem == MAP_FAILED)
		SKIP(return, "the kernel has no such memory");
	START_TARGET();

	switch (variant->backing) {
	case ZERO_PAGE:
	case FILE_CLEAN:
		ASSERT_TRUE(command(self->ctl, 'r', 0, self->size));
		break;
	case ANON_COW:
		ASSERT_TRUE(command(self->ctl, 'f', 0, self->size));
		ASSERT_TRUE(command(self->ctl, 'c', 0, 0));
		break;
	case HUGE_PAGE:
	case HUGE_PAGE_SPLIT:
		ASSERT_TRUE(command(self->ctl, 'h', 0, self->size));
		ASSERT_TRUE(command(self->ctl, 'f', 0, self->size));
		if (!has_huge_page(self->pid, self->mem))
			SKIP(return, "no huge page was to be had");
		break;
	default:
		ASSERT_TRUE(command(self->ctl, 'f', 0, self->size));
	}
	/* A change of protection that leaves the page there, in small parts. */
	if (variant->backing == HUGE_PAGE_SPLIT) {
		ASSERT_TRUE(command(self->ctl, 'n', self->size - page_size,
				    self->size));
		ASSERT_FALSE(has_huge_page(self->pid, self->mem));
	}
}

FIXTURE_TEARDOWN(backing)
{
}

TEST_F_TIMEOUT(backing, later_writes, TIMEOUT)
{
	/* Not at the start: a huge page's first is not like the others. */
	size_t at = 3 * page_size, len = 4 * page_size;
	struct iovec iov = { self->mem + at, len };
	unsigned char was[4];

	ASSERT_EQ((ssize_t)len, pvm(self->pid, self->wr, &iov, 1, 0));
	ASSERT_TRUE(command(self->ctl, 'w', at, at + len));
	ASSERT_EQ((ssize_t)len, read_all(self->rd, self->buf, len));
	if (variant->shared) {
		EXPECT_EQ(len, differs(self->buf, at, len, 1));
	} else if (variant->backing == ZERO_PAGE) {
		for (size_t i = 0; i < len; i++)
			ASSERT_EQ(0, self->buf[i]);
	} else {
		EXPECT_EQ(len, differs(self->buf, at, len, 0));
	}
	/* What the target has now is what it wrote. */
	iov.iov_len = sizeof(was);
	ASSERT_EQ((ssize_t)sizeof(was), pvm(self->pid, self->wr, &iov, 1, 0));
	ASSERT_EQ((ssize_t)sizeof(was), read_all(self->rd, was, sizeof(was)));
	EXPECT_EQ(sizeof(was), differs(was, at, sizeof(was), 1));
}

/* The page frame at addr, or 0 if it is not for us to know. */
static uint64_t page_frame(pid_t pid, void *addr)
{
	uint64_t entry = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return 0;
	if (pread(fd, &entry, sizeof(entry),
		  (uintptr_t)addr / page_size * sizeof(entry)) != sizeof(entry))
		entry = 0;
	close(fd);
	return entry & ((1ULL << 55) - 1);
}

/*
 * A page that another process has, too, must not be in the pipe, even though neither's
 * writes would show: a consumer that writes to it would reach that process. If only the
 * other maps it in the end, a write can take it as it is, unless the pipe holds it.
 */
TEST_F_TIMEOUT(target, cow_page_is_not_in_the_pipe, TIMEOUT)
{
	struct iovec iov = { self->mem, page_size };
	pid_t other = ask(self->ctl, 'c', 0, 0);
	uint64_t frame;

	ASSERT_LT(0, other);
	frame = page_frame(other, self->mem);
	if (!frame)
		SKIP(return, "may not see page frames");
	ASSERT_EQ(frame, page_frame(self->pid, self->mem));
	ASSERT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
	ASSERT_TRUE(command(self->ctl, 'u', 0, page_size));
	ASSERT_EQ(1, process_vm_writev(other, &(struct iovec){ "x", 1 }, 1,
				       &(struct iovec){ self->mem, 1 }, 1, 0));
	EXPECT_EQ(frame, page_frame(other, self->mem));
	EXPECT_PIPE(0, page_size, 0);
}

TEST_F_TIMEOUT(backing, gone_while_in_the_pipe, TIMEOUT)
{
	/* Odd bytes: a copy has them at the place that they have in the page. */
	size_t from = 123, len = 4 * page_size - 200;
	struct iovec iov = { self->mem + from, len };
	bool zero = variant->backing == ZERO_PAGE;

	ASSERT_EQ((ssize_t)len, pvm(self->pid, self->wr, &iov, 1, 0));
	ASSERT_FALSE(command(self->ctl, 'z', 0, 0));
	wait_for_state(self->pid, 'Z');
	ASSERT_EQ((ssize_t)len, read_all(self->rd, self->buf, len));
	for (size_t i = 0; i < len; i++)
		ASSERT_EQ(zero ? 0 : pattern(from + i, 0), self->buf[i]);
}

/*
 * A page may change hands during a call: a child unmaps what it shares with its parent,
 * and the parent, by then the only one who maps it, writes. hugetlb gives it the page
 * for that, even if the child's call has taken a reference and not copied the bytes yet.
 * No bytes of the parent's may come out. The time between the two is short;
 * scripts/checks/mutants makes it long.
 */
FIXTURE(last_owner)
{
	unsigned char *mem;
	size_t size;
};

FIXTURE_VARIANT(last_owner)
{
	enum backing backing;
};

FIXTURE_VARIANT_ADD(last_owner, anon) { .backing = ANON };
FIXTURE_VARIANT_ADD(last_owner, hugetlb) { .backing = HUGETLB };

FIXTURE_SETUP(last_owner)
{
	self->size = page_size;
	self->mem = map_backing(variant->backing, &self->size, -1);
	if (self->mem == MAP_FAILED)
		SKIP(return, "the kernel has no such memory");
}

FIXTURE_TEARDOWN(last_owner)
{
}

/* 0 if the call got nothing, or what the memory was at the time of fork(). */
static int give_away_during_a_call(unsigned char *mem, size_t size, int parent, bool late)
{
	unsigned char *buf = malloc(page_size);
	struct iovec iov = { mem, page_size };
	int p[2];
	struct caller c = { .pid = getpid(), .iov = &iov, .nr_segs = 1 };
	char byte = 0;
	ssize_t ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (pipe(p))
		return 1;
	c.fd = p[1];
	pthread_create(&c.thread, NULL, caller_main, &c);
	while (!__atomic_load_n(&c.tid, __ATOMIC_ACQUIRE))
		;
	/* Asleep in the call, or at its end. */
	while (late && thread_state(c.tid) == 'R')
		sched_yield();
	munmap(mem, size);
	if (write(parent, &byte, 1) != 1 || read(parent, &byte, 1) != 1)
		return 2;
	ret = caller_join(&c);
	if (ret == -EFAULT)
		return 0;
	if (ret != (ssize_t)page_size || read_all(p[0], buf, page_size) != ret)
		return 3;
	return differs(buf, 0, page_size, 0) == page_size ? 0 : 4;
}

TEST_F_TIMEOUT(last_owner, its_bytes_stay_its_own, TIMEOUT)
{
	int sv[2], status;
	char byte;
	pid_t pid;

	for (int round = 0; round < 40; round++) {
		set_pattern(self->mem, 0, page_size, 0);
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
		pid = fork();
		if (!pid)
			_exit(give_away_during_a_call(self->mem, self->size, sv[1], round % 2));
		close(sv[1]);
		ASSERT_EQ(1, read(sv[0], &byte, 1));
		set_pattern(self->mem, 0, page_size, 1);
		ASSERT_EQ(1, write(sv[0], &byte, 1));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_EQ(0, status);
		close(sv[0]);
	}
}

struct changer {
	pthread_t thread;
	unsigned char *mem;
	size_t size;
	bool stop;
};

static void *keep_changing(void *arg)
{
	struct changer *c = arg;

	while (!__atomic_load_n(&c->stop, __ATOMIC_RELAXED)) {
		madvise(c->mem, c->size, MADV_DONTNEED);
		*(volatile unsigned char *)c->mem = 1;
	}
	return NULL;
}

/*
 * Assert that EAGAIN means a full pipe and nothing else: a page that the target
 * keeps exchanging is looked up anew inside the call.
 */
TEST_F_TIMEOUT(last_owner, exchanged_all_the_time, TIMEOUT)
{
	struct changer c = { .mem = self->mem, .size = self->size };
	struct iovec iov = { self->mem, page_size };
	int p[2], others = 0;

	ASSERT_EQ(0, pipe(p));
	ASSERT_EQ(0, pthread_create(&c.thread, NULL, keep_changing, &c));
	for (int i = 0; i < 2000; i++) {
		ssize_t ret = pvm(getpid(), p[1], &iov, 1, SPLICE_F_NONBLOCK);

		if (ret == (ssize_t)page_size && drain(p[0], page_size))
			continue;
		if (!others++)
			TH_LOG("call %d returned %zd", i, ret);
	}
	__atomic_store_n(&c.stop, true, __ATOMIC_RELAXED);
	pthread_join(c.thread, NULL);
	EXPECT_EQ(0, others);
}

SUPERVISED_HARNESS_MAIN
