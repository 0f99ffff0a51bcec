// SPDX-License-Identifier: GPL-2.0
/*
 * A stress test with an end. Several threads call process_vmsplice() on several
 * targets and one pipe; others read it, splice it on and tee it, and resize the
 * pipes. The targets map, unmap, fork, exec and exit, and their pages are
 * migrated, swapped and merged. It proves two things.
 *
 * The data is right. A target stamps each line of 64 bytes with its own number,
 * the number of the page, of the line, and a generation, and never writes to a
 * line again: a page gets a new generation by a new mapping, which is moved
 * there when it is stamped. So each line that comes out must be whole, of a
 * line that was asked for and has not come yet, and of a generation not older
 * than at the time of the call. Copies that are not the target's (a child's,
 * after fork) have other stamps. In the end, each line that was inserted has
 * come out once.
 *
 * Nothing is leaked. After a run that warms everything up, the memory in use is
 * compared with that after the run proper. It may grow by ALLOWED_GROWTH,
 * whatever the number of rounds: 4 MiB, or 1024 pages of 4 KiB. A round is one
 * call, so that a leak is seen of more than one page in 5 calls in 5000 rounds,
 * and one page in 98 calls in 100000. That needs a machine on which nothing
 * else runs: it is done in the guest of vmtest.sh.
 *
 * PVM_ROUNDS in the environment is the number of rounds, and PVM_SEED the start
 * of all random numbers. What runs when is not repeated by that.
 */
#define _GNU_SOURCE
#include "pvm_ramdisk.h"
#include "pvm_random.h"
#include <linux/futex.h>

#define DEFAULT_ROUNDS 5000
#define WARM_UP_ROUNDS 500
#define ALLOWED_GROWTH (4 << 20)

#define NR_TARGETS 4
#define NR_WRITERS 4
#define NR_READERS 2
#define PAGES 24
#define MAX_SEGS 8
#define LINE 64
/* What is no target's: the writes of a forked child, and those after a merge. */
#define FOREIGN 0x80

/* How many rounds pass between two things that someone else does. */
#define TARGET_PACE 8
#define CHAOS_PACE 15
#define TEE_PACE 4

/* Far more than a few rounds take. */
#define HANG_SECONDS 120
#define NO_TIMEOUT (24 * 60 * 60)

/* Nothing else is ever mapped there, in a program just started. */
#define WINDOW ((unsigned char *)(sizeof(long) == 8 ? 1UL << 36 : 3UL << 28))
#define TARGET_ENV "PVM_STRESS_TARGET"

#ifndef MPOL_MF_MOVE
#define MPOL_MF_MOVE 2
#endif
#ifndef SYS_futex
#define SYS_futex SYS_futex_time64
#endif

enum target_op {
	DO_RESTAMP, DO_UNMAP, DO_FORK, DO_PAGEOUT, DO_MERGE, DO_EXEC, DO_EXIT, BE_KILLED, NR_OPS,
};

static const char * const op_names[NR_OPS] = {
	"restamped", "unmapped", "forked", "paged out", "merged", "execed", "exited",
	"killed",
};

/* One for each target that runs, and for those that take its place. */
struct slot {
	uint32_t pid;
	/* The last generation that was begun, and the one each page has at least. */
	uint32_t begun;
	uint32_t gen[PAGES];
};

/* Shared by all processes; a file, to be mapped again after execve(). */
struct shared {
	uint64_t seed;
	uint32_t starts;
	uint32_t rounds, stop;
	uint32_t bad_exits;
	uint32_t ops[NR_OPS];
	struct slot slots[NR_TARGETS];
};

static struct shared *shared;
static int shared_fd;

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define STORE(x, v) __atomic_store_n(&(x), v, __ATOMIC_RELEASE)
#define INC(x) __atomic_add_fetch(&(x), 1, __ATOMIC_ACQ_REL)

/* Waiting for rounds to pass, across processes. */

