// SPDX-License-Identifier: GPL-2.0
/*
 * Tests that process_vmsplice() always comes to an end, and lets others come to
 * theirs: while a fault of the target is not resolved, while the pipe is full,
 * and whatever state the target is in.
 *
 * The faults are those of userfaultfd: the test decides when they are resolved, and
 * gets a message when the caller has met one.
 */
#define _GNU_SOURCE
#include <linux/userfaultfd.h>
#include <sys/mount.h>
#include <sys/utsname.h>
#include "pvm_test.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

/* Of the region, the first pages are there. The others fault until resolved. */
#define PRESENT 2
#define REGION_PAGES 8

static int watch_faults(void *mem, size_t size)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { (uintptr_t)mem, size },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	/* Not UFFD_USER_MODE_ONLY: it is the kernel that faults. */
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -1;
	if (!ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &reg))
		return fd;
	close(fd);
	return -1;
}

/* The thread or process that made the last call. */
static pid_t last_caller;

static bool next_fault(int uffd)
{
	struct pollfd pfd = { .fd = uffd, .events = POLLIN };
	struct uffd_msg msg;

	/* A call that has returned will not meet any. */
	while (!poll(&pfd, 1, 100))
		if (last_caller && strchr("ZX", thread_state(last_caller)))
			give_up("no fault: the caller has ended");
	return read(uffd, &msg, sizeof(msg)) == sizeof(msg) &&
	       msg.event == UFFD_EVENT_PAGEFAULT;
}

static bool no_fault_so_far(int uffd)
{
	struct pollfd faults = { uffd, POLLIN, 0 };

	return poll(&faults, 1, 0) == 0;
}

static bool resolve_page(int uffd, unsigned char *mem, size_t page)
{
	unsigned char *src = malloc(page_size);
	struct uffdio_copy copy = {
		.dst = (uintptr_t)mem + page * page_size,
		.src = (uintptr_t)src,
		.len = page_size,
	};
	bool ok;

	for (size_t i = 0; i < page_size; i++)
		src[i] = pattern(page * page_size + i, 0);
	ok = !ioctl(uffd, UFFDIO_COPY, &copy);
	free(src);
	return ok;
}

/* All that is missing. */
static bool resolve(int uffd, unsigned char *mem)
{
	for (size_t page = PRESENT; page < REGION_PAGES; page++)
		if (!resolve_page(uffd, mem, page))
			return false;
	return true;
}

static unsigned char *map_region(void)
{
	size_t size = REGION_PAGES * page_size;
	unsigned char *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		return NULL;
	madvise(mem, size, MADV_NOHUGEPAGE);
	return mem;
}

static int make_region(unsigned char *mem)
{
	set_pattern(mem, 0, PRESENT * page_size, 0);
	return watch_faults(mem, REGION_PAGES * page_size);
}

/* A child whose region faults. *uffd is a copy of its descriptor, or -1. */
static pid_t start_faulting_target(unsigned char *mem, int *uffd)
{
	int p[2], theirs = -1, pidfd;
	pid_t pid;

	if (pipe(p))
		return -1;
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		let_all_call();
		theirs = make_region(mem);
		if (write(p[1], &theirs, sizeof(theirs)) != sizeof(theirs))
			_exit(1);
		for (;;)
			pause();
	}
	close(p[1]);
	read_all(p[0], &theirs, sizeof(theirs));
	close(p[0]);
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	*uffd = syscall(SYS_pidfd_getfd, pidfd, theirs, 0);
	close(pidfd);
	return pid;
}

/* Since Linux 6.2, any signal ends the wait for userfaultfd. */
static bool signals_end_faults(void)
{
	struct utsname uts;
	int major, minor;

	return uname(&uts) || sscanf(uts.release, "%d.%d", &major, &minor) != 2 ||
	       major > 6 || (major == 6 && minor >= 2);
}

/*
 * The state in which a caller waits for its fault to be resolved, of which there has
 * been a message: S, or D in kernels where nothing but a fatal signal ends the wait.
 */
static char state_in_fault(pid_t tid)
{
	/* In the new ones, D may be seen as well, on the way: a lock on PREEMPT_RT. */
	char state = wait_for_states(tid, signals_end_faults() ? "S" : "SD");

	if (state == 'Z' || state == 'X')
		give_up("who met a fault has ended: %c", state);
	return state;
}

/* Start the call, and return when it has met a fault: the state, or 0. */
static char caller_start_faulting(struct caller *c, int uffd)
{
	c->tid = 0;
	if (pthread_create(&c->thread, NULL, caller_main, c))
		return 0;
	while (!(last_caller = __atomic_load_n(&c->tid, __ATOMIC_ACQUIRE)))
		sched_yield();
	return next_fault(uffd) ? state_in_fault(last_caller) : 0;
}

/* A process that makes one call, and exits with 0 if the result is as expected. */
static pid_t fork_caller(pid_t pid, int fd, void *addr, size_t len)
{
	struct iovec iov = { addr, len };
	pid_t caller = fork();
	ssize_t ret;

	last_caller = caller;
	if (caller)
		return caller;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ret = pvm(pid, fd, &iov, 1, 0);
	if (ret != (ssize_t)len)
		give_up("the call has returned %zd", ret);
	_exit(0);
}

static int exit_status(pid_t pid)
{
	int status;

	return waitpid(pid, &status, 0) == pid ? status : -1;
}

static int nr_sigpipe, nr_handled;

static void count_signal(int sig)
{
	__atomic_add_fetch(sig == SIGPIPE ? &nr_sigpipe : &nr_handled, 1,
			   __ATOMIC_RELAXED);
}

static void count_signals(int sig, int flags)
{
	struct sigaction sa = { .sa_handler = count_signal, .sa_flags = flags };

	sigaction(sig, &sa, NULL);
}

/* A caller that has met a fault. Its target is a child, or the test itself. */
FIXTURE(fault)
{
	TARGET_MEMBERS;
	int uffd;
};

FIXTURE_VARIANT(fault)
{
	bool own;
};

FIXTURE_VARIANT_ADD(fault, of_a_child) { .own = false };
FIXTURE_VARIANT_ADD(fault, of_its_own) { .own = true };

