// SPDX-License-Identifier: GPL-2.0
/*
 * Tests that process_vmsplice() always comes to an end, and lets others come to
 * theirs: while a fault of the target is not resolved, while the pipe is full,
 * and whatever state the target is in.
 *
 * The faults are those of userfaultfd: the test decides when it resolves them,
 * and gets a message when the caller has met one.
 */
#define _GNU_SOURCE
#include "pvm_fault.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

/* A caller that has met a fault. Its target is a child, or the test itself. */
FIXTURE(fault) {
	TARGET_MEMBERS;
	int uffd;
};

FIXTURE_VARIANT(fault) {
	bool own;
};

FIXTURE_VARIANT_ADD(fault, of_a_child) { .own = false };
FIXTURE_VARIANT_ADD(fault, of_its_own) { .own = true };

FIXTURE_SETUP(fault)
{
	self->size = REGION_SIZE;
	self->mem = map_small(self->size);
	ASSERT_FALSE(!self->mem);
	if (variant->own) {
		self->pid = getpid();
		self->uffd = make_region(self->mem);
	} else {
		self->pid = start_faulting_target(self->mem, &self->uffd);
	}
	ASSERT_LT(0, self->pid);
	if (self->uffd < 0)
		SKIP(return, "no userfaultfd() for faults of the kernel");
	OPEN_PIPE();
	handle_signal(SIGUSR1, count_signal, 0);
	handle_signal(SIGPIPE, count_signal, 0);
}

FIXTURE_TEARDOWN(fault) {}

#define RESOLVE() ASSERT_TRUE(resolve(self->uffd, self->mem))
#define RESOLVE_PAGE(page)						\
	ASSERT_TRUE(resolve_page(self->uffd, self->mem, page))

#define PREFILL "0123456789"
#define PREFILL_LEN 10

/* Assert that whoever resolves the faults may first block in a read(). */
TEST_F_TIMEOUT(fault, resolver_reads_the_pipe, TIMEOUT)
{
	struct caller c = CALLER(THERE, 3 * page_size);
	size_t page = PRESENT, first = PRESENT;

	ASSERT_EQ(PREFILL_LEN, write(self->wr, PREFILL, PREFILL_LEN));
	caller_start_faulting(&c, self->uffd);
	ASSERT_TRUE(drain(self->rd, PREFILL_LEN));
	for (;;) {
		RESOLVE_PAGE(page);
		ASSERT_EQ((ssize_t)page_size,
			  read_all(self->rd, self->buf, page_size));
		EXPECT_EQ(page_size, differs(self->buf, page * page_size,
					     page_size, OLD_BYTES));
		if (++page == PRESENT + 3)
			break;
		if (next_fault(self->uffd))
			continue;
		/* The reader had the pipe's lock, so the count is short. */
		EXPECT_EQ((ssize_t)((page - first) * page_size),
			  caller_join(&c));
		first = page;
		c.iov = RANGE(page * page_size,
			      (PRESENT + 3 - page) * page_size);
		caller_start_faulting(&c, self->uffd);
	}
	EXPECT_EQ((ssize_t)((page - first) * page_size), caller_join(&c));
	EXPECT_EQ(0, in_pipe(self->rd));
}

/* Assert that what is present does not wait, and the call holds nothing. */
TEST_F_TIMEOUT(fault, pages_before_it_are_in_the_pipe, TIMEOUT)
{
	struct caller c = CALLER(0, THERE + page_size);
	bool two_nodes = has_two_nodes();

	caller_start_faulting(&c, self->uffd);
	EXPECT_PIPE(0, THERE, OLD_BYTES);
	for (size_t i = 0; two_nodes && i < PRESENT; i++) {
		EXPECT_TRUE(can_move(self->pid, self->mem + i * page_size)) {
			TH_LOG("held: page %zu", i);
		}
	}
	RESOLVE_PAGE(PRESENT);
	EXPECT_EQ((ssize_t)(THERE + page_size), caller_join(&c));
	EXPECT_PIPE(THERE, page_size, OLD_BYTES);
}

