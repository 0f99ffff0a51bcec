// SPDX-License-Identifier: GPL-2.0
/*
 * What process_vmsplice() inserts into a pipe is isolated: whatever happens to
 * the memory before the pipe is read, the reader sees the bytes of the time of
 * the call or, in a page shared with the target, what the target wrote since.
 * Never another process's later bytes, nor the page cache's, nor freed memory.
 *
 * One table says so for each kind of memory and each event; a cell is a test.
 * Two processes play: A, a child of the test, and B, a child of A for kinds of
 * memory with two owners. One of them is the target, the other is "the other".
 */
#define _GNU_SOURCE
#include "pvm_test.h"

/* The tests look at so many pages, from the start of the memory on. */
#define SPAN_PAGES 8
#define SPAN (SPAN_PAGES * page_size)
/* In the middle of them: the poisoned one. */
#define POISONED 4
/* At the start of them: those in the pipe, which KSM does not merge. */
#define IN_PIPE 4

/* Flags of /proc/kpageflags, and of pagemap in place of the bits above. */
#define KPF_MMAP BIT_OF(11)
#define KPF_ANON BIT_OF(12)
#define KPF_SWAPBACKED BIT_OF(14)
#define KPF_HUGE BIT_OF(17)
#define KPF_HWPOISON BIT_OF(19)
#define KPF_KSM BIT_OF(21)
#define KPF_THP BIT_OF(22)
#define KPF_ZERO_PAGE BIT_OF(24)
#define PM_FLAGS (PM_ALONE | PM_SWAP | PM_PRESENT)

#define MEDIUM_DIR THP_DIR "hugepages-64kB/"
#define MEDIUM_SIZE 65536

enum mapping { SMALL, HUGE, MEDIUM, HUGETLB, SHMEM, MEMFD, PRIVATE_FILE };

enum pmd { ANY, BY_PMD, BY_PTES };

/* The actor of a step, and the act: an op of pvm_test.h, or one of these. */
enum who { NOBODY_MORE, A, B, TARGET, OTHER };

enum {
	SWAP_OUT = EXIT + 1, SPLIT_PMD, UNMAP_HALF,
	OTHER_WRITES, CHILD_WRITES, TRUNCATE, MIGRATE,
};

struct step {
	enum who who;
	int op;
};

#define MAX_STEPS 6

/* A kind of memory: how to make it, and how to know that it is as it should. */
struct backing {
	enum mapping mapping;
	struct step steps[MAX_STEPS];
	bool target_is_b, zeros;
	unsigned char file_seed;
	uint64_t set, clear;
	enum pmd pmd;
};

#define BACKING(name, ...) static const struct backing name = { __VA_ARGS__ }
#define STEPS(...) .steps = { __VA_ARGS__ }
#define HUGE_STEPS(...) STEPS({ A, HUGE_PAGES }, { A, WRITE_OLD }, __VA_ARGS__)
#define KSM_STEPS(...)							\
	STEPS({ A, FORK }, __VA_ARGS__, { B, MERGE }, { B, WRITE_OLD })

BACKING(anon, SMALL, STEPS({ A, WRITE_OLD }),
	.set = KPF_ANON | PM_ALONE, .clear = KPF_THP);
BACKING(thp, HUGE, HUGE_STEPS(), .set = KPF_ANON | KPF_THP, .pmd = BY_PMD);
/* A huge page with a split PMD: by a change of protection, or a lost half. */
BACKING(thp_split, HUGE, HUGE_STEPS({ A, SPLIT_PMD }),
	.set = KPF_ANON | KPF_THP, .pmd = BY_PTES);
BACKING(thp_part, HUGE, HUGE_STEPS({ A, UNMAP_HALF }),
	.set = KPF_ANON | KPF_THP, .pmd = BY_PTES);
/* A large folio that is always mapped by PTEs. */
BACKING(mthp, MEDIUM, HUGE_STEPS(), .set = KPF_ANON | KPF_THP, .pmd = BY_PTES);
BACKING(hugetlb, HUGETLB, STEPS({ A, WRITE_OLD }), .set = KPF_HUGE);
BACKING(shmem, SHMEM, STEPS({ A, WRITE_OLD }, { A, FORK }),
	.set = KPF_SWAPBACKED | PM_PRESENT, .clear = KPF_ANON);
BACKING(memfd, MEMFD, STEPS({ A, WRITE_OLD }, { A, FORK }),
	.set = KPF_SWAPBACKED | PM_PRESENT, .clear = KPF_ANON);
BACKING(file_clean, PRIVATE_FILE, STEPS({ A, READ }, { A, FORK }),
	.set = KPF_MMAP | PM_PRESENT, .clear = KPF_ANON,
	.file_seed = OLD_BYTES);
/* A page of A's own, which is newer than B. */
BACKING(file_dirty, PRIVATE_FILE, STEPS({ A, FORK }, { A, WRITE_OLD }),
	.file_seed = FILE_BYTES, .set = KPF_ANON | PM_ALONE);