FIXTURE_SETUP(fault)
{
	int p[2];

	self->size = REGION_PAGES * page_size;
	self->buf = malloc(self->size);
	ASSERT_FALSE(!self->buf);
	self->mem = map_region();
	ASSERT_FALSE(!self->mem);
	if (variant->own) {
		self->pid = getpid();
		let_all_call();
		self->uffd = make_region(self->mem);
	} else {
		self->pid = start_faulting_target(self->mem, &self->uffd);
	}
	ASSERT_LT(0, self->pid);
	if (self->uffd < 0)
		SKIP(return, "no userfaultfd() for faults of the kernel");
	/* After the fork: the target must not keep an end open. */
	ASSERT_EQ(0, pipe(p));
	self->rd = p[0];
	self->wr = p[1];
	self->slots = pipe_slots(self->wr);
	ASSERT_LT(4, self->slots);
}

FIXTURE_TEARDOWN(fault)
{
}

#define CALLER(from, pages) {						\
	.pid = self->pid, .fd = self->wr, .nr_segs = 1,			\
	.iov = &(struct iovec){ self->mem + (from) * page_size,		\
				(pages) * page_size },			\
}

#define PREFILL "0123456789"
#define PREFILL_LEN 10

/* Assert that the one who resolves the faults may first block in a read(). */
TEST_F_TIMEOUT(fault, resolver_reads_the_pipe, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 3);
	size_t page = PRESENT;

	ASSERT_EQ(PREFILL_LEN, write(self->wr, PREFILL, PREFILL_LEN));
	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	ASSERT_TRUE(drain(self->rd, PREFILL_LEN));
	EXPECT_EQ(0, in_pipe(self->rd));
	for (;;) {
		ASSERT_TRUE(resolve_page(self->uffd, self->mem, page));
		ASSERT_EQ((ssize_t)page_size,
			  read_all(self->rd, self->buf, page_size));
		EXPECT_EQ(page_size, differs(self->buf, page * page_size,
					     page_size, 0));
		if (++page == PRESENT + 3)
			break;
		ASSERT_TRUE(next_fault(self->uffd));
	}
	EXPECT_EQ((ssize_t)(3 * page_size), caller_join(&c));
	EXPECT_EQ(0, in_pipe(self->rd));
}

/* Assert that what is there does not wait for what is not. */
TEST_F_TIMEOUT(fault, pages_before_it_are_in_the_pipe, TIMEOUT)
{
	struct caller c = CALLER(0, PRESENT + 1);

	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	EXPECT_PIPE(0, PRESENT * page_size, 0);
	ASSERT_TRUE(resolve_page(self->uffd, self->mem, PRESENT));
	EXPECT_EQ((ssize_t)((PRESENT + 1) * page_size), caller_join(&c));
	EXPECT_PIPE(PRESENT * page_size, page_size, 0);
}

/* Assert that ranges before it do not wait for it, either. */
TEST_F_TIMEOUT(fault, ranges_before_it_are_in_the_pipe, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 1);
	struct iovec iov[3] = { { self->mem, 5 }, { self->mem + 9, 7 }, *c.iov };

	c.iov = iov;
	c.nr_segs = 3;
	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	EXPECT_EQ(12, in_pipe(self->rd));
	ASSERT_TRUE(drain(self->rd, 12));
	ASSERT_TRUE(resolve_page(self->uffd, self->mem, PRESENT));
	EXPECT_EQ((ssize_t)(12 + page_size), caller_join(&c));
	EXPECT_PIPE(PRESENT * page_size, page_size, 0);
}

/* Assert that a page for which there is no slot is not faulted in. */
TEST_F_TIMEOUT(fault, none_without_a_slot, TIMEOUT)
{
	struct iovec iov = { self->mem, (PRESENT + 1) * page_size };

	ASSERT_LT(0, fcntl(self->wr, F_SETPIPE_SZ, PRESENT * page_size));
	ASSERT_EQ(PRESENT, pipe_slots(self->wr));
	EXPECT_EQ((ssize_t)(PRESENT * page_size),
		  pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_TRUE(no_fault_so_far(self->uffd));
	EXPECT_PIPE(0, PRESENT * page_size, 0);
}

/* Assert that nothing is held while the caller is in a fault. */
TEST_F_TIMEOUT(fault, no_page_is_held_meanwhile, TIMEOUT)
{
	struct caller c = CALLER(0, PRESENT + 1);

	if (!has_two_nodes())
		SKIP(return, "not two NUMA nodes to move pages between");
	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	EXPECT_PIPE(0, PRESENT * page_size, 0);
	for (size_t i = 0; i < PRESENT; i++) {
		EXPECT_TRUE(can_move(self->pid, self->mem + i * page_size)) {
			TH_LOG("held: page %zu", i);
		}
	}
	ASSERT_TRUE(resolve_page(self->uffd, self->mem, PRESENT));
	EXPECT_EQ((ssize_t)((PRESENT + 1) * page_size), caller_join(&c));
}

/* What must not wait for the fault. Together they leave PREFILL_LEN - 5 bytes. */

static bool count_bytes(int rd, int wr)
{
	return in_pipe(rd) == PREFILL_LEN;
}

static bool poll_both(int rd, int wr)
{
	struct pollfd fds[2] = { { rd, POLLIN, 0 }, { wr, POLLOUT, 0 } };

	return poll(fds, 2, 0) == 2;
}

static bool resize(int rd, int wr)
{
	return fcntl(wr, F_SETPIPE_SZ, 4 * page_size) == (int)(4 * page_size);
}

static bool read_some(int rd, int wr)
{
	char buf[3];

	return read(rd, buf, 3) == 3;
}

static bool splice_some(int rd, int wr)
{
	int null = open("/dev/null", O_WRONLY);
	bool ok = splice(rd, NULL, null, NULL, 3, 0) == 3;

	close(null);
	return ok;
}

static bool write_some(int rd, int wr)
{
	return write(wr, "x", 1) == 1;
}

static bool change_memory_map(int rd, int wr)
{
	void *p = mmap(NULL, page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);

	return p != MAP_FAILED && !munmap(p, page_size);
}

TEST_F_TIMEOUT(fault, pipe_is_free_meanwhile, TIMEOUT)
{
	static const struct {
		const char *what;
		bool (*go)(int rd, int wr);
	} ops[] = {
		{ "FIONREAD", count_bytes }, { "poll", poll_both },
		{ "F_SETPIPE_SZ", resize }, { "read", read_some },
		{ "splice", splice_some }, { "write", write_some },
		{ "mmap", change_memory_map },
	};
	struct caller c = CALLER(PRESENT, 1);

	ASSERT_EQ(PREFILL_LEN, write(self->wr, PREFILL, PREFILL_LEN));
	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		EXPECT_TRUE(ops[i].go(self->rd, self->wr)) {
			TH_LOG("%s", ops[i].what);
		}
	}
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	ASSERT_TRUE(drain(self->rd, PREFILL_LEN - 5));
	EXPECT_PIPE(PRESENT * page_size, page_size, 0);
}

