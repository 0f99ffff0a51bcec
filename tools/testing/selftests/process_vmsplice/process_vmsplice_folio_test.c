// SPDX-License-Identifier: GPL-2.0
/*
 * process_vmsplice() and large folios: what is contiguous in one takes one slot
 * of the pipe, in a buffer longer than a page. The slots are as few as they can
 * be, the bytes are right, the folio stays what it was whatever happens to the
 * target's mappings of it; and in the end nothing holds it.
 */
#define _GNU_SOURCE
#include "pvm_folio.h"

#define MEDIUM_SIZE 65536

/* A row of a few huge pages. */
FIXTURE(row) {
	struct row w;
};

FIXTURE_VARIANT(row) {
	bool by_ptes;
};

FIXTURE_VARIANT_ADD(row, by_pmd) { .by_ptes = false };
FIXTURE_VARIANT_ADD(row, by_ptes) { .by_ptes = true };

FIXTURE_SETUP(row)
{
	START_ROW(return, &self->w, NR_HUGE, variant->by_ptes);
}

FIXTURE_TEARDOWN(row) {}

/* Assert that each range takes as few buffers as can be. */
TEST_F_TIMEOUT(row, few_buffers, TIMEOUT)
{
	struct row *w = &self->w;
	size_t lens[MAX_BUFS];

	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		const struct range *r = &ranges[i];
		unsigned int nr = expected_bufs(w, r, lens);
		size_t len = total_len(w, r);

		ASSERT_EQ((ssize_t)len, insert(w, r, 0)) {
			TH_LOG("%s", r->name);
		}
		EXPECT_BUFS(nr, lens);
		EXPECT_EQ(len, wrong_in_range(w, r, w->buf, len, OLD_BYTES));
	}
}

#define INSERT(from, len, flags)					\
	pvm(w->pid, w->wr, &(struct iovec){ w->mem + (from), len }, 1, flags)

/* Assert that the call ends at the hole of a huge page. */
TEST_F_TIMEOUT(row, hole, TIMEOUT)
{
	struct row *w = &self->w;
	size_t from = w->huge + 3 * page_size + 77;
	size_t hole = 2 * w->huge + 9 * page_size, len = hole - from;

	ASSERT_TRUE(tell(w, UNMAP, hole, hole + page_size));
	ASSERT_EQ((ssize_t)len, INSERT(from, len + 5 * page_size, 0));
	ASSERT_EQ((int)len, in_pipe(w->rd));
	ASSERT_EQ((ssize_t)len, read_all(w->rd, w->buf, len));
	EXPECT_EQ(len, differs(w->buf, from, len, OLD_BYTES));
	EXPECT_EQ(-EFAULT, INSERT(hole, 2 * page_size, 0));
}

/* Assert that pages that are not neighbours in the folio are not merged. */
TEST_F_TIMEOUT(row, exchanged_pages, TIMEOUT)
{
	struct row *w = &self->w;
	size_t from = 2 * w->huge, p = page_size;
	const size_t lens[] = { 4 * p, p, p, 6 * p };
	const size_t was[] = { 0, 5 * p, 4 * p, 6 * p };

	ASSERT_TRUE(tell(w, EXCHANGE_ENDS, from + 4 * p, from + 6 * p));
	ASSERT_EQ((ssize_t)(12 * p), INSERT(from, 12 * p, 0));
	EXPECT_BUFS(ARRAY_SIZE(lens), lens);
	for (size_t i = 0, done = 0; i < ARRAY_SIZE(lens); done += lens[i++])
		EXPECT_EQ(lens[i], differs(w->buf + done, from + was[i], lens[i], OLD_BYTES));
}

/* Assert that what lies between two parts of a folio needs a slot. */
TEST_F_TIMEOUT(row, no_room_in_between, TIMEOUT)
{
	/* In between is another page of the folio; or a hole, to be copied. */
	static const enum op changes[] = { EXCHANGE_ENDS, DISCARD };
	struct row *w = &self->w;
	const size_t len = 4 * page_size;

	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		size_t from = (i + 1) * w->huge;

		ASSERT_TRUE(tell(w, changes[i], from + len, from + 6 * page_size));
		ASSERT_TRUE(renew_pipe(w, 1));
		ASSERT_EQ((ssize_t)len, INSERT(from, 12 * page_size, 0));
		EXPECT_BUFS(1, &len);
		EXPECT_EQ(len, differs(w->buf, from, len, OLD_BYTES));
	}
}