static void one_more_round(void)
{
	INC(shared->rounds);
	syscall(SYS_futex, &shared->rounds, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* False if there are no more. */
static bool wait_for_round(uint32_t round)
{
	while (!LOAD(shared->stop)) {
		uint32_t now = LOAD(shared->rounds);

		if ((int32_t)(now - round) >= 0)
			return true;
		syscall(SYS_futex, &shared->rounds, FUTEX_WAIT, now, NULL, NULL, 0);
	}
	return false;
}

static bool wait_rounds(uint32_t n)
{
	return wait_for_round(LOAD(shared->rounds) + n);
}

static void stop_all(void)
{
	STORE(shared->stop, 1);
	one_more_round();
}

/* Each thread and process has its own. */
static size_t rnd(uint64_t *rng, size_t n)
{
	*rng ^= *rng << 13;
	*rng ^= *rng >> 7;
	*rng ^= *rng << 17;
	return (*rng >> 16) % n;
}

static uint64_t new_rng(uint64_t id)
{
	uint64_t x = shared->seed + id * 0x9e3779b97f4a7c15ULL;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return (x ^ x >> 31) | 1;
}

/* Stamps. */

struct line {
	uint32_t target, gen, page, nr;
	uint32_t checksums[LINE / 4 - 4];
};

static size_t lines_per_page(void)
{
	return page_size / LINE;
}

static struct line make_line(uint32_t target, uint32_t gen, uint32_t page, uint32_t nr)
{
	struct line line = { .target = target, .gen = gen, .page = page, .nr = nr };
	uint32_t h = target * 0x01000193 ^ gen * 0x85ebca6b ^ page * 0xc2b2ae35 ^ nr;

	for (size_t i = 0; i < ARRAY_SIZE(line.checksums); i++) {
		h = (h ^ h >> 15) * 0x2c1b3c6d + i;
		line.checksums[i] = h;
	}
	return line;
}

static void stamp_page(void *mem, uint32_t target, uint32_t gen, uint32_t page)
{
	struct line *lines = mem;

	for (size_t i = 0; i < lines_per_page(); i++)
		lines[i] = make_line(target, gen, page, i);
}

/* The target. */

struct target {
	unsigned int id;
	struct slot *slot;
	/* A second copy of what is in the window, for pages to be merged. */
	unsigned char *twin;
	bool present[PAGES], own[PAGES];
	pid_t child;
	uint64_t rng;
};

static unsigned char *window_page(size_t page)
{
	return WINDOW + page * page_size;
}

/* Memory comes to where it is asked for when it is whole. False if it may not be there. */
static bool try_restamp(struct target *t, size_t from, size_t n, bool own)
{
	size_t len = n * page_size;
	unsigned char *mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
				  MAP_ANONYMOUS | (own ? MAP_PRIVATE : MAP_SHARED),
				  -1, 0);
	uint32_t gen = INC(t->slot->begun);

	if (mem == MAP_FAILED)
		_exit(1);
	for (size_t i = 0; i < n; i++)
		stamp_page(mem + i * page_size, t->id, gen, from + i);
	if (mprotect(mem, len, PROT_READ))
		_exit(1);
	if (mremap(mem, len, len, MREMAP_MAYMOVE | MREMAP_FIXED,
		   window_page(from)) != window_page(from)) {
		if (own || !may_not_be_shared_there(errno))
			_exit(1);
		munmap(mem, len);
		return false;
	}
	for (size_t i = from; i < from + n; i++) {
		t->present[i] = true;
		t->own[i] = own;
		STORE(t->slot->gen[i], gen);
	}
	return true;
}

/* Private anonymous memory, or some that process_vmsplice() has to copy. */
static void restamp(struct target *t, size_t from, size_t n)
{
	if (rnd(&t->rng, 4) || !try_restamp(t, from, n, false))
		try_restamp(t, from, n, true);
}

static void op_restamp(struct target *t)
{
	size_t from = rnd(&t->rng, PAGES);

	restamp(t, from, 1 + rnd(&t->rng, PAGES - from));
}

static void op_unmap(struct target *t)
{
	size_t from = rnd(&t->rng, PAGES), n = 1 + rnd(&t->rng, 4);

	if (n > PAGES - from)
		n = PAGES - from;
	munmap(window_page(from), n * page_size);
	memset(t->present + from, 0, n);
}

static void end_child(struct target *t)
{
	if (!t->child)
		return;
	kill(t->child, SIGKILL);
	waitpid(t->child, NULL, 0);
	t->child = 0;
}

/* Write to its own copies; no one may ever see that elsewhere. */
static void child_main(struct target *t, pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	for (size_t i = 0; i < PAGES; i++) {
		if (!t->present[i] || !t->own[i] || !rnd(&t->rng, 3))
			continue;
		if (mprotect(window_page(i), page_size, PROT_READ | PROT_WRITE))
			_exit(1);
		stamp_page(window_page(i), t->id | FOREIGN, 1, i);
	}
	for (;;)
		pause();
}

static void op_fork(struct target *t)
{
	pid_t parent = getpid();

	end_child(t);
	t->child = fork();
	if (t->child < 0)
		_exit(1);
	if (!t->child)
		child_main(t, parent);
}

static void op_pageout(struct target *t)
{
	madvise(WINDOW, PAGES * page_size, MADV_PAGEOUT);
}

/*
 * Give the kernel a second page of the same content to merge with. When it is
 * written to, later, that must not show in the first.
 */
static void op_merge(struct target *t)
{
	for (size_t i = 0; i < PAGES; i++)
		stamp_page(t->twin + i * page_size, t->id | FOREIGN, 2, i);
	for (size_t i = 0; i < PAGES; i++)
		if (t->present[i] && t->own[i])
			stamp_page(t->twin + i * page_size, t->id, t->slot->gen[i], i);
	madvise(t->twin, PAGES * page_size, MADV_MERGEABLE);
	/* Where there are holes, it fails at the end, with all done. */
	madvise(WINDOW, PAGES * page_size, MADV_MERGEABLE);
}

static void op_exec(struct target *t)
{
	char env[64], *argv[] = { "target", NULL }, *envp[] = { env, NULL };

	end_child(t);
	snprintf(env, sizeof(env), TARGET_ENV "=%u,%d", t->id, shared_fd);
	execve("/proc/self/exe", argv, envp);
	_exit(1);
}

static void op_exit(struct target *t)
{
	_exit(0);
}

static void op_killed(struct target *t)
{
	raise(SIGKILL);
}

/* What a target does, and how often. */
static const struct {
	void (*run)(struct target *t);
	unsigned int weight;
} ops[NR_OPS] = {
	[DO_RESTAMP] = { op_restamp, 50 },
	[DO_UNMAP] = { op_unmap, 16 },
	[DO_FORK] = { op_fork, 10 },
	[DO_PAGEOUT] = { op_pageout, 12 },
	[DO_MERGE] = { op_merge, 10 },
	[DO_EXEC] = { op_exec, 2 },
	[DO_EXIT] = { op_exit, 1 },
	[BE_KILLED] = { op_killed, 1 },
};

static enum target_op next_op(uint64_t *rng)
{
	size_t sum = 0, at;

	/* Each of them at least once, also in a short run. */
	for (size_t i = 0; i < NR_OPS; i++)
		if (!LOAD(shared->ops[i]))
			return i;
	for (size_t i = 0; i < NR_OPS; i++)
		sum += ops[i].weight;
	at = rnd(rng, sum);
	for (size_t i = 0; i < NR_OPS; i++) {
		if (at < ops[i].weight)
			return i;
		at -= ops[i].weight;
	}
	return DO_RESTAMP;
}

static void run_target(unsigned int id)
{
	struct target t = {
		.id = id, .slot = &shared->slots[id],
		/* Not what the slot's last target had. */
		.rng = new_rng((uint64_t)INC(shared->starts) << 32 | id),
	};
	size_t size = PAGES * page_size;

	/* If there is something, it is not overwritten. */
	if (mmap(WINDOW, size, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != WINDOW)
		_exit(1);
	t.twin = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	if (t.twin == MAP_FAILED)
		_exit(1);
	restamp(&t, 0, PAGES);
	STORE(t.slot->pid, getpid());
	while (wait_rounds(TARGET_PACE)) {
		enum target_op op = next_op(&t.rng);

		INC(shared->ops[op]);
		ops[op].run(&t);
	}
	_exit(0);
}

/* The start of a target after execve(), before the harness looks at anything. */
static void __attribute__((constructor)) maybe_target(void)
{
	const char *env = getenv(TARGET_ENV);
	unsigned int id;

	if (!env || sscanf(env, "%u,%d", &id, &shared_fd) != 2 || id >= NR_TARGETS)
		return;
	page_size = sysconf(_SC_PAGESIZE);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED,
		      shared_fd, 0);
	if (shared == MAP_FAILED)
		_exit(1);
	run_target(id);
}

/* The keeper: a process with one thread that starts targets and replaces them. */

static pid_t spawn_target(unsigned int id)
{
	pid_t parent = getpid(), pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	run_target(id);
	return 0;
}

static bool good_end(int status)
{
	if (WIFSIGNALED(status))
		return WTERMSIG(status) == SIGKILL;
	return !WEXITSTATUS(status);
}

static void target_ended(pid_t *pids, pid_t pid, int status)
{
	for (unsigned int i = 0; i < NR_TARGETS; i++) {
		if (pids[i] != pid)
			continue;
		STORE(shared->slots[i].pid, 0);
		if (!good_end(status))
			INC(shared->bad_exits);
		if (!LOAD(shared->stop))
			pids[i] = spawn_target(i);
	}
}

static void keeper_main(pid_t parent)
{
	pid_t pids[NR_TARGETS], pid;
	int status;

	/* The children of targets become its own, and die, when the targets end. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	for (unsigned int i = 0; i < NR_TARGETS; i++)
		pids[i] = spawn_target(i);
	while ((pid = waitpid(-1, &status, 0)) > 0)
		target_ended(pids, pid, status);
	_exit(0);
}

/* The test. */

enum { MAIN_PIPE, NEXT_PIPE, TEE_PIPE, NR_PIPES };

/* What is on its way of a page. */
struct in_flight {
	/* Lines in all, and how often each. */
	size_t total, *lines;
	/* What is on its way is of this generation or a later one. */
	uint32_t oldest;
};

struct counts {
	uint64_t inserted, received, teed, tee_received;
	uint64_t calls, some, efault, esrch, eagain;
	uint64_t resized, migrated;
};

static struct in_flight in_flight[NR_TARGETS][PAGES];
static struct counts counts;
static int rd[NR_PIPES], wr[NR_PIPES];
static uint32_t tickets, nr_rounds;
static char failure[512];
/* Guards what is above. No one waits for a pipe while holding it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/*
 * With the lock held. The first one is kept; everyone goes on, so that all ends
 * in an orderly way.
 */
#define fail(...) ((void)(failure[0] || snprintf(failure, sizeof(failure), __VA_ARGS__)))

static void system_call_failed(const char *name)
{
	int err = errno;

	pthread_mutex_lock(&lock);
	fail("%s: %s", name, strerror(err));
	pthread_mutex_unlock(&lock);
}

static void one_line_asked(unsigned int target, size_t page, size_t line)
{
	struct in_flight *f = &in_flight[target][page];

	if (!f->total)
		f->oldest = LOAD(shared->slots[target].gen[page]);
	f->total++;
	f->lines[line]++;
}

static void one_line_gone(unsigned int target, size_t page, size_t line)
{
	struct in_flight *f = &in_flight[target][page];

	f->total--;
	f->lines[line]--;
}

/* Do something for all lines of iov but the first few. */
static void for_lines(unsigned int target, const struct iovec *iov, size_t nr_segs,
		      size_t skip, void (*what)(unsigned int, size_t, size_t))
{
	for (size_t i = 0; i < nr_segs; i++) {
		size_t from = (unsigned char *)iov[i].iov_base - WINDOW;

		for (size_t at = from; at < from + iov[i].iov_len; at += LINE) {
			if (skip)
				skip--;
			else
				what(target, at / page_size, at % page_size / LINE);
		}
	}
}

/* Writers. */

static size_t random_iov(uint64_t *rng, struct iovec *iov, bool whole_pages)
{
	size_t unit = whole_pages ? page_size : LINE;
	size_t units = PAGES * page_size / unit, n = 1 + rnd(rng, MAX_SEGS);

	for (size_t i = 0; i < n; i++) {
		size_t from = rnd(rng, units), max = 3 * page_size / unit, len;

		if (max > units - from)
			max = units - from;
		len = rnd(rng, max + 1);
		iov[i] = (struct iovec){ WINDOW + from * unit, len * unit };
	}
	return n;
}

static size_t total_len(const struct iovec *iov, size_t nr_segs)
{
	size_t total = 0;

	for (size_t i = 0; i < nr_segs; i++)
		total += iov[i].iov_len;
	return total;
}

/* Count the result; with the lock held. */
static void judge_result(ssize_t ret, size_t total, unsigned int flags)
{
	counts.calls++;
	if (ret > 0 && ret <= (ssize_t)total && !(ret % LINE))
		counts.some++;
	else if (ret == -EFAULT)
		counts.efault++;
	else if (ret == -ESRCH)
		counts.esrch++;
	else if (ret == -EAGAIN && flags & SPLICE_F_NONBLOCK)
		counts.eagain++;
	else if (ret || total)
		fail("process_vmsplice() of %zu bytes, flags %#x: %zd", total, flags, ret);
	if (ret > 0)
		counts.inserted += ret;
}

/* One that was alive a moment ago, for the call to have a chance. */
static unsigned int random_target(uint64_t *rng)
{
	unsigned int target;

	while (target = rnd(rng, NR_TARGETS), !LOAD(shared->slots[target].pid))
		sched_yield();
	return target;
}

static void write_once(uint64_t *rng)
{
	bool whole_pages = rnd(rng, 2);
	unsigned int target = random_target(rng), flags = 0;
	struct iovec iov[MAX_SEGS];
	size_t nr_segs = random_iov(rng, iov, whole_pages);
	ssize_t ret;

	if (whole_pages && rnd(rng, 2))
		flags |= SPLICE_F_GIFT;
	if (!rnd(rng, 3))
		flags |= SPLICE_F_NONBLOCK;

	pthread_mutex_lock(&lock);
	for_lines(target, iov, nr_segs, 0, one_line_asked);
	pthread_mutex_unlock(&lock);

	ret = pvm(LOAD(shared->slots[target].pid), wr[MAIN_PIPE], iov, nr_segs, flags);

	pthread_mutex_lock(&lock);
	for_lines(target, iov, nr_segs, ret > 0 ? ret / LINE : 0, one_line_gone);
	judge_result(ret, total_len(iov, nr_segs), flags);
	pthread_mutex_unlock(&lock);
}

static void *writer_main(void *arg)
{
	uint64_t rng = new_rng((uintptr_t)arg);

	while (INC(tickets) <= nr_rounds) {
		write_once(&rng);
		one_more_round();
	}
	return NULL;
}

/* Readers. */

static bool is_whole(const struct line *line)
{
	struct line whole = make_line(line->target, line->gen, line->page, line->nr);

	return !memcmp(line, &whole, sizeof(whole)) && line->target < NR_TARGETS &&
	       line->page < PAGES && line->nr < lines_per_page();
}

static void line_arrived(const struct line *line)
{
	struct in_flight *f = &in_flight[line->target][line->page];

	if (!f->lines[line->nr]) {
		fail("target %u page %u line %u was not asked for", line->target,
		     line->page, line->nr);
		return;
	}
	if (line->gen < f->oldest)
		fail("target %u page %u: generation %u, but %u had replaced it",
		     line->target, line->page, line->gen, f->oldest);
	one_line_gone(line->target, line->page, line->nr);
}

/*
 * A line that came out by tee() has come, or will come, by the other way as
 * well: it may be late, and is not counted.
 */
static void check_line(const struct line *line, bool teed)
{
	if (!is_whole(line))
		fail("no whole line: target %#x page %u line %u generation %u",
		     line->target, line->page, line->nr, line->gen);
	else if (line->gen > LOAD(shared->slots[line->target].begun))
		fail("generation %u of target %u has not begun", line->gen, line->target);
	else if (!teed)
		line_arrived(line);
}

static void check_lines(const void *buf, ssize_t len, bool teed)
{
	const struct line *lines = buf;

	pthread_mutex_lock(&lock);
	*(teed ? &counts.tee_received : &counts.received) += len;
	if (len % LINE)
		fail("read %zd bytes", len);
	for (ssize_t i = 0; i < len / LINE; i++)
		check_line(&lines[i], teed);
	pthread_mutex_unlock(&lock);
}

static void *reader_main(void *arg)
{
	int which = (intptr_t)arg;
	uint64_t rng = new_rng(which + 100);
	size_t max = 16 * lines_per_page();
	void *buf = malloc(max * LINE);
	ssize_t n;

	while ((n = read(rd[which], buf, (1 + rnd(&rng, max)) * LINE)) > 0)
		check_lines(buf, n, which == TEE_PIPE);
	free(buf);
	return NULL;
}

/* Moves data on from the main pipe to the next, until the end of it. */
static void *pump_main(void *arg)
{
	uint64_t rng = new_rng(200);
	ssize_t n;

	do {
		n = splice(rd[MAIN_PIPE], NULL, wr[NEXT_PIPE], NULL,
			   (1 + rnd(&rng, 8 * lines_per_page())) * LINE, 0);
	} while (n > 0);
	if (n < 0)
		system_call_failed("splice");
	close(wr[NEXT_PIPE]);
	return NULL;
}

static void *tee_main(void *arg)
{
	uint64_t rng = new_rng(300);

	while (wait_rounds(TEE_PACE)) {
		ssize_t n = tee(rd[MAIN_PIPE], wr[TEE_PIPE],
				(1 + rnd(&rng, 8 * lines_per_page())) * LINE,
				SPLICE_F_NONBLOCK);

		if (n > 0)
			counts.teed += n;
		else if (n < 0 && errno != EAGAIN)
			system_call_failed("tee");
	}
	close(wr[TEE_PIPE]);
	return NULL;
}

/* What the test's own thread does. */

static void migrate(pid_t pid, int node)
{
	int nodes[PAGES], status[PAGES];
	void *pages[PAGES];

	for (size_t i = 0; i < PAGES; i++) {
		pages[i] = window_page(i);
		nodes[i] = node;
		status[i] = -1;
	}
	if (syscall(SYS_move_pages, pid, PAGES, pages, nodes, status, MPOL_MF_MOVE) < 0)
		return;
	for (size_t i = 0; i < PAGES; i++)
		counts.migrated += status[i] == node;
}

static void hang(int sig)
{
	static const char text[] = "# no progress: a call hangs\n";

	if (write(STDOUT_FILENO, text, sizeof(text) - 1) > 0)
		_exit(1);
	_exit(2);
}

/* For long runs. */
static void print_progress(uint32_t round)
{
	if (round > DEFAULT_ROUNDS && round % DEFAULT_ROUNDS < CHAOS_PACE)
		ksft_print_msg("%u of %u rounds\n", round, nr_rounds);
}

static void chaos(void)
{
	uint64_t rng = new_rng(400);

	for (uint32_t round = 0; round < nr_rounds; round += CHAOS_PACE) {
		wait_for_round(round);
		print_progress(round);
		/* Fails if there is more in it than that. */
		if (fcntl(wr[rnd(&rng, NR_PIPES)], F_SETPIPE_SZ,
			  page_size << rnd(&rng, 7)) > 0)
			counts.resized++;
		migrate(LOAD(shared->slots[rnd(&rng, NR_TARGETS)].pid), rnd(&rng, 2));
		alarm(HANG_SECONDS);
	}
	wait_for_round(nr_rounds);
	alarm(HANG_SECONDS);
}

static bool open_pipes(void)
{
	for (int i = 0; i < NR_PIPES; i++) {
		int p[2];

		if (pipe2(p, O_CLOEXEC))
			return false;
		rd[i] = p[0];
		wr[i] = p[1];
	}
	return true;
}

static void wait_for_targets(void)
{
	for (int i = 0; i < NR_TARGETS; i++)
		while (!LOAD(shared->slots[i].pid))
			sched_yield();
}

static size_t start_threads(pthread_t *threads, size_t n, void *(*fn)(void *), void *arg)
{
	for (size_t i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, fn, arg))
			exit(KSFT_FAIL);
	return n;
}

/* From the first byte to the last; what went wrong is in failure[]. */
static void run_threads(void)
{
	pthread_t writers[NR_WRITERS], others[NR_READERS + 4];
	size_t n = 0;

	n += start_threads(others + n, NR_READERS, reader_main, (void *)MAIN_PIPE);
	n += start_threads(others + n, 1, reader_main, (void *)NEXT_PIPE);
	n += start_threads(others + n, 1, reader_main, (void *)TEE_PIPE);
	n += start_threads(others + n, 1, pump_main, NULL);
	n += start_threads(others + n, 1, tee_main, NULL);
	for (size_t i = 0; i < NR_WRITERS; i++)
		start_threads(&writers[i], 1, writer_main, (void *)(i + 1));
	chaos();
	for (size_t i = 0; i < NR_WRITERS; i++)
		pthread_join(writers[i], NULL);
	/* The readers see the end of the data. */
	close(wr[MAIN_PIPE]);
	stop_all();
	for (size_t i = 0; i < n; i++)
		pthread_join(others[i], NULL);
	for (int i = 0; i < NR_PIPES; i++)
		close(rd[i]);
}

static size_t lines_in_flight(void)
{
	size_t n = 0;

	for (int i = 0; i < NR_TARGETS; i++)
		for (int page = 0; page < PAGES; page++)
			for (size_t line = 0; line < lines_per_page(); line++)
				n += in_flight[i][page].lines[line];
	return n;
}

/*
 * Memory that is in use, and that nobody gives back: neither free pages that
 * wait on the lists of a CPU, nor slab memory, which grows and shrinks as it
 * likes (KASAN keeps back what was freed), nor the page cache. A page whose
 * last mapping is gone while a reference is left is none of these.
 */
static long memory_in_use(void)
{
	static const char * const other[] = { "MemFree", "Slab", "Cached", "Buffers" };
	long kb = read_number("/proc/meminfo", "MemTotal");

	for (size_t i = 0; i < ARRAY_SIZE(other); i++)
		kb -= read_number("/proc/meminfo", other[i]);
	return (kb << 10) - read_number("/proc/zoneinfo", "count") * (long)page_size;
}

static void drop_memory(void)
{
	write_file("/proc/sys/vm/drop_caches", "3");
#ifdef __NR_membarrier
	/* MEMBARRIER_CMD_GLOBAL: what RCU has to free by now is free soon. */
	syscall(__NR_membarrier, 1, 0, 0);
#endif
	/* Makes the counters exact. */
	read_number("/proc/sys/vm/stat_refresh", "");
}

/* The least of several looks, as some memory is freed later. */
static long settled_memory(void)
{
	long least = LONG_MAX;

	for (int i = 0; i < 8; i++) {
		long now;

		drop_memory();
		now = memory_in_use();
		if (now < least)
			least = now;
	}
	return least;
}

/* Swapping, to a RAM disk that no one uses; merging. */

FIXTURE(stress) {
	bool swap;
	uint64_t seed;
};

#define SELF FIXTURE_DATA(stress)

static void print_what_is_missing(SELF *self)
{
	const char *no_ksm = start_ksm("50", "20");

	if (no_ksm)
		ksft_print_msg("%s: nothing is merged\n", no_ksm);
	if (!self->swap)
		ksft_print_msg("no free " SWAP_DEVICE ": nothing is swapped\n");
	if (!host_is_ours())
		ksft_print_msg("not the guest of vmtest.sh: memory is not looked at\n");
}

FIXTURE_SETUP(stress)
{
	/* Passed on through execve(). */
	shared_fd = memfd_create("shared", 0);
	ASSERT_LE(0, shared_fd);
	ASSERT_EQ(0, ftruncate(shared_fd, sizeof(*shared)));
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED,
		      shared_fd, 0);
	ASSERT_TRUE(shared != MAP_FAILED);
	for (int i = 0; i < NR_TARGETS; i++)
		for (int page = 0; page < PAGES; page++)
			in_flight[i][page].lines = calloc(lines_per_page(),
							  sizeof(size_t));
	/* Of the guest's own, nobody could tell how much memory it takes. */
	if (host_is_ours())
		swapoff("/dev/ram0");
	self->swap = make_swap(host_is_ours());
}