TEST_F_TIMEOUT(fault, another_caller_meanwhile, TIMEOUT)
{
	struct iovec iov = { self->mem, page_size };
	struct caller c = CALLER(PRESENT, 1);

	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	ASSERT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, page_size, 0);
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	EXPECT_PIPE(PRESENT * page_size, page_size, 0);
}

TEST_F_TIMEOUT(fault, pipe_grows_meanwhile, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 3);

	ASSERT_EQ((int)page_size, fcntl(self->wr, F_SETPIPE_SZ, page_size));
	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	ASSERT_LT(0, fcntl(self->wr, F_SETPIPE_SZ, 4 * page_size));
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	/* Until all are in or the pipe is full: it is not, any more. */
	EXPECT_EQ((ssize_t)(3 * page_size), caller_join(&c));
	EXPECT_PIPE(PRESENT * page_size, 3 * page_size, 0);
}

TEST_F_TIMEOUT(fault, pipe_shrinks_meanwhile, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 3);

	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	ASSERT_EQ((int)page_size, fcntl(self->wr, F_SETPIPE_SZ, page_size));
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	EXPECT_PIPE(PRESENT * page_size, page_size, 0);
}

TEST_F_TIMEOUT(fault, room_taken_meanwhile, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 1);

	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	ASSERT_EQ(0, fill_pipe(self->wr));
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	/* It waits again, and does not say EAGAIN. */
	wait_until_blocked(&c);
	EXPECT_EQ((int)(self->slots * page_size), in_pipe(self->rd));
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	ASSERT_TRUE(drain(self->rd, (self->slots - 1) * page_size));
	EXPECT_PIPE(PRESENT * page_size, page_size, 0);
}

TEST_F_TIMEOUT(fault, room_taken_meanwhile_nonblocking, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 1);

	ASSERT_EQ(0, fcntl(self->wr, F_SETFL, O_NONBLOCK));
	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	ASSERT_EQ(0, fill_pipe(self->wr));
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	EXPECT_EQ(-EAGAIN, caller_join(&c));
	EXPECT_EQ((int)(self->slots * page_size), in_pipe(self->rd));
}

/* Assert that what was gathered when the slots were gone is given back. */
TEST_F_TIMEOUT(fault, pages_are_not_held_for_taken_room, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 3);

	if (!has_two_nodes())
		SKIP(return, "not two NUMA nodes to move pages between");
	ASSERT_EQ(0, fcntl(self->wr, F_SETFL, O_NONBLOCK));
	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	ASSERT_EQ(0, fill_pipe(self->wr));
	/* The first one last: the caller then finds all of them. */
	for (size_t page = PRESENT + 3; page-- > PRESENT;)
		ASSERT_TRUE(resolve_page(self->uffd, self->mem, page));
	EXPECT_EQ(-EAGAIN, caller_join(&c));
	for (size_t page = PRESENT; page < PRESENT + 3; page++) {
		EXPECT_TRUE(can_move(self->pid, self->mem + page * page_size)) {
			TH_LOG("still held: page %zu", page);
		}
	}
}

TEST_F_TIMEOUT(fault, reader_leaves_meanwhile, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 1);

	count_signals(SIGPIPE, 0);
	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	close(self->rd);
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	EXPECT_EQ(-EPIPE, caller_join(&c));
	EXPECT_EQ(1, nr_sigpipe);
}

TEST_F_TIMEOUT(fault, killed, TIMEOUT)
{
	struct iovec iov = { self->mem + PRESENT * page_size, page_size };
	pid_t caller = fork_caller(self->pid, self->wr, iov.iov_base,
				   page_size);
	int status;

	ASSERT_LT(0, caller);
	ASSERT_TRUE(next_fault(self->uffd));
	ASSERT_EQ(0, kill(caller, SIGKILL));
	status = exit_status(caller);
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(0, in_pipe(self->rd));
	/* It has left no lock behind. */
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	ASSERT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(PRESENT * page_size, page_size, 0);
}

TEST_F_TIMEOUT(fault, interrupted, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 1);
	char state;

	count_signals(SIGUSR1, 0);
	state = caller_start_faulting(&c, self->uffd);
	ASSERT_LT(0, state);
	if (state == 'D') {
		resolve(self->uffd, self->mem);
		caller_join(&c);
		SKIP(return, "only a fatal signal ends a fault in this kernel");
	}
	pthread_kill(c.thread, SIGUSR1);
	EXPECT_EQ(-EINTR, caller_join(&c));
	EXPECT_EQ(1, nr_handled);
	EXPECT_EQ(0, in_pipe(self->rd));
}

TEST_F_TIMEOUT(fault, restarted, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 1);
	char state;

	count_signals(SIGUSR1, SA_RESTART);
	state = caller_start_faulting(&c, self->uffd);
	ASSERT_LT(0, state);
	pthread_kill(c.thread, SIGUSR1);
	/* Restarted, it meets the fault again; else it was not disturbed. */
	ASSERT_TRUE(state == 'D' || next_fault(self->uffd));
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	EXPECT_EQ(1, nr_handled);
	EXPECT_PIPE(PRESENT * page_size, page_size, 0);
}

TEST_F_TIMEOUT(fault, interrupted_after_some_pages, TIMEOUT)
{
	struct caller c = CALLER(0, PRESENT + 1);
	ssize_t expected = PRESENT * page_size;
	char state;

	/* What was there before the fault counts, not the signal. */
	count_signals(SIGUSR1, 0);
	state = caller_start_faulting(&c, self->uffd);
	ASSERT_LT(0, state);
	pthread_kill(c.thread, SIGUSR1);
	if (state == 'D')
		expected += page_size;
	ASSERT_TRUE(state == 'S' || resolve(self->uffd, self->mem));
	EXPECT_EQ(expected, caller_join(&c));
	EXPECT_EQ(1, nr_handled);
	EXPECT_PIPE(0, expected, 0);
}

TEST_F_TIMEOUT(fault, interrupted_in_the_second_segment, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 1);
	struct iovec iov[2] = { { self->mem + 3, 7 }, *c.iov };
	ssize_t expected = 7;
	char state;

	c.iov = iov;
	c.nr_segs = 2;
	count_signals(SIGUSR1, 0);
	state = caller_start_faulting(&c, self->uffd);
	ASSERT_LT(0, state);
	pthread_kill(c.thread, SIGUSR1);
	if (state == 'D')
		expected += page_size;
	ASSERT_TRUE(state == 'S' || resolve(self->uffd, self->mem));
	EXPECT_EQ(expected, caller_join(&c));
	EXPECT_EQ((int)expected, in_pipe(self->rd));
	ASSERT_EQ(7, read_all(self->rd, self->buf, 7));
	EXPECT_EQ((size_t)7, differs(self->buf, 3, 7, 0));
}

