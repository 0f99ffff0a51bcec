// SPDX-License-Identifier: GPL-2.0
/*
 * process_vmsplice() against others: writers of the same pipe, a target that
 * changes its memory or executes programs during the call, a caller that is
 * paused in it. Some of it is a matter of luck, and of many tries.
 */
#define _GNU_SOURCE
#include "pvm_fault.h"

/* Does a system call end when it is paused? Linux 7.3 on sparc64 has read() fail. */
static bool pause_ends_read(bool (*pause)(pid_t pid), bool (*resume)(pid_t pid))
{
	int status = -1, rd, wr;
	pid_t reader;
	char c;

	if (!open_pipe(&rd, &wr, 0))
		return false;
	reader = fork();
	if (!reader)
		_exit(read(rd, &c, 1) < 0 && errno == EINTR);
	wait_for_state(reader, 'S');
	if (pause(reader) && resume(reader) && write(wr, "x", 1) == 1)
		status = exit_status(reader);
	return WIFEXITED(status) && WEXITSTATUS(status);
}

/* Assert that a caller paused in a fault goes on with it. */
TEST_F_TIMEOUT(paused, caller_in_a_fault, TIMEOUT)
{
	pid_t caller;

	if (self->uffd < 0)
		SKIP(return, "no userfaultfd() for faults of the kernel");
	if (!signals_end_faults())
		SKIP(return, "only a fatal signal ends a fault in this kernel");
	if (pause_ends_read(variant->pause, variant->resume))
		SKIP(return, "a read() that is paused fails as well");
	caller = fork_caller(self->pid, self->wr, self->mem + THERE, page_size);
	ASSERT_TRUE(next_fault(self->uffd));
	state_in_fault(caller);
	ASSERT_TRUE(variant->pause(caller));
	EXPECT_EQ(0, in_pipe(self->rd));
	ASSERT_TRUE(variant->resume(caller));
	ASSERT_TRUE(next_fault(self->uffd));
	ASSERT_TRUE(resolve(self->uffd, self->mem));
	EXPECT_EQ(0, exit_status(caller));
	EXPECT_PIPE(THERE, page_size, OLD_BYTES);
}

/* Assert that a caller paused in its wait goes on with it. */
TEST_F_TIMEOUT(paused, caller_waiting_for_room, TIMEOUT)
{
	pid_t caller;

	if (pause_ends_read(variant->pause, variant->resume))
		SKIP(return, "a read() that is paused fails as well");
	ASSERT_TRUE(fill_pipe(self->wr));
	caller = fork_caller(self->pid, self->wr, self->mem, page_size);
	wait_for_state(caller, 'S');
	ASSERT_TRUE(variant->pause(caller));
	ASSERT_TRUE(variant->resume(caller));
	wait_for_state(caller, 'S');
	ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_EQ(0, exit_status(caller));
	ASSERT_TRUE(drain(self->rd, (self->slots - 1) * page_size));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
}

/*
 * A huge page of the caller's own of which some pages are gone, and fault. What
 * follows in the huge page would need no slot.
 */
#define HOLE_FROM 1
#define HOLE_TO 61

/* Assert that a call takes what is there, and faults nothing without a slot. */
TEST(holes_of_a_huge_page)
{
	static const struct {
		unsigned int from, len;
	} parts[] = { { 0, HOLE_FROM }, { HOLE_TO + 2, 64 }, { HOLE_TO, 2 } };
	size_t huge = thp_size(), hole = (HOLE_TO - HOLE_FROM) * page_size;
	unsigned char *buf = malloc(64 * page_size), *mem;
	int uffd, rd, wr;

	if (huge <= HOLE_TO * page_size)
		SKIP(return, "no transparent huge pages of a size for this");
	if (read_number("/proc/meminfo", "HighTotal"))
		SKIP(return, "the kernel maps high memory a page at a time");
	mem = map_aligned(huge, huge);
	madvise(mem, huge, MADV_HUGEPAGE);
	set_pattern(mem, 0, huge, OLD_BYTES);
	if (!huge_bytes(getpid(), mem, huge))
		SKIP(return, "no huge page now");
	uffd = watch_faults(mem, huge, 0);
	if (uffd < 0)
		SKIP(return, "no userfaultfd() for faults of the kernel");
	ASSERT_EQ(0, madvise(mem + HOLE_FROM * page_size, hole, MADV_DONTNEED));
	ASSERT_TRUE(open_pipe(&rd, &wr, 1));
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		size_t from = parts[i].from * page_size, len = parts[i].len * page_size;
		/* The second range is all hole; the first is next to it, or not. */
		struct iovec iov[2] = {
			{ mem + from, len }, { mem + HOLE_FROM * page_size, hole },
		};

		EXPECT_EQ((ssize_t)len, pvm(getpid(), wr, iov, 2, SPLICE_F_NONBLOCK));
		EXPECT_TRUE(no_fault_so_far(uffd));
		ASSERT_EQ((ssize_t)len, read_all(rd, buf, len));
		EXPECT_EQ(len, differs(buf, from, len, OLD_BYTES));
	}
}