/* Can all ends of the range's parts be moved? Or, if !wanted, none of them? */
static bool move(const struct row *w, const struct range *r, bool wanted)
{
	for (unsigned int i = 0; i < r->nr; i++) {
		size_t ends[] = {
			at(w, r->spans[i].from), at(w, r->spans[i].to) - 1,
		};

		for (int j = 0; j < 2; j++)
			if (moves(w->pid, w->mem + ends[j] - ends[j] % page_size,
				  wanted ? 20 : 1) != wanted)
				return false;
	}
	return true;
}

/*
 * The kernel may have split a folio to move it. To discard it is not enough:
 * before Linux 6.14, a page table that is left keeps huge pages away.
 */
static bool make_anew(const struct row *w, bool by_ptes)
{
	return tell(w, MAP_ANEW, 0, w->size) && fill_memory(w) && are_huge(w) &&
	       (!by_ptes || split_mappings(w));
}

/* Assert that the pipe holds the pages that are in it, and no others. */
TEST_F_TIMEOUT(row, references, 4 * TIMEOUT)
{
	struct row *w = &self->w;
	size_t lens[MAX_BUFS];

	if (!has_two_nodes())
		SKIP(return, "not two NUMA nodes to move pages between");
	for (size_t i = 0; i < 2 * ARRAY_SIZE(ranges); i++) {
		const struct range *r = &ranges[i / 2];
		bool space = i % 2;

		expected_bufs(w, r, lens);
		ASSERT_TRUE(renew_pipe(w, space ? SLOTS : 1));
		ASSERT_EQ((ssize_t)(space ? total_len(w, r) : lens[0]), insert(w, r, 0));
		EXPECT_TRUE(space ? move(w, r, false) : insert(w, r, 0) == -EAGAIN) {
			TH_LOG("can be moved, or a slot is free: %s", r->name);
		}
		ASSERT_TRUE(renew_pipe(w, SLOTS));
		EXPECT_TRUE(move(w, r, true)) {
			TH_LOG("still held: %s", r->name);
		}
		ASSERT_OR_SKIP(make_anew(w, variant->by_ptes), return,
			       "no more huge pages now");
	}
}

/* As many huge pages as the pipe has slots, and one. */
FIXTURE(slots) {
	struct row w;
};

FIXTURE_VARIANT(slots) {
	bool by_ptes;
};

FIXTURE_VARIANT_ADD(slots, by_pmd) { .by_ptes = false };
FIXTURE_VARIANT_ADD(slots, by_ptes) { .by_ptes = true };

FIXTURE_SETUP(slots)
{
	START_ROW(return, &self->w, SLOTS + 1, variant->by_ptes);
}

FIXTURE_TEARDOWN(slots) {}

/* Insert all huge pages, but skip so many bytes of them first. */
#define INSERT_FROM(skip, flags)					\
	INSERT(w->huge + (skip), w->nr_huge * w->huge - (skip), flags)

/* The pipe has nr buffers, each of one huge page: the first, of its end. */
#define EXPECT_HUGE_BUFS(nr, skip) do {					\
	size_t _from = w->huge + (skip), _len = w->huge - (skip) % w->huge; \
									\
	for (unsigned int _i = 0; _i < (nr); _i++) {			\
		ASSERT_EQ((ssize_t)_len, next_buf(w, w->buf));		\
		EXPECT_EQ(_len, differs(w->buf, _from, _len, OLD_BYTES)); \
		_from += _len;						\
		_len = w->huge;						\
	}								\
	EXPECT_EQ(0, in_pipe(w->rd));					\
} while (0)

/* Assert that each huge page takes one slot. */
TEST_F_TIMEOUT(slots, one_for_each_huge_page, TIMEOUT)
{
	struct row *w = &self->w;
	size_t skips[] = { 0, 5 * page_size + 7 };

	for (size_t i = 0; i < ARRAY_SIZE(skips); i++) {
		ASSERT_EQ((ssize_t)(SLOTS * w->huge - skips[i]), INSERT_FROM(skips[i], 0));
		EXPECT_HUGE_BUFS(SLOTS, skips[i]);
	}
}

