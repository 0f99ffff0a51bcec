/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For tests of large folios: a target whose memory is a row of huge pages
 * between two areas of base pages, and ranges of it, with what they take of a
 * pipe.
 */
#ifndef PVM_FOLIO_H
#define PVM_FOLIO_H

#include "pvm_test.h"

/* A buffer takes no more, so that larger pages need several. */
#define MAX_HUGE (2UL << 20)
/* What the ranges below need of a huge page, and of each area of base pages. */
#define MIN_HUGE_PAGES 64
#define BASE_PAGES 16
#define NR_HUGE 3
#define SLOTS 16
#define MAX_BUFS 64
#define SECTOR 512

/* The memory starts with an area of base pages, as large as one huge page. */
struct row {
	unsigned char *mem, *buf;
	size_t huge, size;
	unsigned int nr_huge;
	pid_t pid;
	int ctl[MAX_SERVERS], rd, wr;
	int one_rd, one_wr;	/* a pipe of one slot */
};

/* A position: so many huge pages, pages and bytes from the memory's start. */
struct spot {
	int huge, pages, bytes;
};

static inline size_t at(const struct row *w, struct spot spot)
{
	return spot.huge * w->huge + spot.pages * (ssize_t)page_size +
	       spot.bytes;
}

struct span {
	struct spot from, to;
};

/* What one call asks for. */
#define MAX_SPANS 4

struct range {
	const char *name;
	unsigned int nr;
	struct span spans[MAX_SPANS];
};

/* The first huge page starts at 1, and the last one ends at 4. */
static const struct range ranges[] = {
	{ "a whole huge page", 1, { { { 1, 0, 0 }, { 2, 0, 0 } } } },
	{ "several huge pages", 1, { { { 1, 0, 0 }, { 4, 0, 0 } } } },
	{ "pages inside a huge page", 1, { { { 1, 5, 0 }, { 1, 12, 0 } } } },
	{ "odd bytes inside a huge page", 1, { { { 1, 3, 5 }, { 1, 9, 1234 } } } },
	{ "bytes of one page", 1, { { { 2, 20, 77 }, { 2, 21, -1 } } } },
	{ "two bytes of two pages", 1, { { { 2, 20, -1 }, { 2, 20, 1 } } } },
	{ "from a tail page on", 1, { { { 1, 7, 0 }, { 2, 0, 0 } } } },
	{ "from within a tail page on", 1, { { { 2, 7, 3001 }, { 3, 0, 0 } } } },
	{ "up to a page's middle", 1, { { { 1, 0, 0 }, { 1, 6, 100 } } } },
	{ "all but the first and last byte", 1, { { { 1, 0, 1 }, { 2, 0, -1 } } } },
	{ "sectors", 1, { { { 2, 7, SECTOR }, { 2, 33, 3 * SECTOR } } } },
	{ "from one huge page to the next", 1, { { { 2, -3, 17 }, { 2, 4, -5 } } } },
	{ "into a huge page", 1, { { { 1, -4, 0 }, { 1, 6, 0 } } } },
	{ "out of a huge page", 1, { { { 4, -4, 0 }, { 4, 4, 0 } } } },
	{ "in and out of huge pages", 1, { { { 1, -3, 9 }, { 4, 3, 11 } } } },
	{ "adjacent at a page", 2, {
		{ { 1, 2, 0 }, { 1, 5, 0 } }, { { 1, 5, 0 }, { 1, 9, 0 } } } },
	{ "adjacent inside a page", 2, {
		{ { 1, 2, 0 }, { 1, 5, 333 } }, { { 1, 5, 333 }, { 1, 9, 0 } } } },
	{ "adjacent in base pages", 2, {
		{ { 1, -5, 0 }, { 1, -3, 100 } }, { { 1, -3, 100 }, { 1, -1, 0 } } } },
	{ "adjacent between two huge pages", 2, {
		{ { 1, 40, 0 }, { 2, 0, 0 } }, { { 2, 0, 0 }, { 2, 3, 50 } } } },
	{ "adjacent bytes", 4, {
		{ { 1, 1, -2 }, { 1, 1, -1 } }, { { 1, 1, -1 }, { 1, 1, 0 } },
		{ { 1, 1, 0 }, { 1, 1, 1 } }, { { 1, 1, 1 }, { 1, 1, 2 } } } },
	{ "all but a page", 2, {
		{ { 1, 2, 0 }, { 1, 5, 0 } }, { { 1, 6, 0 }, { 1, 9, 50 } } } },
	{ "all but a byte", 2, {
		{ { 1, 2, 0 }, { 1, 5, 100 } }, { { 1, 5, 101 }, { 1, 9, 0 } } } },
	{ "the same place in two huge pages", 2, {
		{ { 1, 8, 0 }, { 1, 11, 0 } }, { { 2, 11, 0 }, { 2, 14, 0 } } } },
	{ "overlapping", 2, {
		{ { 1, 2, 0 }, { 1, 5, 100 } }, { { 1, 5, 0 }, { 1, 9, 0 } } } },
	{ "the same page twice", 2, {
		{ { 1, 2, 0 }, { 1, 3, 0 } }, { { 1, 2, 0 }, { 1, 3, 0 } } } },
	{ "backwards", 3, {
		{ { 1, 30, 0 }, { 1, 50, 0 } }, { { 1, 10, 1 }, { 1, 30, 0 } },
		{ { 1, -1, 7 }, { 1, 10, 1 } } } },
};