/* Several writers of one page each, blocked on a pipe of few slots that is full. */
#define NR_WRITERS 4
#define FEW_SLOTS 2

FIXTURE(writers) {
	TARGET_MEMBERS;
	struct caller callers[NR_WRITERS];
	struct iovec iov[NR_WRITERS];
};

FIXTURE_SETUP(writers)
{
	self->size = REGION_SIZE;
	self->mem = map_small(self->size);
	ASSERT_FALSE(!self->mem);
	START_TARGET();
	TELL(WRITE_OLD, 0, self->size);
	ASSERT_TRUE(open_pipe(&self->rd, &self->wr, FEW_SLOTS));
	ASSERT_TRUE(fill_pipe(self->wr));
	handle_signal(SIGUSR1, count_signal, 0);
	handle_signal(SIGPIPE, count_signal, 0);
	for (int i = 0; i < NR_WRITERS; i++) {
		self->iov[i] = *RANGE(i * page_size, page_size);
		self->callers[i] = (struct caller)CALLER(0, 0);
		self->callers[i].iov = &self->iov[i];
		caller_start_blocked(&self->callers[i]);
	}
}

FIXTURE_TEARDOWN(writers) {}

/* Read pages until the one of each writer whose bit is set has come, just once. */
static bool read_pages_of(int rd, unsigned char *buf, unsigned int writers)
{
	while (writers) {
		unsigned int who = 0;

		if (read_all(rd, buf, page_size) != (ssize_t)page_size)
			return false;
		while (who < NR_WRITERS &&
		       differs(buf, who * page_size, page_size, OLD_BYTES) != page_size)
			who++;
		if (!(writers & 1U << who))
			return false;
		writers &= ~(1U << who);
	}
	return true;
}

#define ALL_WRITERS ((1U << NR_WRITERS) - 1)

/* All but one of them, if there is such a one, return this. */
#define JOIN_WRITERS(expected, but) do {				\
	for (int _i = 0; _i < NR_WRITERS; _i++)				\
		if (_i != (but))					\
			EXPECT_EQ(expected, caller_join(&self->callers[_i])); \
} while (0)

/* Assert that all writers proceed, although another one was killed. */
TEST_F_TIMEOUT(writers, all_proceed, TIMEOUT)
{
	pid_t caller = fork_caller(self->pid, self->wr, self->mem, page_size);

	wait_for_state(caller, 'S');
	ASSERT_EQ(0, kill(caller, SIGKILL));
	EXPECT_EQ(SIGKILL, exit_status(caller));
	ASSERT_TRUE(drain(self->rd, FEW_SLOTS * page_size));
	EXPECT_TRUE(read_pages_of(self->rd, self->buf, ALL_WRITERS));
	JOIN_WRITERS((ssize_t)page_size, -1);
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
	for (int i = 0; i < 1000 || got < expected; i++) {
		ssize_t n = i < 1000 ? write(self->wr, "x", 1) : 0;

		ASSERT_TRUE(n >= 0 || errno == EAGAIN);
		expected += n == 1;
		n = read(self->rd, self->buf, self->size);
		ASSERT_LT(0, n);
		got += n;
	}
	EXPECT_EQ(expected, got);
	JOIN_WRITERS((ssize_t)page_size, -1);
	EXPECT_EQ(0, in_pipe(self->rd));
}

/* Assert that each writer gets EPIPE when the reader leaves. */
TEST_F_TIMEOUT(writers, reader_leaves, TIMEOUT)
{
	close(self->rd);
	JOIN_WRITERS(-EPIPE, -1);
	EXPECT_EQ(NR_WRITERS, nr_signals);
}

/* Assert that a signal ends the wait of one writer alone. */
TEST_F_TIMEOUT(writers, signal_to_one, TIMEOUT)
{
	pthread_kill(self->callers[1].thread, SIGUSR1);
	EXPECT_EQ(-EINTR, caller_join(&self->callers[1]));
	EXPECT_EQ(1, nr_signals);
	/* The others have had none, and wait on. */
	ASSERT_TRUE(drain(self->rd, FEW_SLOTS * page_size));
	EXPECT_TRUE(read_pages_of(self->rd, self->buf, ALL_WRITERS & ~2));
	JOIN_WRITERS((ssize_t)page_size, 1);
	EXPECT_EQ(0, in_pipe(self->rd));
}