/* Assert that a single slot takes a huge page, or the rest of one. */
TEST_F_TIMEOUT(slots, a_pipe_of_one, TIMEOUT)
{
	struct row *w = &self->w;

	ASSERT_TRUE(renew_pipe(w, 1));
	ASSERT_EQ((ssize_t)w->huge, INSERT_FROM(0, 0));
	EXPECT_EQ(-EAGAIN, INSERT_FROM(w->huge, SPLICE_F_NONBLOCK));
	EXPECT_HUGE_BUFS(1, 0);
	/* From the last byte on, the rest of that page is one. */
	ASSERT_EQ(1, INSERT_FROM(w->huge - 1, 0));
	EXPECT_HUGE_BUFS(1, w->huge - 1);
}

/* Assert that buffers in the pipe keep their slots and are not added to. */
TEST_F_TIMEOUT(slots, a_pipe_in_use, TIMEOUT)
{
	struct row *w = &self->w;

	ASSERT_EQ(100, INSERT(w->huge, 100, 0));
	ASSERT_EQ(1, write(w->wr, "x", 1));
	ASSERT_EQ((ssize_t)((SLOTS - 2) * w->huge - 100), INSERT_FROM(100, 0));
	ASSERT_EQ(100, next_buf(w, w->buf));
	EXPECT_EQ((size_t)100, differs(w->buf, w->huge, 100, OLD_BYTES));
	ASSERT_EQ(1, next_buf(w, w->buf));
	EXPECT_EQ('x', w->buf[0]);
	EXPECT_HUGE_BUFS(SLOTS - 2, 100);
}

/* Assert that 1024 ranges in a row in a huge page take one slot. */
TEST_F_TIMEOUT(slots, one_for_many_segments, TIMEOUT)
{
	struct row *w = &self->w;
	struct iovec iov[1024];
	size_t len = w->huge / ARRAY_SIZE(iov) - 1, from = w->huge + 333;

	for (size_t i = 0; i < ARRAY_SIZE(iov); i++)
		iov[i] = (struct iovec){ w->mem + from + i * len, len };
	len *= ARRAY_SIZE(iov);
	ASSERT_TRUE(renew_pipe(w, 1));
	ASSERT_EQ((ssize_t)len, pvm(w->pid, w->wr, iov, ARRAY_SIZE(iov), 0));
	ASSERT_EQ((ssize_t)len, next_buf(w, w->buf));
	EXPECT_EQ(len, differs(w->buf, from, len, OLD_BYTES));
}

/* Assert that each page that is a gift takes a slot. */
TEST_F_TIMEOUT(slots, gift, TIMEOUT)
{
	struct row *w = &self->w;
	size_t lens[SLOTS], len = SLOTS * page_size;

	for (int i = 0; i < SLOTS; i++)
		lens[i] = page_size;
	ASSERT_EQ((ssize_t)len, INSERT_FROM(0, SPLICE_F_GIFT));
	EXPECT_BUFS(SLOTS, lens);
	EXPECT_EQ(len, differs(w->buf, w->huge, len, OLD_BYTES));
}

/* read(), write(), splice() and tee() move no more than that. */
#define MOST (INT_MAX & ~(page_size - 1))

/* Fill a pipe with one huge page until it holds more than an int counts. */
static bool insert_more_than_an_int(struct row *w, unsigned int nr)
{
	struct iovec iov[1000];
	unsigned int n;

	for (unsigned int i = 0; i < ARRAY_SIZE(iov); i++)
		iov[i] = (struct iovec){ w->mem + w->huge, w->huge };
	for (; nr; nr -= n) {
		/* No call asks for more than a 32-bit caller can. */
		n = nr < ARRAY_SIZE(iov) ? nr : ARRAY_SIZE(iov);
		if (pvm(w->pid, w->wr, iov, n, 0) != (ssize_t)(n * w->huge))
			return false;
	}
	return true;
}

/* Assert that a call inserts at most MOST, whatever the pipe can hold. */
TEST_F_TIMEOUT(slots, no_more_than_an_int, TIMEOUT)
{
	struct row *w = &self->w;
	unsigned int nr = INT_MAX / w->huge + 1;
	struct iovec iov[1024];

	if (sizeof(size_t) == sizeof(int) || nr > ARRAY_SIZE(iov))
		SKIP(return, "a call can't ask for as much");
	if (fcntl(w->wr, F_SETPIPE_SZ, nr * page_size) < 0)
		SKIP(return, "may not have a pipe of %u pages", nr);
	for (unsigned int i = 0; i < nr; i++)
		iov[i] = (struct iovec){ w->mem + w->huge, w->huge };
	EXPECT_EQ((ssize_t)MOST, pvm(w->pid, w->wr, iov, nr, 0));
	EXPECT_EQ((int)MOST, in_pipe(w->rd));
}