TEST_F_TIMEOUT(fault, interrupted_with_the_room_taken, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 1);
	char state;

	count_signals(SIGUSR1, 0);
	state = caller_start_faulting(&c, self->uffd);
	ASSERT_LT(0, state);
	/* There is no slot any more for the page that faults. */
	ASSERT_EQ(0, fill_pipe(self->wr));
	pthread_kill(c.thread, SIGUSR1);
	ASSERT_TRUE(state == 'S' || resolve(self->uffd, self->mem));
	EXPECT_EQ(-EINTR, caller_join(&c));
	EXPECT_EQ(1, nr_handled);
	EXPECT_EQ((int)(self->slots * page_size), in_pipe(self->rd));
}

/*
 * One who splices from the pipe to a socket of which nobody reads, and has the pipe
 * locked while it waits for that.
 */
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
	s->rd = rd;
	s->tid = 0;
	/* Datagrams: 6.1 adds any number of pages to the last buffer of a stream. */
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
	close(s->sv[0]);
	close(s->sv[1]);
	return s->ret == PREFILL_LEN;
}

TEST_F_TIMEOUT(fault, interrupted_at_the_start_while_the_pipe_is_locked, TIMEOUT)
{
	struct caller c = CALLER(0, 1);
	struct stuck s;

	count_signals(SIGUSR1, 0);
	ASSERT_TRUE(get_stuck(&s, self->rd, self->wr));
	caller_start_blocked(&c);
	ASSERT_EQ(0, pthread_kill(c.thread, SIGUSR1));
	EXPECT_EQ(-EINTR, caller_join(&c));
	EXPECT_EQ(1, nr_handled);
	ASSERT_TRUE(get_unstuck(&s));
	EXPECT_EQ(0, in_pipe(self->rd));
}

/* How often the thread has gone to sleep. */
static long nr_sleeps(pid_t tid)
{
	char path[64], line[128];
	long nr = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	f = fopen(path, "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "voluntary_ctxt_switches: %ld", &nr) == 1)
			break;
	fclose(f);
	return nr;
}

/* The same at the end, when it has the pages: it must not keep them for that long. */
TEST_F_TIMEOUT(fault, interrupted_at_the_end_while_the_pipe_is_locked, TIMEOUT)
{
	struct caller c = CALLER(PRESENT, 1);
	struct stuck s;
	long sleeps;

	count_signals(SIGUSR1, 0);
	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	ASSERT_TRUE(get_stuck(&s, self->rd, self->wr));
	sleeps = nr_sleeps(c.tid);
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	while (nr_sleeps(c.tid) == sleeps)
		sched_yield();
	wait_until_blocked(&c);
	ASSERT_EQ(0, pthread_kill(c.thread, SIGUSR1));
	EXPECT_EQ(-EINTR, caller_join(&c));
	EXPECT_EQ(1, nr_handled);
	ASSERT_TRUE(get_unstuck(&s));
	EXPECT_EQ(0, in_pipe(self->rd));
}

/*
 * Assert that a call that has inserted something does not wait for the lock any
 * more: the caller may be the one who empties the socket.
 */
TEST_F_TIMEOUT(fault, returns_while_the_pipe_is_locked, TIMEOUT)
{
	struct caller c = CALLER(0, PRESENT + 1);
	struct stuck s;

	ASSERT_LT(0, caller_start_faulting(&c, self->uffd));
	ASSERT_TRUE(get_stuck(&s, self->rd, self->wr));
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	EXPECT_EQ((ssize_t)(PRESENT * page_size), caller_join(&c));
	ASSERT_TRUE(get_unstuck(&s));
	EXPECT_EQ((int)(PRESENT * page_size), in_pipe(self->rd));
}

/*
 * A target that is paused in one way or another, by the test, and so a caller. Paths of
 * the cgroup in which the freezer does it, if it does.
 */
static char cgroup_root[80], cgroup[120];

static bool make_cgroup(void)
{
	if (!mkdtemp(scratch_path(cgroup_root, sizeof(cgroup_root), "cgroup.XXXXXX")))
		return false;
	note_change(undo_mount, cgroup_root, "");
	if (mount("cgroup2", cgroup_root, "cgroup2", 0, NULL))
		return false;
	snprintf(cgroup, sizeof(cgroup), "%s/process_vmsplice.%d", cgroup_root,
		 getpid());
	note_change(undo_mkdir, cgroup, "");
	return !mkdir(cgroup, 0700);
}

static void remove_cgroup(void)
{
	undo_change(undo_mkdir, cgroup);
	undo_change(undo_mount, cgroup_root);
}

static bool write_cgroup(const char *file, int value)
{
	char path[160], text[16];

	snprintf(path, sizeof(path), "%s/%s", cgroup, file);
	snprintf(text, sizeof(text), "%d", value);
	return write_file(path, text);
}

/* The kernel says so with a notification. */
static bool wait_until_frozen(void)
{
	char path[160], text[128];
	struct pollfd fd = { .events = POLLPRI };
	bool frozen = false;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/cgroup.events", cgroup);
	fd.fd = open(path, O_RDONLY);
	while (!frozen) {
		n = pread(fd.fd, text, sizeof(text) - 1, 0);
		if (n <= 0)
			break;
		text[n] = 0;
		frozen = strstr(text, "frozen 1");
		if (!frozen)
			poll(&fd, 1, -1);
	}
	close(fd.fd);
	return frozen;
}

static bool pause_by_freezer(pid_t pid)
{
	return write_cgroup("cgroup.procs", pid) &&
	       write_cgroup("cgroup.freeze", 1) && wait_until_frozen();
}

static bool resume_by_freezer(pid_t pid)
{
	return write_cgroup("cgroup.freeze", 0);
}

static bool pause_by_signal(pid_t pid)
{
	int status;

	return !kill(pid, SIGSTOP) && waitpid(pid, &status, WUNTRACED) == pid &&
	       WIFSTOPPED(status);
}

static bool resume_by_signal(pid_t pid)
{
	return !kill(pid, SIGCONT);
}

static bool pause_by_ptrace(pid_t pid)
{
	int status;

	return !ptrace(PTRACE_SEIZE, pid, NULL, NULL) &&
	       !ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) &&
	       waitpid(pid, &status, 0) == pid && WIFSTOPPED(status);
}