/*
 * A and B have each written the same. (Some kernels set KPF_KSM for all that is
 * anonymous: there, the lack of PM_ALONE shows that KSM has merged the page.)
 */
BACKING(ksm, SMALL, KSM_STEPS({ A, MERGE }, { A, WRITE_OLD }),
	.set = KPF_KSM, .clear = PM_ALONE);
BACKING(zero_page, SMALL, STEPS({ A, READ }),
	.set = KPF_ZERO_PAGE, .zeros = true);
BACKING(huge_zero, HUGE, STEPS({ A, HUGE_PAGES }, { A, READ }),
	.set = KPF_ZERO_PAGE | KPF_THP, .zeros = true);
BACKING(cow_parent, SMALL, STEPS({ A, WRITE_OLD }, { A, FORK }),
	.set = KPF_ANON, .clear = PM_ALONE);
BACKING(cow_child, SMALL, STEPS({ A, WRITE_OLD }, { A, FORK }),
	.target_is_b = true, .set = KPF_ANON, .clear = PM_ALONE);
BACKING(thp_cow_parent, HUGE, HUGE_STEPS({ A, FORK }),
	.set = KPF_ANON | KPF_THP, .clear = PM_ALONE, .pmd = BY_PMD);
BACKING(thp_cow_child, HUGE, HUGE_STEPS({ A, FORK }),
	.set = KPF_ANON | KPF_THP, .clear = PM_ALONE, .pmd = BY_PMD,
	.target_is_b = true);
BACKING(hugetlb_parent, HUGETLB, STEPS({ A, WRITE_OLD }, { A, FORK }),
	.set = KPF_HUGE);
BACKING(hugetlb_child, HUGETLB, STEPS({ A, WRITE_OLD }, { A, FORK }),
	.target_is_b = true, .set = KPF_HUGE);
BACKING(swapped, SMALL, STEPS({ A, WRITE_OLD }, { A, SWAP_OUT }),
	.set = PM_SWAP, .clear = PM_PRESENT);
BACKING(swapped_cow, SMALL,
	STEPS({ A, WRITE_OLD }, { A, SWAP_OUT }, { A, FORK }),
	.set = PM_SWAP, .clear = PM_PRESENT);

/* The events: the steps that follow the call. */
#define EVENT(name, ...)						\
	static const struct step name[MAX_STEPS] = { __VA_ARGS__ }

EVENT(writes, { TARGET, WRITE_NEW });
EVENT(other_writes, { OTHER, OTHER_WRITES });
EVENT(unmaps_other_writes, { TARGET, UNMAP }, { OTHER, OTHER_WRITES });
EVENT(exits, { TARGET, EXIT }, { OTHER, OTHER_WRITES });
EVENT(execs, { TARGET, EXEC }, { OTHER, OTHER_WRITES });
EVENT(forks_and_writes, { TARGET, FORK }, { TARGET, WRITE_NEW });
EVENT(forks_child_writes, { TARGET, FORK }, { TARGET, CHILD_WRITES });
EVENT(forks_unmaps_child_writes, { TARGET, FORK }, { TARGET, UNMAP }, { TARGET, CHILD_WRITES });
EVENT(truncates, { TARGET, TRUNCATE });
EVENT(discards_and_writes, { TARGET, DISCARD }, { TARGET, WRITE_NEW });
EVENT(pages_out, { TARGET, PAGE_OUT });
EVENT(protects, { TARGET, NO_ACCESS });
EVENT(is_migrated, { TARGET, MIGRATE });

/* The memory, at the same address in all processes, and who they are. */
struct world {
	const struct backing *backing;
	unsigned char *mem, *file_mem;
	size_t size;
	int file, rd, wr;
	pid_t a, b;
	int ctl[MAX_SERVERS], forks;	/* A, perhaps B, the target's child */
	uint64_t poisoned;		/* a frame */
};

static bool has_step(const struct step *steps, int op)
{
	for (int i = 0; i < MAX_STEPS && steps[i].who; i++)
		if (steps[i].op == op)
			return true;
	return false;
}

static bool has_b(const struct world *w)
{
	return has_step(w->backing->steps, FORK);
}

static pid_t target_pid(const struct world *w)
{
	return w->backing->target_is_b ? w->b : w->a;
}

static int ctl_of(const struct world *w, enum who who)
{
	return w->ctl[who == B ||
		      who == (w->backing->target_is_b ? TARGET : OTHER)];
}

static uint64_t page_flags(pid_t pid, const void *addr)
{
	uint64_t entry = pagemap_entry(pid, addr), flags = entry & PM_FLAGS;

	if (entry & PM_PRESENT)
		flags |= page_entry("/proc/kpageflags", entry & PM_PFN) & PM_PFN;
	return flags;
}