static inline size_t set_iov(const struct row *w, const struct range *r,
			     struct iovec *iov)
{
	size_t total = 0;

	for (unsigned int i = 0; i < r->nr; i++) {
		size_t from = at(w, r->spans[i].from);

		iov[i].iov_base = w->mem + from;
		iov[i].iov_len = at(w, r->spans[i].to) - from;
		total += iov[i].iov_len;
	}
	return total;
}

static inline size_t total_len(const struct row *w, const struct range *r)
{
	struct iovec iov[MAX_SPANS];

	return set_iov(w, r, iov);
}

static inline ssize_t insert(const struct row *w, const struct range *r,
			     unsigned int flags)
{
	struct iovec iov[MAX_SPANS];

	set_iov(w, r, iov);
	return pvm(w->pid, w->wr, iov, r->nr, flags | SPLICE_F_NONBLOCK);
}

/* The first of so many bytes that is not the range's, or len. */
static inline size_t wrong_in_range(const struct row *w, const struct range *r,
				    const unsigned char *buf, size_t len,
				    unsigned char seed)
{
	struct iovec iov[MAX_SPANS];
	size_t done = 0;

	set_iov(w, r, iov);
	for (unsigned int i = 0; i < r->nr && done < len; i++) {
		size_t from = (unsigned char *)iov[i].iov_base - w->mem;
		size_t left = len - done;
		size_t n = iov[i].iov_len < left ? iov[i].iov_len : left;
		size_t right = differs(buf + done, from, n, seed);

		done += right;
		if (right < n)
			break;
	}
	return done;
}

/* May the bytes at pos be in one buffer with those before end? */
static inline bool merges(const struct row *w, size_t end, size_t pos)
{
	return pos == end && pos % w->huge &&
	       pos > w->huge && pos < (w->nr_huge + 1) * w->huge;
}

/* The lengths of the buffers that the range takes, if it is only shared. */
static inline unsigned int expected_bufs(const struct row *w,
					 const struct range *r, size_t *lens)
{
	struct iovec iov[MAX_SPANS];
	unsigned int nr = 0;
	size_t end = 0;

	set_iov(w, r, iov);
	for (unsigned int i = 0; i < r->nr; i++) {
		size_t pos = (unsigned char *)iov[i].iov_base - w->mem;
		size_t to = pos + iov[i].iov_len;

		for (; pos < to; pos = end) {
			bool more = nr && merges(w, end, pos);

			end = pos - pos % page_size + page_size;
			if (end > to)
				end = to;
			if (!more)
				lens[nr++] = 0;
			lens[nr - 1] += end - pos;
		}
	}
	return nr;
}