FIXTURE_TEARDOWN(stress)
{
	if (self->swap)
		remove_swap();
}

/* From nothing, through so many rounds, to nothing again. */
static void run_rounds(struct __test_metadata *_metadata, SELF *self,
		       uint32_t rounds)
{
	pid_t parent = getpid(), keeper;
	int status;

	memset(shared, 0, sizeof(*shared));
	shared->seed = self->seed;
	memset(&counts, 0, sizeof(counts));
	tickets = 0;
	nr_rounds = rounds;
	start_ksm("50", "20");
	if (self->swap) {
		note_change(undo_swapon, SWAP_DEVICE, "");
		ASSERT_EQ(0, swapon(SWAP_DEVICE, 0));
	}

	signal(SIGALRM, hang);
	alarm(HANG_SECONDS);
	/* Before there are pipes, whose ends it would hold, and threads. */
	keeper = fork();
	ASSERT_LE(0, keeper);
	if (!keeper)
		keeper_main(parent);
	wait_for_targets();
	ASSERT_TRUE(open_pipes());
	run_threads();
	ASSERT_EQ(keeper, waitpid(keeper, &status, 0));
	alarm(0);

	if (self->swap)
		ASSERT_EQ(0, swapoff(SWAP_DEVICE));
	/* Or what is merged still counts as in use. */
	if (host_is_ours())
		write_file(KSM_DIR "run", "2");

	EXPECT_STREQ("", failure);
	EXPECT_EQ(0, status);
	EXPECT_EQ(0U, shared->bad_exits);
	EXPECT_EQ((size_t)0, lines_in_flight());
	EXPECT_EQ(counts.inserted, counts.received);
	EXPECT_EQ(counts.teed, counts.tee_received);
	EXPECT_EQ(rounds, counts.calls);
}