/* Assert that the writers proceed when the pipe grows. */
TEST_F_TIMEOUT(writers, pipe_grows, TIMEOUT)
{
	/* Nobody reads: the new slots let them go. */
	ASSERT_LT(0, fcntl(self->wr, F_SETPIPE_SZ, 8 * page_size));
	JOIN_WRITERS((ssize_t)page_size, -1);
	EXPECT_EQ((int)((FEW_SLOTS + NR_WRITERS) * page_size), in_pipe(self->rd));
	ASSERT_TRUE(drain(self->rd, FEW_SLOTS * page_size));
	EXPECT_TRUE(read_pages_of(self->rd, self->buf, ALL_WRITERS));
}

/* Assert that a failed resize neither loses a writer nor lets one pass. */
TEST_F_TIMEOUT(writers, pipe_shrinks, TIMEOUT)
{
	/* What is in it does not fit. */
	ASSERT_EQ(-1, fcntl(self->wr, F_SETPIPE_SZ, page_size));
	ASSERT_EQ(EBUSY, errno);
	/* The attempt has neither lost a writer nor let one through. */
	for (int left = FEW_SLOTS; left > 0; left--)
		ASSERT_TRUE(drain(self->rd, page_size));
	EXPECT_TRUE(read_pages_of(self->rd, self->buf, ALL_WRITERS));
	JOIN_WRITERS((ssize_t)page_size, -1);
	ASSERT_EQ((int)page_size, fcntl(self->wr, F_SETPIPE_SZ, page_size));
	ASSERT_EQ((ssize_t)page_size, PVM(0, 3 * page_size, 0));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
}

FIXTURE(memory) {
	TARGET_MEMBERS;
};

FIXTURE_SETUP(memory)
{
	self->size = REGION_SIZE;
	self->mem = map_small(self->size);
	ASSERT_FALSE(!self->mem);
	START_TARGET();
	TELL(WRITE_OLD, 0, self->size);
}

FIXTURE_TEARDOWN(memory) {}

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