/* Assert that splice() and tee() of more move MOST, and do not fail. */
TEST_F_TIMEOUT(slots, more_than_an_int, TIMEOUT)
{
	/* A 32-bit caller's larger length is negative to some kernels. */
	const size_t all = sizeof(size_t) > sizeof(int) ?
			   (size_t)INT_MAX + 1 : INT_MAX;
	struct row *w = &self->w;
	unsigned int nr = INT_MAX / w->huge + 16;
	int rd, wr, null = open("/dev/null", O_WRONLY);

	if (fcntl(w->wr, F_SETPIPE_SZ, nr * page_size) < 0)
		SKIP(return, "may not have a pipe of %u pages", nr);
	ASSERT_TRUE(open_pipe(&rd, &wr, nr));
	ASSERT_TRUE(insert_more_than_an_int(w, nr));
	EXPECT_EQ(INT_MAX, in_pipe(w->rd));
	EXPECT_EQ((ssize_t)MOST, tee(w->rd, wr, all, 0));
	EXPECT_EQ((int)MOST, in_pipe(rd));
	EXPECT_EQ((ssize_t)MOST, splice(w->rd, NULL, null, NULL, all, 0));
	ASSERT_TRUE(insert_more_than_an_int(w, nr - 16));
	EXPECT_EQ(INT_MAX, in_pipe(w->rd));
	close(rd);
	close(wr);
	ASSERT_TRUE(open_pipe(&rd, &wr, nr));
	EXPECT_EQ((ssize_t)MOST, splice(w->rd, NULL, wr, NULL, all, 0));
	EXPECT_EQ((int)MOST, in_pipe(rd));
}

static bool set_folio_size(size_t size, const char *value)
{
	char path[96];

	snprintf(path, sizeof(path), THP_DIR "hugepages-%zukB/enabled", size >> 10);
	if (value)
		return change_setting(path, value);
	undo_change(undo_setting, path);
	return true;
}

/* Folios of MEDIUM_SIZE, and none larger, which the kernel would take first. */
static bool fill_medium(const struct row *w, size_t from, size_t to)
{
	bool ok = set_folio_size(MEDIUM_SIZE, "madvise");

	for (size_t size = 2 * MEDIUM_SIZE; size < w->huge; size *= 2)
		ok = ok && set_folio_size(size, "never");
	ok = ok && tell(w, HUGE_PAGES, from, to) &&
	     tell(w, WRITE_OLD, from, to);
	for (size_t size = MEDIUM_SIZE; size < w->huge; size *= 2)
		set_folio_size(size, NULL);
	return ok && tell(w, SMALL_PAGES, from, to);
}

static bool is_contiguous(const struct row *w, size_t pos, size_t len)
{
	uint64_t first = page_frame(w->pid, w->mem + pos);

	for (size_t i = 1; i < len / page_size; i++)
		if (page_frame(w->pid, w->mem + pos + i * page_size) != first + i)
			return false;
	return first && first % (len / page_size) == 0;
}

/* Assert that a folio that only PTEs map takes one slot. */
TEST_F_TIMEOUT(row, folios_of_64k, TIMEOUT)
{
	struct row *w = &self->w;
	/* Not a whole huge page, where there could be one. */
	size_t to = w->huge / 2, lens[SLOTS], len = 0;
	unsigned int nr = 0;

	if (geteuid())
		SKIP(return, "needs root, to have such folios and to see them");
	if (access(THP_DIR "hugepages-64kB/enabled", F_OK) || MEDIUM_SIZE <= page_size)
		SKIP(return, "no folios of 64 KiB");
	ASSERT_TRUE(tell(w, MAP_ANEW, 0, w->huge));
	ASSERT_OR_SKIP(fill_medium(w, MEDIUM_SIZE, to), return,
		       "may not turn on folios of 64 KiB");
	for (size_t pos = MEDIUM_SIZE; pos < to && nr < SLOTS; pos += MEDIUM_SIZE) {
		ASSERT_OR_SKIP(is_contiguous(w, pos, MEDIUM_SIZE), return,
			       "no folios of 64 KiB now");
		lens[nr] = nr ? MEDIUM_SIZE : MEDIUM_SIZE - 99;
		len += lens[nr++];
	}
	ASSERT_EQ((ssize_t)len, INSERT(MEDIUM_SIZE + 99, len, 0));
	EXPECT_BUFS(nr, lens);
	EXPECT_EQ(len, differs(w->buf, MEDIUM_SIZE + 99, len, OLD_BYTES));
}