/* The first page of the span without all flags of set, or with one of clear. */
static size_t first_other_page(pid_t pid, const unsigned char *mem,
			       uint64_t set, uint64_t clear)
{
	size_t i;

	for (i = 0; i < SPAN_PAGES; i++) {
		uint64_t flags = page_flags(pid, mem + i * page_size);

		if ((flags & set) != set || (flags & clear))
			break;
	}
	return i;
}

static bool pages_are(pid_t pid, const struct world *w)
{
	return first_other_page(pid, w->mem, w->backing->set,
				w->backing->clear) == SPAN_PAGES;
}

static bool frame_has(uint64_t frame, uint64_t flag)
{
	return page_entry("/proc/kpageflags", frame) & flag;
}

static void wait_for_pages(pid_t pid, const struct world *w)
{
	while (!pages_are(pid, w)) {
		if (strchr("ZX", thread_state(pid)))
			give_up("the process with the memory has ended");
		sched_yield();
	}
}

/* Reclaim may pass over a page that is not on its list yet. */
static bool swap_out(const struct world *w)
{
	while (first_other_page(w->a, w->mem, PM_SWAP, PM_PRESENT) < SPAN_PAGES)
		if (!command(w->ctl[0], PAGE_OUT, 0, SPAN))
			return false;
	return true;
}

/* From one node to another, or back; false if there are not two. */
static bool migrate(pid_t pid, unsigned char *mem)
{
	int nodes[SPAN_PAGES], status[SPAN_PAGES];
	void *pages[SPAN_PAGES];

	for (size_t i = 0; i < SPAN_PAGES; i++)
		pages[i] = mem + i * page_size;
	if (syscall(SYS_move_pages, pid, SPAN_PAGES, pages, NULL, status, 0))
		return false;
	for (size_t i = 0; i < SPAN_PAGES; i++)
		nodes[i] = !status[i];
	/* It moves those that nobody else holds, which may be none. */
	return syscall(SYS_move_pages, pid, SPAN_PAGES, pages, nodes, status,
		       MPOL_MF_MOVE_ALL) >= 0;
}

/* Only advice can make a hole in what has no file. */
static bool truncate_file(const struct world *w, int ctl)
{
	if (w->backing->mapping == SHMEM)
		return command(ctl, REMOVE, 0, w->size);
	return !ftruncate(w->file, 0);
}

/* Nobody writes to a file by a private mapping. */
static bool other_writes_too(const struct world *w, int ctl)
{
	if (w->backing->mapping == PRIVATE_FILE)
		set_pattern(w->file_mem, 0, SPAN, OTHER_BYTES);
	return w->backing->mapping == PRIVATE_FILE || !has_b(w) ||
	       command(ctl, WRITE_OTHER, 0, SPAN);
}

static bool fork_one(struct world *w, int ctl)
{
	pid_t child = ask(ctl, FORK, 0, 0);

	if (!w->forks++)
		w->b = child;
	return child > 0;
}

static bool exit_target(const struct world *w, int ctl)
{
	ask(ctl, EXIT, 0, 0);
	wait_for_state(target_pid(w), 'Z');
	return true;
}

static bool do_step(struct world *w, const struct step *step)
{
	int ctl = ctl_of(w, step->who);

	switch (step->op) {
	case WRITE_OLD:
	case WRITE_NEW:
	case READ:
	case PAGE_OUT:
		return command(ctl, step->op, 0, SPAN);
	case SWAP_OUT:
		return swap_out(w);
	case SPLIT_PMD:
		return command(ctl, READ_ONLY, w->size - page_size, w->size);
	case UNMAP_HALF:
		w->size /= 2;
		return command(ctl, UNMAP, w->size, 2 * w->size);
	case FORK:
		return fork_one(w, ctl);
	case EXIT:
		return exit_target(w, ctl);
	case OTHER_WRITES:
		return other_writes_too(w, ctl);
	case CHILD_WRITES:
		return command(w->ctl[w->forks], WRITE_OTHER, 0, SPAN);
	case TRUNCATE:
		return truncate_file(w, ctl);
	case MIGRATE:
		return migrate(target_pid(w), w->mem);
	default:
		return command(ctl, step->op, 0, w->size);
	}
}

/* The number of the steps, or the negative number of the one that failed. */
static int do_steps(struct world *w, const struct step *steps)
{
	int i;

	for (i = 0; i < MAX_STEPS && steps[i].who; i++)
		if (!do_step(w, &steps[i]))
			return -i - 1;
	return i;
}