/* Assert that ranges before the fault do not wait for it, either. */
TEST_F_TIMEOUT(fault, ranges_before_it_are_in_the_pipe, TIMEOUT)
{
	struct iovec iov[3] = {
		*RANGE(0, 5), *RANGE(9, 7), *RANGE(THERE, page_size),
	};
	struct caller c = CALLER(0, 0);

	c.iov = iov;
	c.nr_segs = 3;
	caller_start_faulting(&c, self->uffd);
	EXPECT_EQ(12, in_pipe(self->rd));
	ASSERT_TRUE(drain(self->rd, 12));
	RESOLVE_PAGE(PRESENT);
	EXPECT_EQ((ssize_t)(12 + page_size), caller_join(&c));
	EXPECT_PIPE(THERE, page_size, OLD_BYTES);
}

/* Assert that the call faults in no page for which it has no slot. */
TEST_F_TIMEOUT(fault, none_without_a_slot, TIMEOUT)
{
	ASSERT_TRUE(open_pipe(&self->rd, &self->wr, PRESENT));
	EXPECT_EQ((ssize_t)THERE, PVM(0, THERE + page_size, 0));
	EXPECT_TRUE(no_fault_so_far(self->uffd));
	EXPECT_PIPE(0, THERE, OLD_BYTES);
}

/* Assert that others use pipe and memory while the call is in a fault. */
TEST_F_TIMEOUT(fault, pipe_is_free_meanwhile, TIMEOUT)
{
	struct pollfd ends[] = { { self->rd, POLLIN }, { self->wr, POLLOUT } };
	struct caller c = CALLER(THERE, page_size);
	int size = 4 * page_size, null = open("/dev/null", O_WRONLY);

	ASSERT_EQ(PREFILL_LEN, write(self->wr, PREFILL, PREFILL_LEN));
	caller_start_faulting(&c, self->uffd);
	EXPECT_EQ(PREFILL_LEN, in_pipe(self->rd));
	EXPECT_EQ(2, poll(ends, 2, 0));
	EXPECT_EQ(size, fcntl(self->wr, F_SETPIPE_SZ, size));
	EXPECT_TRUE(drain(self->rd, 3));
	EXPECT_EQ(3, splice(self->rd, NULL, null, NULL, 3, 0));
	EXPECT_EQ(1, write(self->wr, "x", 1));
	EXPECT_EQ(0, munmap(map_anon(page_size), page_size));
	RESOLVE();
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	ASSERT_TRUE(drain(self->rd, PREFILL_LEN - 5));
	EXPECT_PIPE(THERE, page_size, OLD_BYTES);
}

/* Assert that another call proceeds while one is in a fault. */
TEST_F_TIMEOUT(fault, another_caller_meanwhile, TIMEOUT)
{
	struct caller c = CALLER(THERE, page_size);

	caller_start_faulting(&c, self->uffd);
	ASSERT_EQ((ssize_t)page_size, PVM(0, page_size, 0));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
	RESOLVE();
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	EXPECT_PIPE(THERE, page_size, OLD_BYTES);
}

/* Assert that the call fills what slots a resized pipe has. */
TEST_F_TIMEOUT(fault, pipe_is_resized_meanwhile, TIMEOUT)
{
	struct caller c = CALLER(THERE, 3 * page_size);

	ASSERT_EQ((int)page_size, fcntl(self->wr, F_SETPIPE_SZ, page_size));
	caller_start_faulting(&c, self->uffd);
	ASSERT_LT(0, fcntl(self->wr, F_SETPIPE_SZ, 4 * page_size));
	RESOLVE();
	EXPECT_EQ((ssize_t)(3 * page_size), caller_join(&c));
	EXPECT_PIPE(THERE, 3 * page_size, OLD_BYTES);
}