/* Assert that racing writers never get EAGAIN or lose a page. */
TEST_F_TIMEOUT(memory, racing_writers, TIMEOUT)
{
	struct racer racers[3];
	int seen[ARRAY_SIZE(racers)] = {};

	/* With one slot, a writer often takes what another has waited for. */
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
			if (differs(self->buf, who * page_size, page_size, OLD_BYTES) ==
			    page_size)
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

/* Assert that a page is EFAULT for which a userfaultfd serves user mode alone. */
TEST_F(memory, userfaultfd_for_user_mode)
{
	struct iovec iov = { map_small(2 * page_size), 2 * page_size };
	unsigned char *mem = iov.iov_base;
	int uffd;

	ASSERT_FALSE(!mem);
	uffd = watch_faults(mem, 2 * page_size, UFFD_USER_MODE_ONLY);
	if (uffd < 0)
		SKIP(return, "no userfaultfd for user mode");
	EXPECT_EQ((ssize_t)-EFAULT, pvm(getpid(), self->wr, &iov, 1, 0));
	EXPECT_TRUE(no_fault_so_far(uffd));
	ASSERT_TRUE(resolve_page(uffd, mem, 0));
	EXPECT_EQ((ssize_t)page_size, pvm(getpid(), self->wr, &iov, 1, 0));
	EXPECT_EQ((int)page_size, in_pipe(self->rd));
}

/* So much that a change of its protection takes a while, with the map locked. */
#define LARGE (32UL << 20)
#define KILLS 40
#define LOOKS 1000

static void map_changing_target(unsigned char *large, int ready)
{
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
	while (pvm(pid, wr, iov, 1, 0) == (ssize_t)iov->iov_len &&
	       drain(rd, iov->iov_len))
		;
	_exit(1);
}

/*
 * Is it seen to wait for the lock? It does not sleep so for anything else. That
 * depends on the CPUs that the scheduler has chosen, and may take long.
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

/* Assert that SIGKILL ends a wait for the target's memory map. */
TEST_F_TIMEOUT(memory, caller_killed_while_the_map_is_locked, TIMEOUT)
{
	struct iovec iov = { self->mem, page_size };
	unsigned char *large = map_small(LARGE);
	int waiting = 0, p[2];
	pid_t target;
	char byte;

	ASSERT_EQ(0, pipe(p));
	set_pattern(self->mem, 0, page_size, OLD_BYTES);
	target = fork();
	if (!target)
		map_changing_target(large, p[1]);
	ASSERT_LT(0, target);
	ASSERT_EQ(1, read(p[0], &byte, 1));
	for (int i = 0; i < KILLS; i++) {
		pid_t caller = fork();
		int status, left;

		if (!caller)
			caller_in_a_loop(target, self->rd, self->wr, &iov);
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
	/* None of them has left the lock taken. */
	ASSERT_EQ((ssize_t)page_size, pvm(target, self->wr, &iov, 1, 0));
	EXPECT_PIPE(0, page_size, OLD_BYTES);
	ASSERT_EQ(0, kill(target, SIGKILL));
	wait_for_state(target, 'Z');
	if (!waiting)
		SKIP(return, "all but this: none was seen to wait for the lock");
}

/* A target that executes itself again and again. */
#define NR_EXECS 40

/* While the new program fills the page, some of its bytes are there, in any order. */
static bool is_being_filled(const unsigned char *buf, const unsigned char *filled)
{
	for (size_t i = 0; i < page_size; i++)
		if (buf[i] && buf[i] != filled[i])
			return false;
	return true;
}

/* Assert that the call gets bytes of one program, or none. */
TEST_F_TIMEOUT(memory, exec_again_and_again, TIMEOUT)
{
	struct iovec image = { IMAGE, page_size };
	unsigned char *filled = malloc(page_size);

	ASSERT_FALSE(!filled);
	set_pattern(filled, 0, page_size, NEW_BYTES);
	for (int i = 0; i < NR_EXECS; i++) {
		struct command cmd = { EXEC, 0, 0 };
		int ctl[MAX_SERVERS], answer;
		struct pollfd pfd = { .events = POLLIN };
		pid_t pid = start_target(self->mem, ctl);
		ssize_t ret;

		ASSERT_LT(0, pid);
		pfd.fd = ctl[0];
		ASSERT_EQ((ssize_t)sizeof(cmd), write(ctl[0], &cmd, sizeof(cmd)));
		while (!poll(&pfd, 1, 0)) {
			ret = pvm(pid, self->wr, &image, 1, 0);
			if (ret == -ESRCH || ret == -EFAULT || ret == -EPERM)
				continue;
			ASSERT_EQ((ssize_t)page_size, ret);
			ASSERT_EQ(ret, read_all(self->rd, self->buf, ret));
			EXPECT_TRUE(is_being_filled(self->buf, filled));
		}
		ASSERT_EQ((ssize_t)sizeof(answer), read(ctl[0], &answer, sizeof(answer)));
		ASSERT_EQ((ssize_t)page_size, pvm(pid, self->wr, &image, 1, 0));
		EXPECT_PIPE(0, page_size, NEW_BYTES);
		for (int j = 0; j < MAX_SERVERS; j++)
			close(ctl[j]);
		ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	}
	free(filled);
}

/*
 * A page may change hands during a call: a child unmaps what it shares with its
 * parent, and the parent, by then the only one to map it, writes. hugetlb gives
 * it the page for that, even if the child's call has taken a reference and not
 * copied the bytes yet. No bytes of the parent's may come out. The time between
 * the two is short; scripts/checks/mutants makes it long.
 */
FIXTURE(last_owner) {
	unsigned char *mem;
	size_t size;
};

FIXTURE_VARIANT(last_owner) {
	bool hugetlb;
};

FIXTURE_VARIANT_ADD(last_owner, anon) { .hugetlb = false };
FIXTURE_VARIANT_ADD(last_owner, hugetlb) { .hugetlb = true };

FIXTURE_SETUP(last_owner)
{
	self->size = page_size;
	self->mem = map_anon(self->size);
	if (variant->hugetlb) {
		self->size = hugetlb_size();
		reserve_huge_pages(4);
		self->mem = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
				 MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	}
	if (!self->size || self->mem == MAP_FAILED)
		SKIP(return, "the kernel has no such memory");
}

FIXTURE_TEARDOWN(last_owner) {}

/* 0 if the call got nothing, or what the memory was at the time of fork(). */
static int give_away_during_a_call(unsigned char *mem, size_t size, int parent, bool late)
{
	unsigned char *buf = malloc(page_size);
	struct iovec iov = { mem, page_size };
	int p[2];
	struct caller c = { .pid = getpid(), .iov = &iov, .nr_segs = 1 };
	char byte = 0;
	ssize_t ret;

	if (pipe(p))
		return 1;
	c.fd = p[1];
	caller_start(&c);
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
	return differs(buf, 0, page_size, OLD_BYTES) == page_size ? 0 : 4;
}

/* Assert that no byte of the page's last owner gets into the pipe. */
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

PVM_HARNESS_MAIN