/* All run on one CPU, which allocates next what it has freed last. */
static void stay_on_one_cpu(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* Now the pipe would have these bytes if a page of it had been freed. */
static void reuse_freed_pages(void)
{
	size_t len = 128 * page_size;

	memset(map_small(len), 0xaa, len);
}

static size_t mapping_size(enum mapping mapping)
{
	switch (mapping) {
	case HUGE:
		return thp_size();
	case HUGETLB:
		return hugetlb_size();
	case MEDIUM:
		/* The kernel may not have it, or the span not fit in. */
		return access(MEDIUM_DIR, F_OK) || MEDIUM_SIZE < SPAN ? 0 :
		       MEDIUM_SIZE;
	default:
		return 2 * SPAN;
	}
}

/* Untouched in the test, so that A is its only owner. */
static void *map_memory(struct world *w)
{
	int flags = MAP_PRIVATE;

	w->file = -1;
	switch (w->backing->mapping) {
	case SMALL:
		return map_small(w->size);
	case HUGE:
	case MEDIUM:
		return map_aligned(w->size, w->size);
	case HUGETLB:
		reserve_huge_pages(8);
		flags |= MAP_HUGETLB | MAP_ANONYMOUS;
		break;
	case SHMEM:
		flags = MAP_SHARED | MAP_ANONYMOUS;
		break;
	case MEMFD:
	case PRIVATE_FILE:
		flags = w->backing->mapping == MEMFD ? MAP_SHARED : MAP_PRIVATE;
		w->file = pattern_file(w->size, w->backing->file_seed);
		w->file_mem = mmap(NULL, w->size, PROT_READ | PROT_WRITE,
				   MAP_SHARED, w->file, 0);
	}
	return mmap(NULL, w->size, PROT_READ | PROT_WRITE, flags, w->file, 0);
}

/* Is there swap, and may we use it? A cgroup can have a limit of 0. */
static bool can_swap(void)
{
	unsigned char *mem = map_small(page_size);

	/* Reclaim passes over a page that is not on its list yet. */
	for (int i = 0; i < 1000; i++) {
		mem[0] = 1;
		madvise(mem, page_size, MADV_PAGEOUT);
		if (pagemap_entry(getpid(), mem) & PM_SWAP)
			return true;
		sched_yield();
	}
	return false;
}

/* Why there can't be such memory, or NULL. */
static const char *why_not(const struct backing *b)
{
	if (geteuid())
		return "needs root, to make such memory and to see what it is";
	if (has_step(b->steps, SWAP_OUT) && !can_swap())
		return "no swap, or none for us";
	if (b->mapping == HUGE || b->mapping == MEDIUM)
		change_setting(THP_DIR "enabled", "madvise");
	if (b->mapping == HUGE)
		change_setting(THP_DIR "use_zero_page", "1");
	if (b->mapping == MEDIUM)
		change_setting(MEDIUM_DIR "enabled", "madvise");
	return has_step(b->steps, MERGE) ? start_ksm("1000", "1") : NULL;
}

/* Is the memory what the name of the test says? */
static bool is_as_it_should(const struct world *w)
{
	const struct backing *b = w->backing;
	pid_t pid = target_pid(w);

	if (b->set & KPF_KSM) {
		wait_for_pages(w->a, w);
		wait_for_pages(w->b, w);
	}
	return pages_are(pid, w) &&
	       (b->pmd == ANY ||
		!huge_bytes(pid, w->mem, SPAN) == (b->pmd == BY_PTES));
}

/* A poisoned page is lost to the host until this file is told its frame. */
#define UNPOISON "/sys/kernel/debug/hwpoison/unpoison-pfn"

static void undo_poison(const struct change *c)
{
	if (!write_file(UNPOISON, c->what))
		fprintf(stderr, "# page %s stays poisoned: %m\n", c->what);
}

/* Free their memory for the next test; that can't be while a pipe holds it. */
static void end_world(struct world *w)
{
	char frame[32];

	for (int i = 0; i < MAX_SERVERS; i++)
		close(w->ctl[i]);
	while (wait(NULL) > 0)
		;
	close(w->rd);
	close(w->wr);
	snprintf(frame, sizeof(frame), "%#llx",
		 (unsigned long long)w->poisoned);
	undo_change(undo_poison, frame);
}

/* Any host may have no huge page now, but our own. */
#define MAKE_WORLD(statement, b) do {					\
	struct world *_w = &self->w;					\
	const char *_missing = why_not(b);				\
									\
	if (_missing)							\
		SKIP(statement, "%s", _missing);			\
	_w->backing = b;						\
	_w->size = mapping_size((b)->mapping);				\
	_w->mem = _w->size ? map_memory(_w) : MAP_FAILED;		\
	if (_w->mem == MAP_FAILED)					\
		SKIP(statement, "the kernel has no such memory");	\
	prctl(PR_SET_CHILD_SUBREAPER, 1);				\
	stay_on_one_cpu();						\
	ASSERT_TRUE(open_pipe(&_w->rd, &_w->wr, 0));			\
	_w->a = start_target(_w->mem, _w->ctl);				\
	ASSERT_LT(0, _w->a);						\
	ASSERT_LT(0, do_steps(_w, (b)->steps));				\
	if ((b)->set & KPF_THP && !host_is_ours() && !is_as_it_should(_w)) \
		SKIP(statement, "no huge page now");			\
	ASSERT_TRUE(is_as_it_should(_w)) {				\
		TH_LOG("from page %zu on, the memory is not of this kind", \
		       first_other_page(target_pid(_w), _w->mem, (b)->set, (b)->clear)); \
	}								\
} while (0)