/*
 * Pages of one folio, of which some ('#') are exclusive to the target. fork()
 * has left the others shared: the call copies each into a buffer of its own.
 */
FIXTURE(runs) {
	struct row w;
};

FIXTURE_VARIANT(runs) {
	const char *pages;
	bool by_ptes;
	bool by_writing;	/* makes them exclusive, after fork() */
};

#define SOME_PAGES "...#######..##.#.....####"
#define OTHER_PAGES "####.####.#..##########.."
#define NO_PAGES "........................."
#define NR_PAGES_OF_RUNS (sizeof(SOME_PAGES) - 1)

FIXTURE_VARIANT_ADD(runs, kept_from_child) { SOME_PAGES, false, false };
FIXTURE_VARIANT_ADD(runs, others_kept_from_child) { OTHER_PAGES, false, false };
FIXTURE_VARIANT_ADD(runs, written) { SOME_PAGES, true, true };
FIXTURE_VARIANT_ADD(runs, others_written) { OTHER_PAGES, true, true };
FIXTURE_VARIANT_ADD(runs, all_left_by_pmd) { NO_PAGES, false, false };
FIXTURE_VARIANT_ADD(runs, all_left_by_ptes) { NO_PAGES, true, false };

FIXTURE_SETUP(runs)
{
	if (variant->by_writing && geteuid())
		SKIP(return, "needs root, to see which pages a write copies");
	START_ROW(return, &self->w, 1, variant->by_ptes);
	ASSERT_TRUE(renew_pipe(&self->w, MAX_BUFS));
}

FIXTURE_TEARDOWN(runs) {}

/* A command for each of the pages that are exclusive. */
static bool tell_pages(const struct row *w, const char *pages, enum op op)
{
	for (size_t i = 0; pages[i]; i++) {
		size_t pos = w->huge + i * page_size;

		if (pages[i] == '#' && !tell(w, op, pos, pos + page_size))
			return false;
	}
	return true;
}

static bool make_exclusive(const struct row *w, const char *pages,
			   bool by_writing)
{
	if (by_writing)
		return tell(w, FORK_ONCE, 0, 0) &&
		       tell_pages(w, pages, WRITE_OLD);
	return tell_pages(w, pages, KEEP_FROM_FORK) &&
	       tell(w, FORK_ONCE, 0, 0) && tell_pages(w, pages, GIVE_TO_FORK);
}

static void find_frames(const struct row *w, uint64_t *frames)
{
	for (size_t i = 0; i < NR_PAGES_OF_RUNS; i++)
		frames[i] = page_frame(w->pid, w->mem + w->huge + i * page_size);
}

/*
 * The lengths of the buffers. Some kernels copy a page of a large folio on a
 * write: then it is exclusive, but has another frame, and no neighbour.
 */
static unsigned int expected_runs(const char *pages, const uint64_t *was,
				  const uint64_t *is, size_t *lens)
{
	bool before = false;
	unsigned int nr = 0;

	for (size_t i = 0; pages[i]; i++) {
		bool in_folio = pages[i] == '#' && was[i] == is[i];

		if (!in_folio || !before)
			lens[nr++] = 0;
		lens[nr - 1] += page_size;
		before = in_folio;
	}
	return nr;
}