static bool resume_by_ptrace(pid_t pid)
{
	return !ptrace(PTRACE_DETACH, pid, NULL, NULL);
}

FIXTURE(paused)
{
	TARGET_MEMBERS;
	int uffd;
	unsigned char *fresh;
};

FIXTURE_VARIANT(paused)
{
	bool (*pause)(pid_t pid);
	bool (*resume)(pid_t pid);
};

FIXTURE_VARIANT_ADD(paused, stopped) {
	.pause = pause_by_signal, .resume = resume_by_signal,
};

FIXTURE_VARIANT_ADD(paused, ptrace_stopped) {
	.pause = pause_by_ptrace, .resume = resume_by_ptrace,
};

FIXTURE_VARIANT_ADD(paused, frozen) {
	.pause = pause_by_freezer, .resume = resume_by_freezer,
};

FIXTURE_SETUP(paused)
{
	int p[2];

	if (variant->pause == pause_by_freezer && !make_cgroup())
		SKIP(return, "no cgroup v2 to be had");
	self->size = REGION_PAGES * page_size;
	self->buf = malloc(self->size);
	self->mem = map_region();
	self->fresh = map_region();
	ASSERT_TRUE(self->buf && self->mem && self->fresh);
	self->pid = start_faulting_target(self->mem, &self->uffd);
	ASSERT_LT(0, self->pid);
	ASSERT_EQ(0, pipe(p));
	self->rd = p[0];
	self->wr = p[1];
	self->slots = pipe_slots(self->wr);
}

FIXTURE_TEARDOWN(paused)
{
	if (self->pid > 0) {
		kill(self->pid, SIGKILL);
		waitpid(self->pid, NULL, 0);
	}
	if (cgroup[0])
		remove_cgroup();
}

TEST_F_TIMEOUT(paused, target, TIMEOUT)
{
	/* Memory that it has, and memory that is faulted in on its behalf. */
	struct iovec iov[2] = {
		{ self->mem, PRESENT * page_size }, { self->fresh, page_size },
	};
	ssize_t len = (PRESENT + 1) * page_size;

	ASSERT_TRUE(variant->pause(self->pid));
	ASSERT_EQ(len, pvm(self->pid, self->wr, iov, 2, 0));
	EXPECT_EQ(len, in_pipe(self->rd));
	ASSERT_EQ(len, read_all(self->rd, self->buf, len));
	EXPECT_EQ(PRESENT * page_size,
		  differs(self->buf, 0, PRESENT * page_size, 0));
	EXPECT_EQ(0, memcmp(self->buf + PRESENT * page_size, self->fresh,
			    page_size));
	EXPECT_TRUE(variant->resume(self->pid));
}

/* Does a system call end when it is paused? Linux 7.3 on sparc64 has read() fail. */
static bool pause_ends_read(bool (*pause)(pid_t pid), bool (*resume)(pid_t pid))
{
	int p[2], status = -1;
	pid_t reader;
	char c;

	if (pipe(p))
		return false;
	reader = fork();
	if (!reader)
		_exit(read(p[0], &c, 1) < 0 && errno == EINTR);
	wait_for_state(reader, 'S');
	if (pause(reader) && resume(reader) && write(p[1], "x", 1) == 1)
		status = exit_status(reader);
	close(p[0]);
	close(p[1]);
	return WIFEXITED(status) && WEXITSTATUS(status);
}

/* Paused in the call, the caller goes on with it: no signal is there to report. */

TEST_F_TIMEOUT(paused, caller_in_a_fault, TIMEOUT)
{
	pid_t caller;

	if (self->uffd < 0)
		SKIP(return, "no userfaultfd() for faults of the kernel");
	if (pause_ends_read(variant->pause, variant->resume))
		SKIP(return, "a read() that is paused fails as well");
	caller = fork_caller(self->pid, self->wr,
			     self->mem + PRESENT * page_size, page_size);
	ASSERT_LT(0, caller);
	ASSERT_TRUE(next_fault(self->uffd));
	if (state_in_fault(caller) == 'D') {
		kill(caller, SIGKILL);
		exit_status(caller);
		SKIP(return, "only a fatal signal ends a fault in this kernel");
	}
	ASSERT_TRUE(variant->pause(caller));
	EXPECT_EQ(0, in_pipe(self->rd));
	ASSERT_TRUE(variant->resume(caller));
	ASSERT_TRUE(next_fault(self->uffd));
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	EXPECT_EQ(0, exit_status(caller));
	EXPECT_PIPE(PRESENT * page_size, page_size, 0);
}

TEST_F_TIMEOUT(paused, caller_waiting_for_room, TIMEOUT)
{
	pid_t caller;

	if (pause_ends_read(variant->pause, variant->resume))
		SKIP(return, "a read() that is paused fails as well");
	ASSERT_EQ(0, fill_pipe(self->wr));
	caller = fork_caller(self->pid, self->wr, self->mem, page_size);
	ASSERT_LT(0, caller);
	wait_for_state(caller, 'S');
	ASSERT_TRUE(variant->pause(caller));
	ASSERT_TRUE(variant->resume(caller));
	wait_for_state(caller, 'S');
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ(0, exit_status(caller));
	ASSERT_TRUE(drain(self->rd, (self->slots - 1) * page_size));
	EXPECT_PIPE(0, page_size, 0);
}

/*
 * A huge page of the caller's own of which some pages are gone, and fault. What
 * follows in the huge page would need no slot.
 */
#define HOLE_FROM 1
#define HOLE_TO 61

FIXTURE(holes)
{
	unsigned char *mem;
	int uffd, rd, wr;
};