FIXTURE(cell) {
	struct world w;
};

FIXTURE_VARIANT(cell) {
	const struct backing *backing;
	const struct step *event;
	bool live;
};

FIXTURE_SETUP(cell)
{
	if (variant->event == is_migrated && !has_two_nodes())
		SKIP(return, "no second NUMA node");
	MAKE_WORLD(return, variant->backing);
}

FIXTURE_TEARDOWN(cell)
{
	end_world(&self->w);
}

/* Whose are the bytes of a page? */
static const char *whose(const unsigned char *buf, size_t from)
{
	static const char * const names[] = {
		[OLD_BYTES] = "the old ones",
		[NEW_BYTES] = "written by the target since",
		[OTHER_BYTES] = "written by another process since",
		[FILE_BYTES] = "the file's",
	};

	for (size_t seed = 0; seed < ARRAY_SIZE(names); seed++)
		if (differs(buf, from, page_size, seed) == page_size)
			return names[seed];
	if (is_filled(buf, page_size, 0))
		return "zeros";
	return is_filled(buf, page_size, 0xaa) ? "freed memory's" : "a mixture";
}

/* Assert that the reader sees what the table below says. */
TEST_F_TIMEOUT(cell, reader_sees, TIMEOUT)
{
	const char *right = variant->live ? "written by the target since" :
			    variant->backing->zeros ? "zeros" : "the old ones";
	struct world *w = &self->w;
	struct iovec iov = { w->mem, SPAN };
	unsigned char *buf = malloc(SPAN);

	/* The flag concerns the pipe's slots alone, not a fault from swap. */
	ASSERT_EQ((ssize_t)SPAN,
		  pvm(target_pid(w), w->wr, &iov, 1, SPLICE_F_NONBLOCK));
	ASSERT_LT(0, do_steps(w, variant->event));
	reuse_freed_pages();
	ASSERT_EQ((int)SPAN, in_pipe(w->rd));
	ASSERT_EQ((ssize_t)SPAN, read_all(w->rd, buf, SPAN));
	for (size_t i = 0; i < SPAN; i += page_size) {
		EXPECT_STREQ(right, whose(buf + i, i)) {
			TH_LOG("page %zu", i / page_size);
		}
	}
}

/*
 * The table. A cell says what the reader sees:
 *   OLD      the bytes of the time of the call
 *   LIVE     what the target wrote since: its own page is shared
 * or why there is nothing to see:
 *   ALONE    no other process has the memory
 *   NO_FILE  there is no file to truncate
 *   FIXED    the kernel does not page out, or not migrate, such pages
 */
#define CELL_OLD(b, e)		CELL_TEST(b, e, false)
#define CELL_LIVE(b, e)		CELL_TEST(b, e, true)
#define CELL_ALONE(b, e)
#define CELL_NO_FILE(b, e)
#define CELL_FIXED(b, e)

#define CELL_TEST(b, e, is_live)					\
	FIXTURE_VARIANT_ADD(cell, b##_##e) {				\
		.backing = &(b), .event = e, .live = is_live,		\
	};								\
	struct cell_##b##_##e

/* One column a line; the last takes the semicolon. */
#define ROW(b, w, o, uo, z, x, fw, k, fk, t, d, p, n, m)		\
	CELL_##w(b, writes);						\
	CELL_##o(b, other_writes);					\
	CELL_##uo(b, unmaps_other_writes);				\
	CELL_##z(b, exits);						\
	CELL_##x(b, execs);						\
	CELL_##fw(b, forks_and_writes);					\
	CELL_##k(b, forks_child_writes);				\
	CELL_##fk(b, forks_unmaps_child_writes);			\
	CELL_##t(b, truncates);						\
	CELL_##d(b, discards_and_writes);				\
	CELL_##p(b, pages_out);						\
	CELL_##n(b, protects);						\
	CELL_##m(b, is_migrated);					\
	struct row_##b