/* Assert that the count is short if the pipe has shrunk. */
TEST_F_TIMEOUT(fault, pipe_shrinks_meanwhile, TIMEOUT)
{
	struct caller c = CALLER(THERE, 3 * page_size);

	caller_start_faulting(&c, self->uffd);
	ASSERT_EQ((int)page_size, fcntl(self->wr, F_SETPIPE_SZ, page_size));
	RESOLVE();
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	EXPECT_PIPE(THERE, page_size, OLD_BYTES);
}

/* Assert that the call waits again if its slot is taken, without EAGAIN. */
TEST_F_TIMEOUT(fault, room_taken_meanwhile, TIMEOUT)
{
	struct caller c = CALLER(THERE, page_size);

	caller_start_faulting(&c, self->uffd);
	ASSERT_TRUE(fill_pipe(self->wr));
	RESOLVE();
	wait_until_blocked(&c);
	EXPECT_EQ((int)(self->slots * page_size), in_pipe(self->rd));
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	ASSERT_TRUE(drain(self->rd, (self->slots - 1) * page_size));
	EXPECT_PIPE(THERE, page_size, OLD_BYTES);
}

/* Assert that a nonblocking call waits for faults alone, and frees its pages. */
TEST_F_TIMEOUT(fault, room_taken_meanwhile_nonblocking, TIMEOUT)
{
	struct caller c = CALLER(THERE, 3 * page_size);
	bool two_nodes = has_two_nodes();

	c.flags = SPLICE_F_NONBLOCK;
	caller_start_faulting(&c, self->uffd);
	ASSERT_TRUE(fill_pipe(self->wr));
	RESOLVE();
	EXPECT_EQ(-EAGAIN, caller_join(&c));
	EXPECT_EQ((int)(self->slots * page_size), in_pipe(self->rd));
	for (size_t page = PRESENT; two_nodes && page < PRESENT + 3; page++) {
		EXPECT_TRUE(can_move(self->pid, self->mem + page * page_size)) {
			TH_LOG("still held: page %zu", page);
		}
	}
}

/* Assert that the call returns EPIPE if the reader leaves. */
TEST_F_TIMEOUT(fault, reader_leaves_meanwhile, TIMEOUT)
{
	struct caller c = CALLER(THERE, page_size);

	caller_start_faulting(&c, self->uffd);
	close(self->rd);
	RESOLVE();
	EXPECT_EQ(-EPIPE, caller_join(&c));
	EXPECT_EQ(1, nr_signals);
}

/* Assert that SIGPIPE comes, as of write(), even with a count. */
TEST_F_TIMEOUT(fault, reader_leaves_after_some_pages, TIMEOUT)
{
	struct caller c = CALLER(0, THERE + page_size);

	caller_start_faulting(&c, self->uffd);
	close(self->rd);
	RESOLVE();
	EXPECT_EQ((ssize_t)THERE, caller_join(&c));
	EXPECT_EQ(1, nr_signals);
}

/* Assert that SIGKILL ends a call in a fault, and leaves no lock behind. */
TEST_F_TIMEOUT(fault, killed, TIMEOUT)
{
	pid_t caller = fork_caller(self->pid, self->wr, self->mem + THERE,
				   page_size);

	ASSERT_LT(0, caller);
	ASSERT_TRUE(next_fault(self->uffd));
	ASSERT_EQ(0, kill(caller, SIGKILL));
	EXPECT_EQ(SIGKILL, exit_status(caller));
	EXPECT_EQ(0, in_pipe(self->rd));
	RESOLVE();
	ASSERT_EQ((ssize_t)page_size, PVM(THERE, page_size, 0));
	EXPECT_PIPE(THERE, page_size, OLD_BYTES);
}