/* Assert that exclusive neighbours take one slot, and others are copied. */
TEST_F_TIMEOUT(runs, are_merged, TIMEOUT)
{
	size_t len = NR_PAGES_OF_RUNS * page_size, lens[MAX_BUFS], skip = 100;
	uint64_t was[NR_PAGES_OF_RUNS], is[NR_PAGES_OF_RUNS];
	struct row *w = &self->w;
	unsigned int nr;

	find_frames(w, was);
	ASSERT_TRUE(make_exclusive(w, variant->pages, variant->by_writing));
	find_frames(w, is);
	nr = expected_runs(variant->pages, was, is, lens);
	lens[0] -= skip;
	ASSERT_EQ((ssize_t)(len - skip), INSERT(w->huge + skip, len - skip, 0));
	ASSERT_TRUE(tell(w, WRITE_NEW, w->huge, w->huge + len));
	EXPECT_BUFS(nr, lens);
	for (size_t i = 0; variant->pages[i]; i++, skip = 0) {
		size_t from = i * page_size + skip, n = page_size - skip;
		bool shared = variant->pages[i] == '#';

		EXPECT_EQ(n, differs(w->buf + from - 100, w->huge + from, n,
				     shared ? NEW_BYTES : OLD_BYTES)) {
			TH_LOG("page %zu", i);
		}
	}
}

/* What happens to the target while parts of two huge pages are in the pipe. */
struct step {
	enum op op;
	struct span span;
};

#define BOTH { { 1, 0, 0 }, { 3, 0, 0 } }
#define MIDDLE { { 1, 10, 0 }, { 2, 11, 0 } }
#define START { { 1, 0, 0 }, { 1, 10, 0 } }
#define ONE { { 1, 20, 0 }, { 1, 21, 0 } }

static const struct {
	const char *what;
	unsigned char seed;	/* of what the reader gets */
	unsigned int nr;
	struct step steps[3];
} events[] = {
	{ "writes", NEW_BYTES, 1, { { WRITE_NEW, BOTH } } },
	{ "unmaps", OLD_BYTES, 1, { { UNMAP, BOTH } } },
	{ "unmaps the middle", OLD_BYTES, 1, { { UNMAP, MIDDLE } } },
	{ "discards the middle", OLD_BYTES, 1, { { DISCARD, MIDDLE } } },
	{ "discards and writes", OLD_BYTES, 2, { { DISCARD, BOTH }, { WRITE_NEW, BOTH } } },
	{ "protects a page", OLD_BYTES, 1, { { READ_ONLY, ONE } } },
	/* The huge page stays the one that is in the pipe. */
	{ "protects a page and writes", NEW_BYTES, 3,
	  { { READ_ONLY, ONE }, { READ_WRITE, ONE }, { WRITE_NEW, BOTH } } },
	{ "forks and writes", OLD_BYTES, 2, { { FORK_ONCE, BOTH }, { WRITE_NEW, BOTH } } },
	{ "exchanges pages", OLD_BYTES, 1, { { EXCHANGE_ENDS, MIDDLE } } },
	{ "pages out", OLD_BYTES, 1, { { PAGE_OUT, BOTH } } },
	{ "unmaps the middle and pages out", OLD_BYTES, 2,
	  { { UNMAP, MIDDLE }, { PAGE_OUT, START } } },
};

/* Now the pipe would have these bytes if its memory had been freed. */
static void reuse_freed_memory(const struct row *w, int advice)
{
	size_t len = 4 * w->huge;
	void *p = map_anon(len);

	madvise(p, len, advice);
	memset(p, 0xaa, len);
	munmap(p, len);
}

/* Assert that the bytes in the pipe stay right whatever the target does. */
TEST_F_TIMEOUT(row, bytes_stay, 4 * TIMEOUT)
{
	static const struct range r = {
		"parts of two huge pages", 1, { { { 1, 3, 77 }, { 3, -3, -9 } } },
	};
	struct row *w = &self->w;
	size_t lens[MAX_BUFS], len = total_len(w, &r);
	unsigned int nr = expected_bufs(w, &r, lens);

	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		ASSERT_EQ((ssize_t)len, insert(w, &r, 0));
		for (unsigned int j = 0; j < events[i].nr; j++) {
			const struct step *step = &events[i].steps[j];

			ASSERT_TRUE(tell(w, step->op, at(w, step->span.from),
					 at(w, step->span.to))) {
				TH_LOG("%s: step %u", events[i].what, j);
			}
		}
		reuse_freed_memory(w, MADV_HUGEPAGE);
		reuse_freed_memory(w, MADV_NOHUGEPAGE);
		EXPECT_BUFS(nr, lens);
		EXPECT_EQ(len, wrong_in_range(w, &r, w->buf, len, events[i].seed)) {
			TH_LOG("%s", events[i].what);
		}
		ASSERT_OR_SKIP(make_anew(w, variant->by_ptes), return,
			       "no more huge pages now");
	}
}

PVM_HARNESS_MAIN
