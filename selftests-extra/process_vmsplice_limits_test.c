// SPDX-License-Identifier: GPL-2.0
/*
 * What process_vmsplice() returns for memory that is short or not there yet,
 * and which process pays for what is in the pipe. All of it needs root.
 */
#define _GNU_SOURCE
#include <sys/mount.h>
#include "pvm_test.h"

#define PAGES 256
#define CGROUP "/sys/fs/cgroup/process_vmsplice_"

FIXTURE(limits) {
	TARGET_MEMBERS;
};

FIXTURE_SETUP(limits)
{
	self->size = PAGES * page_size;
	self->mem = map_small(self->size);
	ASSERT_FALSE(!self->mem);
	START_TARGET();
	ASSERT_LT(0, fcntl(self->wr, F_SETPIPE_SZ, self->size));
}

FIXTURE_TEARDOWN(limits)
{
	kill(self->pid, SIGKILL);
	waitpid(self->pid, NULL, 0);
	write_file("/sys/fs/cgroup/cgroup.procs", "0");
	undo_change(undo_create, CGROUP "caller");
	undo_change(undo_create, CGROUP "target");
}

/* The process, or the caller if it is 0, in a memory cgroup of its own. */
static bool isolate(const char *dir, pid_t pid)
{
	char path[128], text[16];

	write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	note_change(undo_create, dir, "");
	if (mkdir(dir, 0700))
		return false;
	snprintf(path, sizeof(path), "%s/memory.current", dir);
	if (access(path, R_OK))
		return false;
	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	snprintf(text, sizeof(text), "%d", pid);
	return write_file(path, text);
}

/* In pages. */
static long charged(const char *dir)
{
	char path[128], text[64] = "0";

	snprintf(path, sizeof(path), "%s/memory.current", dir);
	read_setting(path, text, sizeof(text));
	return atol(text) / (long)page_size;
}

/* Charges are made for many pages at once, for each CPU. */
#define MANY (PAGES / 2)

/* Assert that the target pays for its pages, and the caller for copies. */
TEST_F_TIMEOUT(limits, who_pays, TIMEOUT)
{
	struct iovec file = { .iov_len = self->size };
	long caller, target;

	file.iov_base = mmap(NULL, self->size, PROT_READ, MAP_SHARED,
			     pattern_file(self->size, OLD_BYTES), 0);
	ASSERT_TRUE(file.iov_base != MAP_FAILED);
	if (!isolate(CGROUP "caller", 0) || !isolate(CGROUP "target", self->pid))
		SKIP(return, "no cgroups with the memory controller for us");

	/* The target pays for its faults, and for what it shares. */
	TELL(WRITE_OLD, 0, self->size / 2);
	caller = charged(CGROUP "caller");
	target = charged(CGROUP "target");
	ASSERT_EQ((ssize_t)(self->size / 2), PVM(0, self->size / 2, 0));
	EXPECT_GT(MANY, charged(CGROUP "caller") - caller);
	EXPECT_GT(MANY, charged(CGROUP "target") - target);
	ASSERT_TRUE(drain(self->rd, self->size / 2));

	/* The call brings back what the target has written, and swapped out. */
	TELL(MAP_ANEW, 0, self->size);
	TELL(WRITE_OLD, 0, self->size);
	TELL(PAGE_OUT, 0, self->size);
	target = charged(CGROUP "target");
	ASSERT_EQ((ssize_t)self->size, PVM(0, self->size, SPLICE_F_NONBLOCK));
	EXPECT_PIPE(0, self->size, OLD_BYTES);
	EXPECT_LE(target, charged(CGROUP "target"));

	/* The caller pays for a copy, until something consumes it. */
	caller = charged(CGROUP "caller");
	ASSERT_EQ((ssize_t)self->size, pvm(getpid(), self->wr, &file, 1, 0));
	EXPECT_LT(MANY, charged(CGROUP "caller") - caller);
	EXPECT_PIPE(0, self->size, OLD_BYTES);
	EXPECT_GT(MANY, charged(CGROUP "caller") - caller);
}

/* Assert that the target pays for a hole that the call faults in. */
TEST(who_pays_for_a_hole)
{
	size_t size = PAGES * page_size;
	struct iovec iov = { .iov_len = size };
	int ctl[MAX_SERVERS], rd, wr;
	long was;
	pid_t pid;

	iov.iov_base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			    -1, 0);
	ASSERT_TRUE(iov.iov_base != MAP_FAILED);
	pid = start_target(iov.iov_base, ctl);
	ASSERT_LT(0, pid);
	ASSERT_TRUE(open_pipe(&rd, &wr, PAGES));
	if (!isolate(CGROUP "hole", pid))
		SKIP(return, "no cgroups with the memory controller for us");
	was = charged(CGROUP "hole");
	ASSERT_EQ((ssize_t)size, pvm(pid, wr, &iov, 1, 0));
	EXPECT_LT(MANY, charged(CGROUP "hole") - was);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	undo_change(undo_create, CGROUP "hole");
}

/* Assert that the call fails if no huge page is free for a hole. */
TEST_F_TIMEOUT(limits, hole_without_a_huge_page, TIMEOUT)
{
	struct iovec iov = { .iov_len = 1 };

	if (!hugetlb_size() || missing_huge_pages(1) <= 0)
		SKIP(return, "no huge pages, or some that are free");
	iov.iov_base = mmap(NULL, hugetlb_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE |
			    MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
	ASSERT_TRUE(iov.iov_base != MAP_FAILED);
	EXPECT_EQ(-EFAULT, pvm(getpid(), self->wr, &iov, 1, 0));
}

/* Assert that the call fails if a tmpfs has no page for a hole. */
TEST_F_TIMEOUT(limits, hole_of_a_full_tmpfs, TIMEOUT)
{
	struct iovec iov = { .iov_len = 1 };
	char *mem;
	int fd;

	/* In a mount namespace of the test's own, and so gone with it. */
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", "/tmp", "tmpfs", 0, "nr_blocks=1"))
		SKIP(return, "may not mount a tmpfs");
	fd = open("/tmp/file", O_RDWR | O_CREAT, 0600);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, 2 * page_size));
	mem = mmap(NULL, 2 * page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_TRUE(mem != MAP_FAILED);
	mem[0] = 1;
	iov.iov_base = mem;
	EXPECT_EQ(1, pvm(getpid(), self->wr, &iov, 1, 0));
	iov.iov_base = mem + page_size;
	EXPECT_EQ(-EFAULT, pvm(getpid(), self->wr, &iov, 1, 0));
}

PVM_HARNESS_MAIN