/* Assert that a signal in a fault gives the count so far, or EINTR. */
TEST_F_TIMEOUT(fault, interrupted, TIMEOUT)
{
	struct iovec two[2] = { *RANGE(3, 7), *RANGE(THERE, page_size) };
	const struct {
		const struct iovec *iov;
		unsigned long nr_segs;
		ssize_t before;
	} cases[] = {
		{ RANGE(THERE, page_size), 1, 0 },
		{ RANGE(0, THERE + page_size), 1, THERE },
		{ two, 2, 7 },
	};
	struct caller c = CALLER(0, 0);

	if (!signals_end_faults())
		SKIP(return, "only a fatal signal ends a fault in this kernel");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		ssize_t expected = cases[i].before;

		c.iov = cases[i].iov;
		c.nr_segs = cases[i].nr_segs;
		caller_start_faulting(&c, self->uffd);
		pthread_kill(c.thread, SIGUSR1);
		EXPECT_EQ(expected ?: -EINTR, caller_join(&c));
		EXPECT_EQ((int)i + 1, nr_signals);
		EXPECT_PIPE((unsigned char *)c.iov->iov_base - self->mem, expected, OLD_BYTES);
	}
}

/* Assert that SA_RESTART restarts a call that was in a fault. */
TEST_F_TIMEOUT(fault, restarted, TIMEOUT)
{
	struct caller c = CALLER(THERE, page_size);
	char state;

	handle_signal(SIGUSR1, count_signal, SA_RESTART);
	state = caller_start_faulting(&c, self->uffd);
	pthread_kill(c.thread, SIGUSR1);
	/* Restarted, it meets the fault again; else it was not disturbed. */
	ASSERT_TRUE(state == 'D' || next_fault(self->uffd));
	RESOLVE();
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	EXPECT_EQ(1, nr_signals);
	EXPECT_PIPE(THERE, page_size, OLD_BYTES);
}

/* Assert that a signal gives EINTR even if the slots are gone. */
TEST_F_TIMEOUT(fault, interrupted_with_the_room_taken, TIMEOUT)
{
	struct caller c = CALLER(THERE, page_size);
	char state = caller_start_faulting(&c, self->uffd);

	/* No slot is left for the page that faults. */
	ASSERT_TRUE(fill_pipe(self->wr));
	pthread_kill(c.thread, SIGUSR1);
	ASSERT_TRUE(state == 'S' || resolve(self->uffd, self->mem));
	EXPECT_EQ(-EINTR, caller_join(&c));
	EXPECT_EQ(1, nr_signals);
	EXPECT_EQ((int)(self->slots * page_size), in_pipe(self->rd));
}

/* A thread that locks the pipe, as its splice() waits for a full socket. */
struct stuck {
	pthread_t thread;
	pid_t tid;
	int rd, sv[2];
	ssize_t ret;
};

static void *stuck_main(void *arg)
{
	struct stuck *s = arg;

	__atomic_store_n(&s->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	s->ret = splice(s->rd, NULL, s->sv[0], NULL, PREFILL_LEN, 0);
	return NULL;
}

static bool get_stuck(struct stuck *s, int rd, int wr)
{
	*s = (struct stuck){ .rd = rd };
	/* Datagrams: 6.1 adds any number of pages to a stream's last buffer. */
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s->sv))
		return false;
	while (send(s->sv[0], PREFILL, PREFILL_LEN, MSG_DONTWAIT) == PREFILL_LEN)
		;
	if (write(wr, PREFILL, PREFILL_LEN) != PREFILL_LEN ||
	    pthread_create(&s->thread, NULL, stuck_main, s))
		return false;
	while (!__atomic_load_n(&s->tid, __ATOMIC_ACQUIRE))
		sched_yield();
	wait_for_state(s->tid, 'S');
	return true;
}