FIXTURE_SETUP(holes)
{
	size_t huge = thp_size();
	uintptr_t p;
	int fds[2];

	if (huge <= HOLE_TO * page_size)
		SKIP(return, "no transparent huge pages of a size for this");
	p = (uintptr_t)mmap(NULL, 2 * huge, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE((uintptr_t)MAP_FAILED, p);
	self->mem = (unsigned char *)((p + huge - 1) & -huge);
	if (madvise(self->mem, huge, MADV_HUGEPAGE))
		SKIP(return, "no transparent huge pages");
	set_pattern(self->mem, 0, huge, 0);
	if (!has_huge_page(getpid(), self->mem))
		SKIP(return, "no huge page to be had");
	self->uffd = watch_faults(self->mem, huge);
	if (self->uffd < 0)
		SKIP(return, "no userfaultfd() for faults of the kernel");
	ASSERT_EQ(0, madvise(self->mem + HOLE_FROM * page_size,
			     (HOLE_TO - HOLE_FROM) * page_size, MADV_DONTNEED));
	ASSERT_EQ(0, pipe(fds));
	self->rd = fds[0];
	self->wr = fds[1];
	ASSERT_LT(0, fcntl(self->wr, F_SETPIPE_SZ, page_size));
	ASSERT_EQ(1, pipe_slots(self->wr));
}

FIXTURE_TEARDOWN(holes)
{
}

/* Assert that a call takes what there is, and faults in no page without a slot. */
TEST_F_TIMEOUT(holes, end_the_call, TIMEOUT)
{
	static const struct {
		unsigned int from, len;
	} parts[] = {
		{ 0, HOLE_FROM },
		{ HOLE_TO + 2, 64 },
		{ HOLE_TO, 2 },
	};
	unsigned char *buf = malloc(64 * page_size);
	struct iovec iov[2];

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		size_t from = parts[i].from * page_size;
		size_t len = parts[i].len * page_size;

		/* The second range is all hole; the first is next to it, or not. */
		iov[0] = (struct iovec){ self->mem + from, len };
		iov[1] = (struct iovec){ self->mem + HOLE_FROM * page_size,
					 (HOLE_TO - HOLE_FROM) * page_size };
		EXPECT_EQ((ssize_t)len, pvm(getpid(), self->wr, iov, 2,
					    SPLICE_F_NONBLOCK));
		EXPECT_TRUE(no_fault_so_far(self->uffd));
		ASSERT_EQ((ssize_t)len, read_all(self->rd, buf, len));
		EXPECT_EQ(len, differs(buf, from, len, 0));
	}
	free(buf);
}

/* Several writers of one page each, blocked on a pipe of few slots that is full. */
#define NR_WRITERS 4
#define FEW_SLOTS 2

FIXTURE(writers)
{
	TARGET_MEMBERS;
	struct caller callers[NR_WRITERS];
	struct iovec iov[NR_WRITERS];
};

FIXTURE_SETUP(writers)
{
	self->size = REGION_PAGES * page_size;
	self->mem = map_region();
	ASSERT_FALSE(!self->mem);
	START_TARGET();
	ASSERT_TRUE(command(self->ctl, 'f', 0, self->size));
	ASSERT_LT(0, fcntl(self->wr, F_SETPIPE_SZ, FEW_SLOTS * page_size));
	ASSERT_EQ(FEW_SLOTS, pipe_slots(self->wr));
	ASSERT_EQ(0, fill_pipe(self->wr));
	count_signals(SIGUSR1, 0);
	count_signals(SIGPIPE, 0);
	for (int i = 0; i < NR_WRITERS; i++) {
		self->iov[i] = (struct iovec){
			self->mem + i * page_size, page_size,
		};
		self->callers[i] = (struct caller){
			.pid = self->pid, .fd = self->wr,
			.iov = &self->iov[i], .nr_segs = 1,
		};
		caller_start_blocked(&self->callers[i]);
	}
}

FIXTURE_TEARDOWN(writers)
{
}

/* Read pages until the one of each writer whose bit is set has come, just once. */
static bool read_pages_of(int rd, unsigned char *buf, unsigned int writers)
{
	while (writers) {
		unsigned int who = 0;

		if (read_all(rd, buf, page_size) != (ssize_t)page_size)
			return false;
		while (who < NR_WRITERS &&
		       differs(buf, who * page_size, page_size, 0) != page_size)
			who++;
		if (!(writers & 1U << who))
			return false;
		writers &= ~(1U << who);
	}
	return true;
}

#define ALL_WRITERS ((1U << NR_WRITERS) - 1)

TEST_F_TIMEOUT(writers, all_proceed, TIMEOUT)
{
	ASSERT_TRUE(drain(self->rd, FEW_SLOTS * page_size));
	EXPECT_TRUE(read_pages_of(self->rd, self->buf, ALL_WRITERS));
	for (int i = 0; i < NR_WRITERS; i++)
		EXPECT_EQ((ssize_t)page_size, caller_join(&self->callers[i]));
	EXPECT_EQ(0, in_pipe(self->rd));
}

/*
 * Assert that no writer sleeps on because a pipe that never was full again
 * looked so to it: read() wakes writers only if the pipe was full.
 */
TEST_F_TIMEOUT(writers, small_messages_while_they_look, TIMEOUT)
{
	size_t expected = NR_WRITERS * page_size, got = 0;

	/* They are in the call already: this is for the messages alone. */
	ASSERT_EQ(0, fcntl(self->wr, F_SETFL, O_NONBLOCK));
	ASSERT_TRUE(drain(self->rd, FEW_SLOTS * page_size));
	for (int i = 0; i < 1000; i++) {
		ssize_t n = write(self->wr, "x", 1);

		ASSERT_TRUE(n == 1 || (n < 0 && errno == EAGAIN));
		expected += n == 1;
		n = read(self->rd, self->buf, self->size);
		ASSERT_LT(0, n);
		got += n;
	}
	while (got < expected) {
		ssize_t n = read(self->rd, self->buf, self->size);

		ASSERT_LT(0, n);
		got += n;
	}
	EXPECT_EQ(expected, got);
	for (int i = 0; i < NR_WRITERS; i++)
		EXPECT_EQ((ssize_t)page_size, caller_join(&self->callers[i]));
	EXPECT_EQ(0, in_pipe(self->rd));
}

TEST_F_TIMEOUT(writers, reader_leaves, TIMEOUT)
{
	close(self->rd);
	for (int i = 0; i < NR_WRITERS; i++)
		EXPECT_EQ(-EPIPE, caller_join(&self->callers[i]));
	EXPECT_EQ(NR_WRITERS, nr_sigpipe);
}

TEST_F_TIMEOUT(writers, signal_to_one, TIMEOUT)
{
	pthread_kill(self->callers[1].thread, SIGUSR1);
	EXPECT_EQ(-EINTR, caller_join(&self->callers[1]));
	EXPECT_EQ(1, nr_handled);
	/* The others have had none, and wait on. */
	ASSERT_TRUE(drain(self->rd, FEW_SLOTS * page_size));
	EXPECT_TRUE(read_pages_of(self->rd, self->buf, ALL_WRITERS & ~2));
	for (int i = 0; i < NR_WRITERS; i++) {
		if (i == 1)
			continue;
		EXPECT_EQ((ssize_t)page_size, caller_join(&self->callers[i]));
	}
	EXPECT_EQ(0, in_pipe(self->rd));
}