/* Give a test an empty pipe, with another number of slots. */
static inline bool renew_pipe(struct row *w, int slots)
{
	close(w->rd);
	close(w->wr);
	return open_pipe(&w->rd, &w->wr, slots);
}

/* The next buffer of the pipe goes to buf; its length, or -1. */
static inline ssize_t next_buf(const struct row *w, unsigned char *buf)
{
	ssize_t n = splice(w->rd, NULL, w->one_wr, NULL, w->size,
			   SPLICE_F_NONBLOCK);

	return n > 0 && read_all(w->one_rd, buf, n) != n ? -1 : n;
}

/* Why there can't be such memory, or NULL. */
static inline const char *why_no_huge_pages(void)
{
	size_t huge = thp_size();

	if (!huge)
		return "no transparent huge pages";
	if (setting_is(THP_DIR "enabled", "never"))
		return "transparent huge pages are turned off";
	if (read_number("/proc/meminfo", "HighTotal"))
		return "the kernel maps high memory a page at a time";
	if (huge > MAX_HUGE || huge < MIN_HUGE_PAGES * page_size)
		return "huge pages have a size that this test is not made for";
	return NULL;
}

static inline bool tell(const struct row *w, enum op cmd, size_t from, size_t to)
{
	return command(w->ctl[0], cmd, from, to);
}

static inline bool are_huge(const struct row *w)
{
	return huge_bytes(w->pid, w->mem, w->size) == w->nr_huge * w->huge;
}

static inline bool fill_memory(const struct row *w)
{
	size_t first = w->huge, end = (w->nr_huge + 1) * w->huge;

	return tell(w, SMALL_PAGES, 0, w->size) &&
	       tell(w, HUGE_PAGES, first, end) &&
	       tell(w, WRITE_OLD, first - BASE_PAGES * page_size,
		    end + BASE_PAGES * page_size) &&
	       /* Huge pages stay, but khugepaged repairs no split ones. */
	       tell(w, SMALL_PAGES, 0, w->size);
}

/* Map all huge pages by PTEs: by a change of a page's protection, and back. */
static inline bool split_mappings(const struct row *w)
{
	for (unsigned int i = 1; i <= w->nr_huge; i++) {
		size_t page = i * w->huge + page_size;

		if (!tell(w, READ_ONLY, page, page + page_size) ||
		    !tell(w, READ_WRITE, page, page + page_size))
			return false;
	}
	return !huge_bytes(w->pid, w->mem, w->size);
}

static inline bool start_row(struct row *w, unsigned int nr_huge)
{
	w->huge = thp_size();
	w->nr_huge = nr_huge;
	w->size = (nr_huge + 2) * w->huge;
	w->mem = map_aligned(w->size, w->huge);
	w->buf = map_anon(w->size);
	w->pid = start_target(w->mem, w->ctl);
	return w->pid > 0 && open_pipe(&w->rd, &w->wr, SLOTS) &&
	       open_pipe(&w->one_rd, &w->one_wr, 1) && fill_memory(w);
}

#define START_ROW(statement, w, nr_huge, by_ptes) do {			\
	if (why_no_huge_pages())					\
		SKIP(statement, "%s", why_no_huge_pages());		\
	ASSERT_TRUE(start_row(w, nr_huge));				\
	ASSERT_OR_SKIP(are_huge(w), statement, "no huge pages now");	\
	if (by_ptes)							\
		ASSERT_TRUE(split_mappings(w));				\
} while (0)

/* The pipe has just so many buffers, of these lengths. w.buf gets the bytes. */
#define EXPECT_BUFS(nr, lens) do {					\
	unsigned char *_to = self->w.buf;				\
									\
	for (unsigned int _i = 0; _i < (nr); _i++) {			\
		ASSERT_EQ((ssize_t)(lens)[_i], next_buf(&self->w, _to)) { \
			TH_LOG("buffer %u of %u", _i, (unsigned int)(nr)); \
		}							\
		_to += (lens)[_i];					\
	}								\
	EXPECT_EQ(0, in_pipe(self->w.rd));				\
} while (0)

#endif