/* Whether it has sent what it had. */
static bool get_unstuck(struct stuck *s)
{
	char buf[PREFILL_LEN];

	while (recv(s->sv[1], buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
	pthread_join(s->thread, NULL);
	return s->ret == PREFILL_LEN;
}

/* Assert that a signal ends the wait for the lock, as NONBLOCK does not. */
TEST_F_TIMEOUT(fault, interrupted_at_the_start_while_the_pipe_is_locked, TIMEOUT)
{
	struct caller c = CALLER(0, 1);
	struct stuck s;

	c.flags = SPLICE_F_NONBLOCK;
	ASSERT_TRUE(get_stuck(&s, self->rd, self->wr));
	caller_start_blocked(&c);
	ASSERT_EQ(0, pthread_kill(c.thread, SIGUSR1));
	EXPECT_EQ(-EINTR, caller_join(&c));
	EXPECT_EQ(1, nr_signals);
	ASSERT_TRUE(get_unstuck(&s));
	EXPECT_EQ(0, in_pipe(self->rd));
}

/* Assert that a signal ends a wait for the lock with pages in hand, too. */
TEST_F_TIMEOUT(fault, interrupted_at_the_end_while_the_pipe_is_locked, TIMEOUT)
{
	struct caller c = CALLER(THERE, page_size);
	struct stuck s;
	char path[64];
	long sleeps;

	caller_start_faulting(&c, self->uffd);
	ASSERT_TRUE(get_stuck(&s, self->rd, self->wr));
	snprintf(path, sizeof(path), "/proc/self/task/%d/status", c.tid);
	sleeps = read_number(path, "voluntary_ctxt_switches");
	RESOLVE();
	while (read_number(path, "voluntary_ctxt_switches") == sleeps)
		sched_yield();
	wait_until_blocked(&c);
	ASSERT_EQ(0, pthread_kill(c.thread, SIGUSR1));
	EXPECT_EQ(-EINTR, caller_join(&c));
	EXPECT_EQ(1, nr_signals);
	ASSERT_TRUE(get_unstuck(&s));
	EXPECT_EQ(0, in_pipe(self->rd));
}

/* Assert that a call that has inserted something waits for the lock no more. */
TEST_F_TIMEOUT(fault, returns_while_the_pipe_is_locked, TIMEOUT)
{
	struct caller c = CALLER(0, THERE + page_size);
	struct stuck s;

	caller_start_faulting(&c, self->uffd);
	ASSERT_TRUE(get_stuck(&s, self->rd, self->wr));
	RESOLVE();
	EXPECT_EQ((ssize_t)THERE, caller_join(&c));
	ASSERT_TRUE(get_unstuck(&s));
	EXPECT_EQ((int)THERE, in_pipe(self->rd));
}

/* Assert that the call works on a target that is paused. */
TEST_F_TIMEOUT(paused, target, TIMEOUT)
{
	/* Memory that it has, and memory that the call faults in for it. */
	struct iovec iov[2] = { *RANGE(0, THERE), { self->fresh, page_size } };
	ssize_t len = THERE + page_size;

	ASSERT_TRUE(variant->pause(self->pid));
	ASSERT_EQ(len, pvm(self->pid, self->wr, iov, 2, 0));
	EXPECT_EQ(len, in_pipe(self->rd));
	ASSERT_EQ(len, read_all(self->rd, self->buf, len));
	EXPECT_EQ(THERE, differs(self->buf, 0, THERE, OLD_BYTES));
	EXPECT_TRUE(is_filled(self->buf + THERE, page_size, 0));
	EXPECT_TRUE(variant->resume(self->pid));
}

FIXTURE(going) {
	TARGET_MEMBERS;
	int pipe[2];	/* for them to say something */
};

FIXTURE_SETUP(going)
{
	self->size = REGION_SIZE;
	self->mem = map_small(self->size);
	ASSERT_FALSE(!self->mem);
	OPEN_PIPE();
	fcntl(self->rd, F_SETFD, FD_CLOEXEC);
	ASSERT_EQ(0, pipe(self->pipe));
}

FIXTURE_TEARDOWN(going)
{
	if (self->pid > 0)
		kill(self->pid, SIGKILL);
}

/* Assert that the target dies at once, and the call keeps its memory. */
TEST_F_TIMEOUT(going, killed_during_a_fault, TIMEOUT)
{
	struct caller c = CALLER(THERE, page_size);
	char byte;
	int uffd;

	self->pid = start_faulting_target(self->mem, &uffd);
	ASSERT_LT(0, self->pid);
	if (uffd < 0)
		SKIP(return, "no userfaultfd() for faults of the kernel");
	c.pid = self->pid;
	caller_start_faulting(&c, uffd);
	ASSERT_EQ(0, kill(self->pid, SIGKILL));
	wait_for_state(self->pid, 'Z');
	ASSERT_TRUE(resolve_page(uffd, self->mem, PRESENT));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	EXPECT_PIPE(THERE, page_size, OLD_BYTES);
	EXPECT_EQ(-ESRCH, PVM(THERE, page_size, 0));
	EXPECT_EQ(-ESRCH, readv_from(self->pid, self->mem, &byte, 1));
}

/* Report by the pid that this process or thread is there, and stay. */
static int say_pid(void *fd)
{
	pid_t pid = syscall(SYS_gettid);

	die_with_parent();
	if (write(*(int *)fd, &pid, sizeof(pid)) != sizeof(pid))
		_exit(1);
	for (;;)
		pause();
}

static pid_t hear_pid(int fd)
{
	pid_t pid;

	return read_all(fd, &pid, sizeof(pid)) == sizeof(pid) ? pid : -1;
}

/* A parent that vfork() keeps waiting; the child fills the second page. */
static void vfork_target(unsigned char *mem, int fd)
{
	set_pattern(mem, 0, page_size, OLD_BYTES);
	if (vfork())
		_exit(0);
	set_pattern(mem, page_size, 2 * page_size, OLD_BYTES);
	say_pid(&fd);
}

/* Assert that the call works on parent and child of vfork(). */
TEST_F_TIMEOUT(going, vfork, TIMEOUT)
{
	ssize_t len = 2 * page_size;
	pid_t child;

	self->pid = fork();
	if (!self->pid)
		vfork_target(self->mem, self->pipe[1]);
	child = hear_pid(self->pipe[0]);
	wait_for_state(self->pid, 'D');
	ASSERT_EQ(len, PVM(0, len, 0));
	EXPECT_PIPE(0, len, OLD_BYTES);
	ASSERT_EQ(len, pvm(child, self->wr, RANGE(0, len), 1, 0));
	EXPECT_PIPE(0, len, OLD_BYTES);
	EXPECT_EQ('D', thread_state(self->pid));
	kill(child, SIGKILL);
}

/* Assert that the call goes on while any process has the memory. */
TEST_F_TIMEOUT(going, sharer_stays_during_the_wait, TIMEOUT)
{
	struct caller c = CALLER(0, page_size);
	char *stack = (char *)map_anon(16 * page_size);
	pid_t sharer;

	set_pattern(self->mem, 0, page_size, OLD_BYTES);
	c.pid = fork();
	if (!c.pid) {
		/* The test's child, to die with it. syscall() reads above. */
		clone(say_pid, stack + 15 * page_size,
		      CLONE_VM | CLONE_PARENT, &self->pipe[1]);
		for (;;)
			pause();
	}
	sharer = hear_pid(self->pipe[0]);
	ASSERT_LT(0, sharer);
	ASSERT_TRUE(fill_pipe(self->wr));
	caller_start_blocked(&c);
	ASSERT_EQ(0, kill(c.pid, SIGKILL));
	wait_for_state(c.pid, 'Z');
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	ASSERT_TRUE(drain(self->rd, (self->slots - 1) * page_size));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
	kill(sharer, SIGKILL);
}

static void *stay(void *fd)
{
	say_pid(fd);
	return NULL;
}

/* A leader exits; a thread stays, and reports its id. */
static void leaderless_target(unsigned char *mem, int fd)
{
	pthread_t thread;

	set_pattern(mem, 0, page_size, OLD_BYTES);
	pthread_create(&thread, NULL, stay, &fd);
	syscall(SYS_exit, 0);
}

/* -ESRCH where the kernel has no such pidfd, as Linux before 6.9. */
static ssize_t pvm_pidfd(pid_t pid, unsigned int flags, int wr,
			 const struct iovec *iov)
{
	int pidfd = syscall(SYS_pidfd_open, pid, flags);
	ssize_t ret = -ESRCH;

	if (pidfd >= 0)
		ret = pvm(pidfd, wr, iov, 1, PROCESS_VMSPLICE_PIDFD);
	close(pidfd);
	return ret;
}

/* Assert that a thread's id works, but no pidfd, when the leader has exited. */
TEST_F_TIMEOUT(going, leader_has_exited, TIMEOUT)
{
	struct iovec iov = *RANGE(0, page_size);
	char byte;
	pid_t tid;

	self->pid = fork();
	if (!self->pid)
		leaderless_target(self->mem, self->pipe[1]);
	tid = hear_pid(self->pipe[0]);
	wait_for_state(self->pid, 'Z');
	EXPECT_EQ(-ESRCH, PVM(0, page_size, 0));
	EXPECT_EQ(-ESRCH, readv_from(self->pid, self->mem, &byte, 1));
	/* Whoever asks for the thread gets the memory. */
	EXPECT_EQ(1, readv_from(tid, self->mem, &byte, 1));
	ASSERT_EQ((ssize_t)page_size, pvm(tid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
	/* A pidfd, even of the thread, stands for the leader. */
	EXPECT_EQ(-ESRCH, pvm_pidfd(self->pid, 0, self->wr, &iov));
	EXPECT_EQ(-ESRCH, pvm_pidfd(tid, PIDFD_THREAD, self->wr, &iov));
}

/* Make the test an ordinary user, and start a target as one. */
#define START_AS_NOBODY() do {						\
	if (!getuid()) {						\
		ASSERT_EQ(0, setresgid(NOBODY, NOBODY, NOBODY));	\
		ASSERT_EQ(0, setresuid(NOBODY, NOBODY, NOBODY));	\
	}								\
	/* Which a change of ids undoes. */				\
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);				\
	self->pid = start_target(self->mem, self->ctl);		\
	ASSERT_LT(0, self->pid);					\
	TELL(WRITE_OLD, 0, self->size);					\
} while (0)

/* Assert that a call never goes on with a new program. */
TEST_F_TIMEOUT(going, exec_during_the_wait, TIMEOUT)
{
	struct iovec image = { IMAGE, page_size };
	struct caller c = CALLER(0, page_size);

	START_AS_NOBODY();
	c.pid = self->pid;
	ASSERT_TRUE(fill_pipe(self->wr));
	caller_start_blocked(&c);
	TELL(EXEC, 0, 0);
	ASSERT_TRUE(drain(self->rd, self->slots * page_size));
	EXPECT_EQ(-ESRCH, caller_join(&c));
	EXPECT_EQ(0, in_pipe(self->rd));
	ASSERT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &image, 1, 0));
	EXPECT_PIPE(0, page_size, NEW_BYTES);
}

/* Assert that the call asks for permission once, at its start. */
TEST_F_TIMEOUT(going, undumpable_during_the_wait, TIMEOUT)
{
	struct caller c = CALLER(0, page_size);

	START_AS_NOBODY();
	c.pid = self->pid;
	ASSERT_TRUE(fill_pipe(self->wr));
	caller_start_blocked(&c);
	TELL(BE_UNDUMPABLE, 0, 0);
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	ASSERT_TRUE(drain(self->rd, (self->slots - 1) * page_size));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
	EXPECT_EQ(-EPERM, PVM(0, page_size, 0));
}

PVM_HARNESS_MAIN