TEST_F_TIMEOUT(writers, one_is_killed, TIMEOUT)
{
	pid_t caller = fork_caller(self->pid, self->wr, self->mem, page_size);
	int status;

	ASSERT_LT(0, caller);
	wait_for_state(caller, 'S');
	ASSERT_EQ(0, kill(caller, SIGKILL));
	status = exit_status(caller);
	EXPECT_TRUE(WIFSIGNALED(status));
	ASSERT_TRUE(drain(self->rd, FEW_SLOTS * page_size));
	EXPECT_TRUE(read_pages_of(self->rd, self->buf, ALL_WRITERS));
	for (int i = 0; i < NR_WRITERS; i++)
		EXPECT_EQ((ssize_t)page_size, caller_join(&self->callers[i]));
}

TEST_F_TIMEOUT(writers, pipe_grows, TIMEOUT)
{
	/* Nobody reads: it is the room that lets them go. */
	ASSERT_LT(0, fcntl(self->wr, F_SETPIPE_SZ, 8 * page_size));
	for (int i = 0; i < NR_WRITERS; i++)
		EXPECT_EQ((ssize_t)page_size, caller_join(&self->callers[i]));
	EXPECT_EQ((int)((FEW_SLOTS + NR_WRITERS) * page_size),
		  in_pipe(self->rd));
	ASSERT_TRUE(drain(self->rd, FEW_SLOTS * page_size));
	EXPECT_TRUE(read_pages_of(self->rd, self->buf, ALL_WRITERS));
}

TEST_F_TIMEOUT(writers, pipe_shrinks, TIMEOUT)
{
	struct iovec iov = { self->mem, 3 * page_size };

	/* What is in it does not fit. */
	ASSERT_EQ(-1, fcntl(self->wr, F_SETPIPE_SZ, page_size));
	ASSERT_EQ(EBUSY, errno);
	/* The attempt has neither lost a writer nor let one through. */
	for (int left = FEW_SLOTS; left > 0; left--)
		ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_TRUE(read_pages_of(self->rd, self->buf, ALL_WRITERS));
	for (int i = 0; i < NR_WRITERS; i++)
		EXPECT_EQ((ssize_t)page_size, caller_join(&self->callers[i]));
	ASSERT_EQ((int)page_size, fcntl(self->wr, F_SETPIPE_SZ, page_size));
	ASSERT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, page_size, 0);
}

/* Targets that come, go and change. */

FIXTURE(going)
{
	TARGET_MEMBERS;
};

FIXTURE_SETUP(going)
{
	int p[2];

	self->size = REGION_PAGES * page_size;
	self->buf = malloc(self->size);
	self->mem = map_region();
	ASSERT_TRUE(self->buf && self->mem);
	ASSERT_EQ(0, pipe2(p, O_CLOEXEC));
	self->rd = p[0];
	self->wr = p[1];
}

FIXTURE_TEARDOWN(going)
{
	if (self->pid > 0) {
		kill(self->pid, SIGKILL);
		waitpid(self->pid, NULL, 0);
	}
}

static ssize_t readv_errno(pid_t pid, void *addr)
{
	char byte;
	struct iovec to = { &byte, 1 }, from = { addr, 1 };
	ssize_t ret = process_vm_readv(pid, &to, 1, &from, 1, 0);

	return ret < 0 ? -errno : ret;
}

TEST_F_TIMEOUT(going, killed_during_a_fault, TIMEOUT)
{
	struct caller c = { .fd = self->wr, .nr_segs = 1 };
	struct iovec iov = { self->mem + PRESENT * page_size, page_size };
	int uffd;

	self->pid = start_faulting_target(self->mem, &uffd);
	ASSERT_LT(0, self->pid);
	if (uffd < 0)
		SKIP(return, "no userfaultfd() for faults of the kernel");
	c.pid = self->pid;
	c.iov = &iov;
	ASSERT_LT(0, caller_start_faulting(&c, uffd));
	/* It does not wait for the caller, who has its memory until the end. */
	ASSERT_EQ(0, kill(self->pid, SIGKILL));
	wait_for_state(self->pid, 'Z');
	ASSERT_TRUE(resolve_page(uffd, self->mem, PRESENT));
	EXPECT_EQ((ssize_t)page_size, caller_join(&c));
	EXPECT_PIPE(PRESENT * page_size, page_size, 0);
	EXPECT_EQ(-ESRCH, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_EQ(-ESRCH, readv_errno(self->pid, self->mem));
}

/* So much that a change of its protection takes a while, with the map locked. */
#define LARGE (32UL << 20)
#define KILLS 40
#define LOOKS 1000

static void map_changing_target(unsigned char *large, int ready)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	let_all_call();
	memset(large, 1, LARGE);
	if (write(ready, "", 1) != 1)
		_exit(1);
	for (;;) {
		mprotect(large, LARGE, PROT_READ);
		mprotect(large, LARGE, PROT_READ | PROT_WRITE);
	}
}

/* Makes calls, and reads what comes of them. */
static void caller_in_a_loop(pid_t pid, int rd, int wr, struct iovec *iov)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (pvm(pid, wr, iov, 1, 0) == (ssize_t)iov->iov_len &&
	       drain(rd, iov->iov_len))
		;
	_exit(1);
}

/*
 * Is it seen to wait for the lock? It does not sleep so for anything else. That depends
 * on where the scheduler has put whom, and may take long.
 */
static bool seen_waiting(pid_t caller)
{
	for (int i = 0; i < LOOKS; i++) {
		if (thread_state(caller) == 'D')
			return true;
		sched_yield();
	}
	return false;
}

TEST_F_TIMEOUT(going, caller_killed_while_the_map_is_locked, TIMEOUT)
{
	struct iovec iov = { self->mem, page_size };
	unsigned char *large = mmap(NULL, LARGE, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int waiting = 0, p[2];
	char byte;

	ASSERT_TRUE(large != MAP_FAILED);
	ASSERT_EQ(0, pipe(p));
	madvise(large, LARGE, MADV_NOHUGEPAGE);
	set_pattern(self->mem, 0, page_size, 0);
	self->pid = fork();
	if (!self->pid)
		map_changing_target(large, p[1]);
	ASSERT_LT(0, self->pid);
	ASSERT_EQ(1, read(p[0], &byte, 1));
	for (int i = 0; i < KILLS; i++) {
		pid_t caller = fork();
		int status, left;

		if (!caller)
			caller_in_a_loop(self->pid, self->rd, self->wr, &iov);
		ASSERT_LT(0, caller);
		waiting += seen_waiting(caller);
		ASSERT_EQ(0, kill(caller, SIGKILL));
		status = exit_status(caller);
		EXPECT_TRUE(WIFSIGNALED(status));
		left = in_pipe(self->rd);
		ASSERT_LE(0, left);
		ASSERT_TRUE(drain(self->rd, left));
	}
	TH_LOG("%d of %d waited for the lock", waiting, KILLS);
	/* None of them has left the lock behind. */
	ASSERT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, page_size, 0);
	ASSERT_EQ(0, kill(self->pid, SIGKILL));
	wait_for_state(self->pid, 'Z');
	if (!waiting)
		SKIP(return, "all but this: none was seen to wait for the lock");
}