/*                  w     o      uo     z    x    fw   k    fk   t        d    p      n    m */
ROW(anon,           LIVE, ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(thp,            LIVE, ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(thp_split,      LIVE, ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(thp_part,       LIVE, ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(mthp,           LIVE, ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(hugetlb,        OLD,  ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, FIXED, OLD, OLD);
ROW(shmem,          OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, OLD,     OLD, OLD,   OLD, OLD);
ROW(memfd,          OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, OLD,     OLD, OLD,   OLD, OLD);
ROW(file_clean,     OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, OLD,     OLD, OLD,   OLD, OLD);
ROW(file_dirty,     LIVE, OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, OLD,     OLD, OLD,   OLD, OLD);
ROW(ksm,            OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(zero_page,      OLD,  ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, FIXED);
ROW(huge_zero,      OLD,  ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, FIXED);
ROW(cow_parent,     OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(cow_child,      OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(thp_cow_parent, OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(thp_cow_child,  OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(hugetlb_parent, OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, FIXED, OLD, OLD);
ROW(hugetlb_child,  OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, FIXED, OLD, OLD);
ROW(swapped,        LIVE, ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(swapped_cow,    OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);

/* Apart from the table: memory to which the target does not write any more. */
FIXTURE(memory) {
	struct world w;
};

FIXTURE_VARIANT(memory) {
	const struct backing *backing;
};

FIXTURE_VARIANT_ADD(memory, anon) { &anon };
FIXTURE_VARIANT_ADD(memory, thp) { &thp };
FIXTURE_VARIANT_ADD(memory, memfd) { &memfd };

FIXTURE_SETUP(memory)
{
	MAKE_WORLD(return, variant->backing);
}

FIXTURE_TEARDOWN(memory)
{
	end_world(&self->w);
}

/* Assert that data written to the pipe later gets a page of its own. */
TEST_F_TIMEOUT(memory, write_to_the_pipe, TIMEOUT)
{
	unsigned char *buf = malloc(SPAN), more[] = "written later";
	struct world *w = &self->w;
	struct iovec iov = { w->mem, 100 };

	ASSERT_EQ(100, pvm(w->a, w->wr, &iov, 1, 0));
	ASSERT_EQ((ssize_t)sizeof(more), write(w->wr, more, sizeof(more)));
	ASSERT_EQ((ssize_t)SPAN, readv_from(w->a, w->mem, buf, SPAN));
	EXPECT_EQ(SPAN, differs(buf, 0, SPAN, OLD_BYTES));
	ASSERT_EQ(100, read_all(w->rd, buf, 100));
	EXPECT_EQ((size_t)100, differs(buf, 0, 100, OLD_BYTES));
	ASSERT_EQ((ssize_t)sizeof(more), read_all(w->rd, buf, sizeof(more)));
	EXPECT_EQ(0, memcmp(buf, more, sizeof(more)));
	/* Nor does the pipe fill the target's page once that is read. */
	ASSERT_TRUE(fill_pipe(w->wr));
	ASSERT_EQ((ssize_t)SPAN, readv_from(w->a, w->mem, buf, SPAN));
	EXPECT_EQ(SPAN, differs(buf, 0, SPAN, OLD_BYTES));
}

/*
 * Whoever loses a page by poison gets a signal. The advice fails if the kernel
 * can't get rid of the page, as while it is in a pipe; but then it is poisoned.
 * It stays so when it is freed, and may come back in a huge page, until undone.
 */
#define POISON_ONE(w) do {						\
	char _frame[32];						\
									\
	(w)->poisoned = page_frame((w)->a, (w)->mem + POISONED * page_size); \
	snprintf(_frame, sizeof(_frame), "%#llx",			\
		 (unsigned long long)(w)->poisoned);			\
	note_change(undo_poison, _frame, "");				\
	command((w)->ctl[0], POISON, POISONED * page_size,		\
		(POISONED + 1) * page_size);				\
} while (0)

/* The call inserts just len bytes, which are those at from. */
#define EXPECT_OLD_BYTES(from, want, len) do {				\
	struct iovec _iov = { w->mem + (from), want };		\
	unsigned char *_buf = malloc(len);				\
									\
	ASSERT_EQ((ssize_t)(len), pvm(w->a, w->wr, &_iov, 1, 0)); \
	EXPECT_EQ((int)(len), in_pipe(w->rd));			\
	ASSERT_EQ((ssize_t)(len), read_all(w->rd, _buf, len));	\
	EXPECT_EQ(len, differs(_buf, from, len, OLD_BYTES));		\
	free(_buf);							\
} while (0)

static void expect_hole(struct __test_metadata *_metadata, struct world *w)
{
	size_t hole = POISONED * page_size, behind = hole + page_size;
	struct iovec iov = { w->mem + hole, SPAN - hole };

	/* In the middle of a range, and from its first and last byte on. */
	EXPECT_OLD_BYTES(10, SPAN - 10, hole - 10);
	EXPECT_EQ(-EFAULT, pvm(w->a, w->wr, &iov, 1, 0));
	iov.iov_base = w->mem + behind - 1;
	EXPECT_EQ(-EFAULT, pvm(w->a, w->wr, &iov, 1, 0));
	EXPECT_EQ(0, in_pipe(w->rd));
	EXPECT_OLD_BYTES(behind, SPAN - behind, SPAN - behind);
}

/* Assert that the call ends at a poisoned page. */
TEST_F_TIMEOUT(memory, poisoned, TIMEOUT)
{
	if (access(UNPOISON, W_OK))
		SKIP(return, "no " UNPOISON ", to undo it");
	POISON_ONE(&self->w);
	expect_hole(_metadata, &self->w);
}

/* Assert that the call ends at one in a huge page that stays whole, too. */
TEST_F_TIMEOUT(memory, poisoned_while_another_is_held, TIMEOUT)
{
	struct iovec iov = { self->w.mem, page_size };
	int rd, wr;

	if (access(UNPOISON, W_OK))
		SKIP(return, "no " UNPOISON ", to undo it");
	ASSERT_TRUE(open_pipe(&rd, &wr, 0));
	ASSERT_EQ((ssize_t)page_size, pvm(self->w.a, wr, &iov, 1, 0));
	POISON_ONE(&self->w);
	expect_hole(_metadata, &self->w);
	/* What is held is good. */
	EXPECT_TRUE(drain(rd, page_size));
	close(rd);
	close(wr);
}

/* Memory that is poisoned when it is in the pipe already, and its consumer. */
enum consumer { BY_READ, BY_VMSPLICE, TO_FILE, TO_SOCKET, BY_TEE };

FIXTURE(poison) {
	struct world w;
	int out[2];
};

FIXTURE_VARIANT(poison) {
	const struct backing *backing;
	enum consumer consumer;
	size_t good;	/* pages that come before the error */
};

FIXTURE_VARIANT_ADD(poison, anon_read) { &anon, BY_READ, POISONED };
FIXTURE_VARIANT_ADD(poison, anon_vmsplice) { &anon, BY_VMSPLICE, POISONED };
FIXTURE_VARIANT_ADD(poison, anon_to_file) { &anon, TO_FILE, POISONED };
FIXTURE_VARIANT_ADD(poison, anon_to_socket) { &anon, TO_SOCKET, POISONED };
FIXTURE_VARIANT_ADD(poison, anon_tee) { &anon, BY_TEE, POISONED };
/* One buffer has all the pages. */
FIXTURE_VARIANT_ADD(poison, thp_read) { &thp, BY_READ, 0 };
FIXTURE_VARIANT_ADD(poison, thp_vmsplice) { &thp, BY_VMSPLICE, 0 };
FIXTURE_VARIANT_ADD(poison, thp_to_file) { &thp, TO_FILE, 0 };
FIXTURE_VARIANT_ADD(poison, thp_to_socket) { &thp, TO_SOCKET, 0 };
FIXTURE_VARIANT_ADD(poison, thp_tee) { &thp, BY_TEE, 0 };
/* These are the pipe's own. */
FIXTURE_VARIANT_ADD(poison, memfd_read) { &memfd, BY_READ, SPAN_PAGES };

FIXTURE_SETUP(poison)
{
	if (access(UNPOISON, W_OK))
		SKIP(return, "no " UNPOISON ", to undo it");
	MAKE_WORLD(return, variant->backing);
	ASSERT_EQ(0, variant->consumer == TO_SOCKET ?
		     socketpair(AF_UNIX, SOCK_STREAM, 0, self->out) :
		     pipe2(self->out, O_NONBLOCK));
	if (variant->consumer == TO_FILE)
		self->out[1] = memfd_create("out", 0);
	ASSERT_EQ(0, fcntl(self->w.rd, F_SETFL, O_NONBLOCK));
}

FIXTURE_TEARDOWN(poison)
{
	close(self->out[0]);
	close(self->out[1]);
	end_world(&self->w);
}

/* How many bytes came, or -errno. */
static ssize_t consume(struct world *w, enum consumer who, int *out,
		       unsigned char *buf)
{
	struct iovec iov = { buf, SPAN };
	ssize_t n = -1;

	switch (who) {
	case BY_READ:
		n = read(w->rd, buf, SPAN);
		break;
	case BY_VMSPLICE:
		n = vmsplice(w->rd, &iov, 1, SPLICE_F_NONBLOCK);
		break;
	case TO_FILE:
	case TO_SOCKET:
		n = splice(w->rd, NULL, out[1], NULL, SPAN, SPLICE_F_NONBLOCK);
		break;
	case BY_TEE:
		/* Both pipes have the pages, and neither gives the bytes. */
		tee(w->rd, out[1], SPAN, SPLICE_F_NONBLOCK);
		n = read(out[0], buf, SPAN);
	}
	return n < 0 ? -errno : n;
}

/* Assert that whoever reads a page that was poisoned gets EIO. */
TEST_F_TIMEOUT(poison, in_the_pipe_is_an_error, TIMEOUT)
{
	size_t good = variant->good * page_size, got = 0;
	struct world *w = &self->w;
	struct iovec iov = { w->mem, SPAN };
	unsigned char *buf = calloc(1, SPAN);
	ssize_t n;

	/* In high memory, a huge page takes a slot a page, too. */
	if (!good && read_number("/proc/meminfo", "HighTotal"))
		good = POISONED * page_size;
	ASSERT_EQ((ssize_t)SPAN, pvm(w->a, w->wr, &iov, 1, 0));
	POISON_ONE(w);
	ASSERT_TRUE(frame_has(w->poisoned, KPF_HWPOISON));
	do {
		n = consume(w, variant->consumer, self->out, buf);
		got += n > 0 ? n : 0;
	} while (n > 0 && got < SPAN);
	EXPECT_EQ(good, got);
	if (good == SPAN) {
		EXPECT_EQ(SPAN, differs(buf, 0, SPAN, OLD_BYTES));
		return;
	}
	EXPECT_EQ(-EIO, n);
	/* It stays so. */
	EXPECT_EQ(-EIO, consume(w, variant->consumer, self->out, buf));
}

/*
 * If KSM merged a page that is in a pipe, another process, with the same bytes,
 * would map it. The state of the PTE must not matter: here it is not dirty, and
 * read-only since a fork(). A has the pages in the pipe, B the same bytes.
 */
BACKING(freed, SMALL, KSM_STEPS({ A, WRITE_OLD }, { A, FREE }),
	.set = KPF_ANON | PM_ALONE);
BACKING(swapped_in, SMALL,
	KSM_STEPS({ A, WRITE_OLD }, { A, SWAP_OUT }, { A, READ }),
	.set = KPF_ANON | PM_ALONE);
BACKING(thp_freed, HUGE,
	KSM_STEPS({ A, HUGE_PAGES }, { A, WRITE_OLD }, { A, FREE }),
	.set = KPF_ANON | KPF_THP, .pmd = BY_PMD);
BACKING(mthp_freed, MEDIUM,
	KSM_STEPS({ A, HUGE_PAGES }, { A, WRITE_OLD }, { A, FREE }),
	.set = KPF_ANON | KPF_THP, .pmd = BY_PTES);

FIXTURE(merge) {
	struct world w;
};

FIXTURE_VARIANT(merge) {
	const struct backing *backing;
	bool own_vmsplice;
};

FIXTURE_VARIANT_ADD(merge, freed) { &freed, false };
FIXTURE_VARIANT_ADD(merge, swapped_in) { &swapped_in, false };
FIXTURE_VARIANT_ADD(merge, thp_freed) { &thp_freed, false };
FIXTURE_VARIANT_ADD(merge, mthp_freed) { &mthp_freed, false };
FIXTURE_VARIANT_ADD(merge, freed_own_vmsplice) { &freed, true };
FIXTURE_VARIANT_ADD(merge, swapped_in_own_vmsplice) { &swapped_in, true };

FIXTURE_SETUP(merge)
{
	MAKE_WORLD(return, variant->backing);
}

FIXTURE_TEARDOWN(merge)
{
	end_world(&self->w);
}

static long full_scans(void)
{
	char text[64] = "-1";

	read_setting(KSM_DIR "full_scans", text, sizeof(text));
	return atol(text);
}

/* KSM needs a few rounds for a page; then what can be merged is. */
static void wait_for_scans(int rounds)
{
	long end = full_scans() + rounds;

	while (full_scans() < end)
		usleep(1000);
}

/* Assert that KSM merges no page that is in a pipe. */
TEST_F_TIMEOUT(merge, leaves_out_what_is_in_the_pipe, TIMEOUT)
{
	struct world *w = &self->w;
	struct iovec iov = { w->mem, IN_PIPE * page_size };
	uint64_t frames[IN_PIPE];
	bool tells;

	for (size_t i = 0; i < IN_PIPE; i++)
		frames[i] = page_frame(w->a, w->mem + i * page_size);
	/* Some kernels set the flag for all that is anonymous. */
	tells = !frame_has(frames[0], KPF_KSM);
	ASSERT_TRUE(variant->own_vmsplice ?
		    command(w->ctl[0], VMSPLICE, w->wr, iov.iov_len) :
		    pvm(w->a, w->wr, &iov, 1, 0) == (ssize_t)iov.iov_len);
	ASSERT_TRUE(command(w->ctl[0], FORK, 0, 0));
	ASSERT_TRUE(command(w->ctl[0], MERGE, 0, w->size));
	wait_for_scans(8);
	/* KSM is at work: of small pages, it merges those not in the pipe. */
	if (w->backing->mapping == SMALL) {
		EXPECT_EQ(page_frame(w->a, w->mem + IN_PIPE * page_size),
			  page_frame(w->b, w->mem + IN_PIPE * page_size));
	}
	for (size_t i = 0; i < IN_PIPE; i++) {
		EXPECT_FALSE(tells && frame_has(frames[i], KPF_KSM)) {
			TH_LOG("page %zu of the pipe is KSM's", i);
		}
		EXPECT_NE(frames[i], page_frame(w->b, w->mem + i * page_size)) {
			TH_LOG("B maps page %zu of the pipe", i);
		}
	}
}

PVM_HARNESS_MAIN