static const char * const events[] = { "pswpout", "pgmigrate_success", "cow_ksm" };

static void print_counts(const long *before)
{
	ksft_print_msg("%llu calls: %llu inserted data, %llu EFAULT, %llu ESRCH, %llu EAGAIN\n",
		       (unsigned long long)counts.calls, (unsigned long long)counts.some,
		       (unsigned long long)counts.efault,
		       (unsigned long long)counts.esrch,
		       (unsigned long long)counts.eagain);
	ksft_print_msg("%llu KiB inserted, %llu KiB teed, %llu resizes, %llu pages moved\n",
		       (unsigned long long)counts.inserted >> 10,
		       (unsigned long long)counts.teed >> 10,
		       (unsigned long long)counts.resized,
		       (unsigned long long)counts.migrated);
	for (size_t i = 0; i < NR_OPS; i++)
		ksft_print_msg("targets %s %u times\n", op_names[i], shared->ops[i]);
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		ksft_print_msg("%s: %ld\n", events[i],
			       read_number("/proc/vmstat", events[i]) - before[i]);
}

/* Assert that the data is right and nothing leaks, as said above. */
TEST_F_TIMEOUT(stress, data_and_memory, NO_TIMEOUT)
{
	uint32_t rounds = number_from_env("PVM_ROUNDS", DEFAULT_ROUNDS);
	long before = 0, after, vmstat[ARRAY_SIZE(events)];

	self->seed = number_from_env("PVM_SEED", any_seed());
	ksft_print_msg("PVM_SEED=%llu PVM_ROUNDS=%u\n", (unsigned long long)self->seed, rounds);
	print_what_is_missing(self);
	run_rounds(_metadata, self, WARM_UP_ROUNDS);
	if (host_is_ours())
		before = settled_memory();
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		vmstat[i] = read_number("/proc/vmstat", events[i]);

	run_rounds(_metadata, self, rounds);
	print_counts(vmstat);
	if (host_is_ours()) {
		after = settled_memory();
		ksft_print_msg("memory in use: %ld KiB, then %ld KiB\n", before >> 10,
			       after >> 10);
		EXPECT_GE(ALLOWED_GROWTH, after - before);
	}

	/*
	 * Enough calls insert something, or all of this says nothing: in a
	 * short run, many find that their target has ended.
	 */
	EXPECT_LT(rounds / 16, counts.some);
	if (rounds < 1000)
		return;
	EXPECT_LT(0U, counts.teed);
	EXPECT_LT(0U, counts.resized);
	for (size_t i = 0; i < NR_OPS; i++)
		EXPECT_LT(0U, shared->ops[i]);
	/* Others may forbid it; a kernel without CONFIG_VM_EVENT_COUNTERS does not say. */
	if (self->swap && host_is_ours() && read_number("/proc/vmstat", "pgfault"))
		EXPECT_LT(vmstat[0], read_number("/proc/vmstat", "pswpout"));
}

PVM_HARNESS_MAIN