/* A parent that vfork() keeps waiting; the child fills the second page. */
static void vfork_target(unsigned char *mem, int fd)
{
	pid_t me;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	set_pattern(mem, 0, page_size, 0);
	if (vfork())
		_exit(0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	set_pattern(mem, page_size, 2 * page_size, 0);
	me = getpid();
	if (write(fd, &me, sizeof(me)) != sizeof(me))
		_exit(1);
	for (;;)
		pause();
}

TEST_F_TIMEOUT(going, vfork, TIMEOUT)
{
	struct iovec iov = { self->mem, 2 * page_size };
	pid_t child;
	int p[2];

	ASSERT_EQ(0, pipe(p));
	self->pid = fork();
	if (!self->pid)
		vfork_target(self->mem, p[1]);
	ASSERT_EQ((ssize_t)sizeof(child), read_all(p[0], &child, sizeof(child)));
	wait_for_state(self->pid, 'D');
	ASSERT_EQ((ssize_t)iov.iov_len, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, iov.iov_len, 0);
	ASSERT_EQ((ssize_t)iov.iov_len, pvm(child, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, iov.iov_len, 0);
	EXPECT_EQ('D', thread_state(self->pid));
	kill(child, SIGKILL);
}

/* A leader that has exited, and a thread that has not and says who it is. */
static void *lasting_thread(void *arg)
{
	pid_t tid = syscall(SYS_gettid);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (write(*(int *)arg, &tid, sizeof(tid)) != sizeof(tid))
		_exit(1);
	for (;;)
		pause();
	return NULL;
}

static void leaderless_target(unsigned char *mem, int fd)
{
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	set_pattern(mem, 0, page_size, 0);
	pthread_create(&thread, NULL, lasting_thread, &fd);
	syscall(SYS_exit, 0);
}

/* -ESRCH where the kernel has no such pidfd, as Linux before 6.9. */
static ssize_t pvm_pidfd(pid_t pid, unsigned int flags, int wr, const struct iovec *iov)
{
	int pidfd = syscall(SYS_pidfd_open, pid, flags);
	ssize_t ret;

	if (pidfd < 0)
		return -ESRCH;
	ret = pvm(pidfd, wr, iov, 1, PROCESS_VMSPLICE_PIDFD);
	close(pidfd);
	return ret;
}

TEST_F_TIMEOUT(going, leader_has_exited, TIMEOUT)
{
	struct iovec iov = { self->mem, page_size };
	pid_t tid;
	int p[2];

	ASSERT_EQ(0, pipe(p));
	self->pid = fork();
	if (!self->pid)
		leaderless_target(self->mem, p[1]);
	ASSERT_EQ((ssize_t)sizeof(tid), read_all(p[0], &tid, sizeof(tid)));
	wait_for_state(self->pid, 'Z');
	EXPECT_EQ(-ESRCH, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_EQ(-ESRCH, readv_errno(self->pid, self->mem));
	/* The memory is there, for who asks for the thread. */
	EXPECT_EQ(1, readv_errno(tid, self->mem));
	ASSERT_EQ((ssize_t)page_size, pvm(tid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, page_size, 0);
	/* A pidfd, even of the thread, stands for the leader. */
	EXPECT_EQ(-ESRCH, pvm_pidfd(self->pid, 0, self->wr, &iov));
	EXPECT_EQ(-ESRCH, pvm_pidfd(tid, PIDFD_THREAD, self->wr, &iov));
}

/*
 * A target that executes itself again and again. Each image puts a page of known bytes
 * at one address, the last one other bytes.
 */
#define IMAGE ((unsigned char *)0x60000000UL)
#define NR_EXECS 40
#define LAST_SEED 1

static void fill_image(unsigned char seed)
{
	void *p = mmap(IMAGE, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		       MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (p != IMAGE)
		_exit(1);
	set_pattern(IMAGE, 0, page_size, seed);
}

static void exec_again(int left)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", left);
	setenv("PVM_EXECS_LEFT", text, 1);
	execl("/proc/self/exe", "image", NULL);
	_exit(1);
}

static void __attribute__((constructor)) image_main(void)
{
	const char *left = getenv("PVM_EXECS_LEFT");

	if (!left)
		return;
	if (atoi(left)) {
		fill_image(0);
		exec_again(atoi(left) - 1);
	}
	fill_image(LAST_SEED);
	for (;;)
		pause();
}

static void exec_target(int ctl)
{
	char go;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fill_image(0);
	if (write(ctl, "", 1) != 1 || read(ctl, &go, 1) != 1)
		_exit(1);
	exec_again(NR_EXECS);
}

/* A page that is being filled has zeroes, too. */
static bool of_an_image(const unsigned char *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i] && buf[i] != pattern(i, 0) &&
		    buf[i] != pattern(i, LAST_SEED))
			return false;
	return true;
}

TEST_F_TIMEOUT(going, exec, TIMEOUT)
{
	struct iovec iov = { IMAGE, page_size };
	bool last = false;
	int sv[2];
	char go;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
	self->pid = fork();
	if (!self->pid)
		exec_target(sv[1]);
	ASSERT_EQ(1, read(sv[0], &go, 1));
	ASSERT_EQ((ssize_t)page_size, pvm(self->pid, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, page_size, 0);
	ASSERT_EQ(1, write(sv[0], "", 1));

	while (!last) {
		ssize_t ret = pvm(self->pid, self->wr, &iov, 1, 0);

		ASSERT_TRUE(ret == (ssize_t)page_size || ret == -ESRCH ||
			    ret == -EFAULT || ret == -EPERM);
		ASSERT_EQ(0, waitpid(self->pid, NULL, WNOHANG));
		if (ret < 0)
			continue;
		ASSERT_EQ(ret, read_all(self->rd, self->buf, ret));
		ASSERT_TRUE(of_an_image(self->buf, ret));
		last = differs(self->buf, 0, ret, LAST_SEED) == page_size;
	}
}

SUPERVISED_HARNESS_MAIN
