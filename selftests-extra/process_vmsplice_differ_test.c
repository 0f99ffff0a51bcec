// SPDX-License-Identifier: GPL-2.0
/*
 * A differential test: on random address spaces and random ranges,
 * process_vmsplice() takes the bytes that process_vm_readv() reads, and stops
 * where that stops, or where the pipe is full. It changes nothing in the
 * target.
 *
 * process_vm_readv() can be compared with: what it reads of a range ends
 * exactly at the first page that can't be read. That is so although it takes
 * many pages at once, as it copies those before such a page and fails only when
 * it starts at one. All else that the result depends on is in a small model,
 * predict().
 *
 * PVM_CASES in the environment is the number of cases, PVM_SEED the number that
 * the first address space is made from. A failure prints the seed of its own
 * address space: with that as PVM_SEED, and CASES_PER_SPACE cases, the failure
 * is repeated.
 */
#define _GNU_SOURCE
#include "pvm_random.h"

#define DEFAULT_CASES 20000
#define CASES_PER_SPACE 100

/* In pages: where the small mappings are, and what can't be read on both sides. */
#define SMALL_PAGES 64
#define GUARD_PAGES 4
#define MAX_SMALL_MAPS 36
#define MAX_MAPS (MAX_SMALL_MAPS + 2)
/* Larger huge pages would make it slow. */
#define MAX_HUGE (4UL << 20)

#define MAX_SEGS 1024
#define NR_PIPES 6
#define FILLER 0xa5
/* Far more than CASES_PER_SPACE cases take: a call that hangs is interrupted. */
#define HANG_SECONDS 120
/* Each test ends by itself. */
#define NO_TIMEOUT (24 * 60 * 60)

static uint64_t rng;

static uint64_t rnd64(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

/* Some number below n. */
static size_t rnd(size_t n)
{
	return (rnd64() >> 16) % n;
}

static bool one_in(size_t n)
{
	return !rnd(n);
}

/* A generator that starts at 0 would stay there. */
static void set_seed(uint64_t seed)
{
	rng = seed ? seed : 1;
	for (int i = 0; i < 8; i++)
		rnd64();
}

/* How memory comes to be. */

enum source { SRC_ANON, SRC_SHARED_ANON, SRC_MEMFD, SRC_FILE, SRC_THP, SRC_HUGETLB };

enum content { ZEROES, OF_FILE, FIRST, SECOND };

struct kind {
	const char *name;
	enum source source;
	/* Only half of the file exists. */
	bool short_file;
	/* What is done to it, in this order. */
	bool read, fill, grandchild_writes, fill_after_fork;
};

static const struct kind kinds[] = {
	{ .name = "untouched", .source = SRC_ANON },
	{ .name = "zero page", .source = SRC_ANON, .read = true },
	{ .name = "anon", .source = SRC_ANON, .fill_after_fork = true },
	{ .name = "anon before fork", .source = SRC_ANON, .fill = true },
	{ .name = "cow left by child", .source = SRC_ANON, .fill = true,
	  .grandchild_writes = true },
	{ .name = "cow broken", .source = SRC_ANON, .fill = true,
	  .fill_after_fork = true },
	{ .name = "shared anon", .source = SRC_SHARED_ANON, .fill = true },
	{ .name = "shared anon untouched", .source = SRC_SHARED_ANON },
	{ .name = "memfd", .source = SRC_MEMFD, .fill = true },
	{ .name = "memfd untouched", .source = SRC_MEMFD },
	{ .name = "short memfd", .source = SRC_MEMFD, .short_file = true },
	{ .name = "file clean", .source = SRC_FILE, .read = true },
	{ .name = "file untouched", .source = SRC_FILE },
	{ .name = "file dirty", .source = SRC_FILE, .fill = true },
	{ .name = "file dirty, cow left by child", .source = SRC_FILE, .fill = true,
	  .grandchild_writes = true },
};

static const struct kind thp_kinds[] = {
	{ .name = "thp untouched", .source = SRC_THP },
	{ .name = "thp zero page", .source = SRC_THP, .read = true },
	{ .name = "thp", .source = SRC_THP, .fill_after_fork = true },
	{ .name = "thp before fork", .source = SRC_THP, .fill = true },
	{ .name = "thp, cow left by child", .source = SRC_THP, .fill = true,
	  .grandchild_writes = true },
};

static const struct kind hugetlb_kinds[] = {
	{ .name = "hugetlb untouched", .source = SRC_HUGETLB },
	{ .name = "hugetlb", .source = SRC_HUGETLB, .fill_after_fork = true },
	{ .name = "hugetlb before fork", .source = SRC_HUGETLB, .fill = true },
};

struct map {
	const struct kind *kind;
	unsigned char *addr;
	size_t pages;
	int prot;
	/* In pages. */
	size_t file_offset;
	/* If not 0, this page is made PROT_NONE, which splits a huge page. */
	size_t hole;
};

struct space {
	uint64_t seed;
	pid_t pid;
	bool fork;
	int nr_maps;
	struct map maps[MAX_MAPS];
	/* Those that can be read, at least in part. */
	int nr_good, good[MAX_MAPS];
};

struct pipe {
	int rd, wr, slots;
};

struct test_case {
	struct iovec iov[MAX_SEGS];
	unsigned long nr_segs;
	unsigned int flags;
	const struct pipe *pipe;
	/* Slots of the pipe that are taken beforehand. */
	int used;
	/* Bytes of those that are read beforehand, fewer than a page. */
	size_t eaten;
	bool nonblock_fd, read_first;
	bool huge;
};

/* What came out of a case: the readable prefix, the prediction, and the result. */
struct outcome {
	ssize_t prefix, predicted, ret;
	ssize_t in_pipe;
	const char *wrong;
	size_t at;
};

FIXTURE(differ) {
	/* All of it: guard, small mappings, guard, THP, hugetlb, guard. */
	unsigned char *start, *end;
	unsigned char *small, *thp, *hugetlb;
	size_t thp_size, hugetlb_size;
	int file;
	struct pipe pipes[NR_PIPES];
	unsigned char *from_pipe, *from_readv;
	size_t buf_size;
	struct space space;
	struct test_case tc;
	/* How often a result was of some kind: all of them shall occur. */
	size_t whole, short_by_hole, short_by_slots, nr_efault, nr_eagain;
	size_t nr_einval, nr_zero, with_thp, with_hugetlb;
};

#define SELF FIXTURE_DATA(differ)

/* The word at i of the page at addr, as the target fills it. */
static uint64_t word(uint64_t seed, const void *page, enum content content, size_t i)
{
	uint64_t w = seed + (uintptr_t)page / page_size * 7919 + content;

	return (w * 0x9e3779b97f4a7c15ULL) ^ ((i + 1) * 0xd1342543de82ef95ULL);
}

static void fill_page(uint64_t seed, unsigned char *page, enum content content)
{
	uint64_t *words = (uint64_t *)page;

	for (size_t i = 0; i < page_size / sizeof(*words); i++)
		words[i] = word(seed, page, content, i);
}

static void fill_map(const struct space *space, const struct map *map,
		     enum content content)
{
	for (size_t i = 0; i < map->pages; i++)
		fill_page(space->seed, map->addr + i * page_size, content);
}

static void read_map(const struct map *map)
{
	volatile unsigned char sink;

	for (size_t i = 0; i < map->pages; i++)
		sink = map->addr[i * page_size];
	(void)sink;
}

/* The target. */

static int new_memfd(size_t pages)
{
	int fd = memfd_create("differ", 0);

	if (fd < 0 || ftruncate(fd, pages * page_size))
		_exit(1);
	return fd;
}

static void *try_map(const struct map *map, int file)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS, fd = -1;
	off_t offset = 0;

	switch (map->kind->source) {
	case SRC_SHARED_ANON:
		flags = MAP_SHARED | MAP_ANONYMOUS;
		break;
	case SRC_MEMFD:
		flags = MAP_SHARED;
		fd = new_memfd(map->kind->short_file ? map->pages / 2 : map->pages);
		break;
	case SRC_FILE:
		flags = MAP_PRIVATE;
		fd = file;
		offset = map->file_offset * page_size;
		break;
	case SRC_HUGETLB:
		flags |= MAP_HUGETLB;
		break;
	default:
		break;
	}
	return mmap(map->addr, map->pages * page_size, PROT_READ | PROT_WRITE,
		    flags | MAP_FIXED, fd, offset);
}

/*
 * Too few huge pages is no error, and neither is an address where memory can't
 * be shared: where the mapping would be is a hole then.
 */
static bool may_fail(enum source source, int error)
{
	if (source == SRC_SHARED_ANON || source == SRC_MEMFD)
		return may_not_be_shared_there(error);
	return source == SRC_HUGETLB;
}

static bool make_map(const struct map *map, int file)
{
	size_t len = map->pages * page_size;
	enum source source = map->kind->source;

	if (try_map(map, file) == MAP_FAILED) {
		if (!may_fail(source, errno))
			_exit(1);
		return false;
	}
	if (source == SRC_THP)
		madvise(map->addr, len, MADV_HUGEPAGE);
	else if (source != SRC_HUGETLB)
		madvise(map->addr, len, MADV_NOHUGEPAGE);
	return true;
}

/* It has all memory copy-on-write, has written to some, and lives as the target does. */
static void start_grandchild(const struct space *space)
{
	pid_t parent = getpid();
	int p[2];
	char c;

	if (pipe(p))
		_exit(1);
	switch (fork()) {
	case -1:
		_exit(1);
	case 0:
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(0);
		for (int i = 0; i < space->nr_maps; i++)
			if (space->maps[i].kind->grandchild_writes)
				memset(space->maps[i].addr, 0xee,
				       space->maps[i].pages * page_size);
		if (write(p[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	if (read(p[0], &c, 1) != 1)
		_exit(1);
	close(p[0]);
	close(p[1]);
}

static void protect_map(const struct map *map)
{
	if (mprotect(map->addr, map->pages * page_size, map->prot))
		_exit(1);
	if (map->hole &&
	    mprotect(map->addr + map->hole * page_size, page_size, PROT_NONE))
		_exit(1);
}

/* Returns whether it has hugetlb memory. */
static bool make_space(SELF *self)
{
	struct space *space = &self->space;
	bool mapped[MAX_MAPS], hugetlb = false;

	/* The guards stay, as a mapping that can't be read; all else is a hole. */
	munmap(self->small, SMALL_PAGES * page_size);
	munmap(self->thp, self->end - GUARD_PAGES * page_size - self->thp);
	for (int i = 0; i < space->nr_maps; i++) {
		const struct map *map = &space->maps[i];

		mapped[i] = make_map(map, self->file);
		if (mapped[i] && map->kind->read)
			read_map(map);
		if (mapped[i] && map->kind->fill)
			fill_map(space, map, FIRST);
		hugetlb |= mapped[i] && map->kind->source == SRC_HUGETLB;
	}
	if (space->fork)
		start_grandchild(space);
	for (int i = 0; i < space->nr_maps; i++) {
		if (mapped[i] && space->maps[i].kind->fill_after_fork)
			fill_map(space, &space->maps[i], SECOND);
		if (mapped[i])
			protect_map(&space->maps[i]);
	}
	return hugetlb;
}

static void space_main(SELF *self, pid_t parent, int ready)
{
	bool hugetlb;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	hugetlb = make_space(self);
	if (write(ready, &hugetlb, sizeof(hugetlb)) != sizeof(hugetlb))
		_exit(1);
	for (;;)
		pause();
}

/* Random address spaces. */

static int random_prot(void)
{
	static const int prots[] = {
		PROT_READ, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
		PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_NONE, PROT_WRITE,
	};

	return prots[rnd(ARRAY_SIZE(prots))];
}

static struct map *add_map(struct space *space, const struct kind *kind,
			   unsigned char *addr, size_t pages)
{
	struct map *map = &space->maps[space->nr_maps];

	*map = (struct map){
		.kind = kind, .addr = addr, .pages = pages, .prot = random_prot(),
	};
	if (map->prot & PROT_READ)
		space->good[space->nr_good++] = space->nr_maps;
	space->nr_maps++;
	return map;
}

static void plan_small_maps(SELF *self)
{
	struct space *space = &self->space;
	size_t at = 0;

	while (at < SMALL_PAGES && space->nr_maps < MAX_SMALL_MAPS) {
		size_t pages = 1 + rnd(one_in(3) ? 16 : 4);
		struct map *map;

		if (pages > SMALL_PAGES - at)
			pages = SMALL_PAGES - at;
		if (!one_in(8)) {
			map = add_map(space, &kinds[rnd(ARRAY_SIZE(kinds))],
				      self->small + at * page_size, pages);
			map->file_offset = rnd(SMALL_PAGES - pages + 1);
		}
		at += pages;
	}
}

static void plan_huge_maps(SELF *self)
{
	struct space *space = &self->space;
	struct map *map;

	if (self->thp_size && one_in(4)) {
		map = add_map(space, &thp_kinds[rnd(ARRAY_SIZE(thp_kinds))],
			      self->thp, self->thp_size / page_size);
		map->hole = one_in(3) ? rnd(map->pages) : 0;
	}
	if (self->hugetlb_size && one_in(6))
		add_map(space, &hugetlb_kinds[rnd(ARRAY_SIZE(hugetlb_kinds))],
			self->hugetlb, self->hugetlb_size / page_size);
}

static void plan_space(SELF *self, uint64_t seed)
{
	set_seed(seed);
	memset(&self->space, 0, sizeof(self->space));
	self->space.seed = seed;
	self->space.fork = one_in(3);
	plan_small_maps(self);
	plan_huge_maps(self);
	/* One at least can be read. */
	if (!self->space.nr_good) {
		self->space.maps[0].prot = PROT_READ;
		self->space.good[self->space.nr_good++] = 0;
	}
}

static bool start_space(SELF *self)
{
	struct space *space = &self->space;
	pid_t parent = getpid();
	bool ok, hugetlb;
	int p[2];

	if (pipe(p))
		return false;
	space->pid = fork();
	if (!space->pid)
		space_main(self, parent, p[1]);
	close(p[1]);
	ok = read(p[0], &hugetlb, sizeof(hugetlb)) == sizeof(hugetlb);
	close(p[0]);
	if (!ok)
		return false;
	self->with_hugetlb += hugetlb;
	for (int i = 0; i < space->nr_maps; i++) {
		if (space->maps[i].kind->source == SRC_THP &&
		    huge_bytes(space->pid, space->maps[i].addr, page_size))
			self->with_thp++;
	}
	return true;
}

/* The grandchild becomes a child of the test, which is a subreaper. */
static void end_space(SELF *self)
{
	kill(self->space.pid, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0)
		;
}

static uint64_t expected_word(SELF *self, const struct map *map, size_t page, size_t i)
{
	void *addr = map->addr + page * page_size;
	const struct kind *kind = map->kind;

	if (kind->fill_after_fork)
		return word(self->space.seed, addr, SECOND, i);
	if (kind->fill)
		return word(self->space.seed, addr, FIRST, i);
	if (kind->source == SRC_FILE)
		return word(0, (void *)((map->file_offset + page) * page_size),
			    OF_FILE, i);
	return 0;
}

/* The first word in the map that is not what the target put there, or -1. */
static long changed_word(SELF *self, const struct map *map)
{
	uint64_t *words = (uint64_t *)self->from_readv;
	size_t per_page = page_size / sizeof(*words);
	ssize_t len = readv_from(self->space.pid, map->addr, words,
				map->pages * page_size);

	for (ssize_t i = 0; i < len / (ssize_t)sizeof(*words); i++)
		if (words[i] != expected_word(self, map, i / per_page, i % per_page))
			return i;
	return -1;
}

/* After all that was done, the target's memory is what it made of it. */
static bool space_unchanged(SELF *self)
{
	struct space *space = &self->space;

	for (int i = 0; i < space->nr_maps; i++) {
		struct map *map = &space->maps[i];
		long at = changed_word(self, map);

		if (at < 0)
			continue;
		ksft_print_msg("PVM_SEED=%llu: mapping %d (%s) changed at word %ld\n",
			       (unsigned long long)space->seed, i, map->kind->name, at);
		return false;
	}
	return true;
}

/* Random cases. */

static size_t random_len(size_t max)
{
	switch (rnd(8)) {
	case 0:
		return 0;
	case 1:
	case 2:
		return rnd(max < 64 ? max + 1 : 65);
	case 3:
	case 4:
		return rnd((max < page_size ? max : page_size) + 1);
	case 5:
		return rnd(max + 1);
	default:
		return rnd((max < 4 * page_size ? max : 4 * page_size) + 1);
	}
}

/* Something inside a mapping that can be read. */
static struct iovec tame_segment(SELF *self)
{
	struct space *space = &self->space;
	struct map *map = &space->maps[space->good[rnd(space->nr_good)]];
	size_t size = map->pages * page_size, at = rnd(size);

	if (one_in(2))
		at -= at % page_size;
	return (struct iovec){ map->addr + at, random_len(size - at) };
}

/* Anything that starts in the window, also where nothing is, and may leave it. */
static struct iovec window_segment(SELF *self)
{
	size_t size = self->end - self->start;
	size_t at = one_in(4) ? rnd(size) : rnd((SMALL_PAGES + 2 * GUARD_PAGES) *
					     page_size);

	if (one_in(2))
		at -= at % page_size;
	return (struct iovec){
		self->start + at, one_in(16) ? rnd64() >> 33 : random_len(8 * page_size)
	};
}

static struct iovec far_segment(void)
{
	void *bases[] = {
		NULL, (void *)1, (void *)page_size, BAD_PTR, (void *)-page_size,
		(void *)-1UL, (void *)(1UL << (8 * sizeof(long) - 1)),
		(void *)(-1UL << (8 * sizeof(long) - 17)),
	};
	size_t lens[] = { 0, 1, page_size, 4 * page_size, INT_MAX / 2, SSIZE_MAX };

	return (struct iovec){
		bases[rnd(ARRAY_SIZE(bases))], lens[rnd(ARRAY_SIZE(lens))]
	};
}

static struct iovec random_segment(SELF *self, size_t wild)
{
	if (!wild || !one_in(wild))
		return tame_segment(self);
	return one_in(4) ? far_segment() : window_segment(self);
}

static bool in_window(SELF *self, const struct iovec *iov)
{
	unsigned char *base = iov->iov_base;

	return base >= self->start && base < self->end;
}

/* How many bytes of it can be read, at most. */
static size_t readable_at_most(SELF *self, const struct iovec *iov)
{
	size_t max;

	if (!in_window(self, iov))
		return 0;
	max = self->end - (unsigned char *)iov->iov_base;
	return iov->iov_len < max ? iov->iov_len : max;
}

static bool touches_huge(SELF *self, const struct iovec *iov)
{
	return in_window(self, iov) && (unsigned char *)iov->iov_base >= self->thp;
}

static void align_segment(struct iovec *iov)
{
	uintptr_t base = (uintptr_t)iov->iov_base;

	iov->iov_base = (void *)(base & -page_size);
	iov->iov_len &= -page_size;
}

static void random_segments(SELF *self, bool aligned)
{
	static const size_t wilds[] = { 0, 0, 64, 16, 4, 2 };
	struct test_case *tc = &self->tc;
	size_t wild = wilds[rnd(ARRAY_SIZE(wilds))], readable = 0;
	size_t want = one_in(400) ? MAX_SEGS : rnd(one_in(6) ? 41 : 7);

	tc->nr_segs = 0;
	tc->huge = false;
	while (tc->nr_segs < want) {
		struct iovec *iov = &tc->iov[tc->nr_segs];

		*iov = random_segment(self, wild);
		/* Many small ones, or each such case would take long. */
		if (want == MAX_SEGS)
			iov->iov_len %= 128;
		if (aligned)
			align_segment(iov);
		readable += readable_at_most(self, iov);
		if (readable > self->buf_size)
			break;
		tc->huge |= touches_huge(self, iov);
		tc->nr_segs++;
	}
}

static void random_pipe(SELF *self)
{
	struct test_case *tc = &self->tc;

	/* The large ones less often: it takes time to fill them. */
	tc->pipe = &self->pipes[rnd(one_in(12) ? NR_PIPES : NR_PIPES - 2)];
	tc->used = one_in(3) ? rnd(tc->pipe->slots + 1) : 0;
	tc->eaten = tc->used && one_in(2) ? rnd(page_size) : 0;
}

static void random_case(SELF *self)
{
	struct test_case *tc = &self->tc;

	tc->flags = 0;
	if (one_in(4))
		tc->flags |= SPLICE_F_MOVE;
	if (one_in(4))
		tc->flags |= SPLICE_F_MORE;
	if (one_in(4))
		tc->flags |= SPLICE_F_NONBLOCK;
	if (one_in(8))
		tc->flags |= SPLICE_F_GIFT;
	random_segments(self, tc->flags & SPLICE_F_GIFT && !one_in(8));
	random_pipe(self);
	tc->read_first = one_in(2);
	tc->nonblock_fd = false;
	/* It would wait for a free slot, and nobody reads. */
	if (tc->used == tc->pipe->slots && !(tc->flags & SPLICE_F_NONBLOCK)) {
		tc->nonblock_fd = one_in(2);
		if (!tc->nonblock_fd)
			tc->flags |= SPLICE_F_NONBLOCK;
	}
}

/* The model. */

/* The sum of the lengths, or -EINVAL. */
static ssize_t total_length(const struct test_case *tc)
{
	size_t total = 0;

	for (unsigned long i = 0; i < tc->nr_segs; i++) {
		if (tc->iov[i].iov_len > SSIZE_MAX - total)
			return -EINVAL;
		total += tc->iov[i].iov_len;
	}
	return total;
}

static bool is_aligned(const struct test_case *tc)
{
	uintptr_t bits = 0;

	for (unsigned long i = 0; i < tc->nr_segs; i++)
		bits |= (uintptr_t)tc->iov[i].iov_base | tc->iov[i].iov_len;
	return !(bits % page_size);
}

/*
 * How many of the first limit bytes fit into so many slots, if each part of a
 * page takes one. More may fit in only where a kernel inserts neighbouring
 * pages of a huge page into one slot.
 */
static size_t fit_in_slots(const struct test_case *tc, size_t limit, int slots)
{
	size_t inserted = 0;

	for (unsigned long i = 0; i < tc->nr_segs; i++) {
		uintptr_t addr = (uintptr_t)tc->iov[i].iov_base;
		size_t left = tc->iov[i].iov_len;

		while (left) {
			size_t part = page_size - addr % page_size;

			if (part > left)
				part = left;
			if (part > limit - inserted)
				part = limit - inserted;
			if (!part || !slots--)
				return inserted;
			inserted += part;
			addr += part;
			left -= part;
		}
	}
	return inserted;
}

/* Does the call reach the point where it looks at the memory? */
static bool looks_at_memory(const struct test_case *tc)
{
	return tc->used < tc->pipe->slots && total_length(tc) > 0 &&
	       (!(tc->flags & SPLICE_F_GIFT) || is_aligned(tc));
}

/* What the call returns, in the order of the checks of its contract. */
static ssize_t predict(const struct test_case *tc, ssize_t prefix)
{
	ssize_t total = total_length(tc);

	if (total < 0)
		return total;
	if (tc->flags & SPLICE_F_GIFT && !is_aligned(tc))
		return -EINVAL;
	if (!total)
		return 0;
	if (tc->used == tc->pipe->slots)
		return -EAGAIN;
	if (prefix <= 0)
		return -EFAULT;
	return fit_in_slots(tc, prefix, tc->pipe->slots - tc->used);
}

static bool as_predicted(const struct test_case *tc, const struct outcome *out)
{
	if (out->ret == out->predicted)
		return true;
	return tc->huge && out->predicted > 0 && out->ret > out->predicted &&
	       out->ret <= out->prefix;
}

/* Running a case. */

/* What process_vm_readv() can read, as far as it matters. */
static ssize_t readable_prefix(SELF *self)
{
	struct test_case *tc = &self->tc;
	size_t len = self->buf_size, space;
	struct iovec local;
	ssize_t ret;

	/* One byte more tells a full pipe from the end of what can be read. */
	space = (tc->pipe->slots - tc->used) * page_size;
	if (!tc->huge && space + 1 < len)
		len = space + 1;
	local = (struct iovec){ self->from_readv, len };
	ret = process_vm_readv(self->space.pid, &local, 1, tc->iov, tc->nr_segs, 0);
	return ret < 0 ? -errno : ret;
}

static bool fill_slots(SELF *self)
{
	const struct test_case *tc = &self->tc;
	ssize_t len = tc->used * page_size;

	if (!len)
		return true;
	memset(self->from_pipe, FILLER, len);
	return write(tc->pipe->wr, self->from_pipe, len) == len &&
	       read(tc->pipe->rd, self->from_pipe, tc->eaten) == (ssize_t)tc->eaten;
}

static ssize_t call(SELF *self)
{
	const struct test_case *tc = &self->tc;
	ssize_t ret;

	if (tc->nonblock_fd)
		fcntl(tc->pipe->wr, F_SETFL, O_NONBLOCK);
	ret = pvm(self->space.pid, tc->pipe->wr, tc->iov, tc->nr_segs, tc->flags);
	if (tc->nonblock_fd)
		fcntl(tc->pipe->wr, F_SETFL, 0);
	return ret;
}

/* The pipe holds what was in it before, then the bytes of process_vm_readv(). */
static const char *check_pipe(SELF *self, struct outcome *out)
{
	const struct test_case *tc = &self->tc;
	ssize_t before = tc->used * page_size - tc->eaten;
	ssize_t inserted = out->ret > 0 ? out->ret : 0;
	unsigned char *data = self->from_pipe + before;

	out->in_pipe = in_pipe(tc->pipe->rd);
	if (out->in_pipe != before + inserted)
		return "the pipe does not hold what the result says";
	if (read_all(tc->pipe->rd, self->from_pipe, out->in_pipe) != out->in_pipe)
		return "the pipe can't be read to its end";
	for (out->at = 0; (ssize_t)out->at < before; out->at++)
		if (self->from_pipe[out->at] != FILLER)
			return "what was in the pipe before has changed";
	if (!memcmp(data, self->from_readv, inserted))
		return NULL;
	for (out->at = 0; data[out->at] == self->from_readv[out->at]; out->at++)
		;
	return "the bytes differ";
}

static void run_case(SELF *self, struct outcome *out)
{
	struct test_case *tc = &self->tc;
	bool looks = looks_at_memory(tc);

	memset(out, 0, sizeof(*out));
	if (!fill_slots(self)) {
		out->wrong = "the pipe can't be filled";
		return;
	}
	/* The one that is first does the faults. */
	if (tc->read_first && looks)
		out->prefix = readable_prefix(self);
	out->ret = call(self);
	if (!tc->read_first && looks)
		out->prefix = readable_prefix(self);

	out->predicted = predict(tc, out->prefix);
	if (!as_predicted(tc, out))
		out->wrong = "the result is not as predicted";
	else
		out->wrong = check_pipe(self, out);
}

static void count_outcome(SELF *self, const struct outcome *out)
{
	ssize_t total = total_length(&self->tc);

	if (out->ret == -EFAULT)
		self->nr_efault++;
	else if (out->ret == -EAGAIN)
		self->nr_eagain++;
	else if (out->ret == -EINVAL)
		self->nr_einval++;
	else if (!out->ret)
		self->nr_zero++;
	else if (out->ret == total)
		self->whole++;
	else if (out->ret == out->prefix)
		self->short_by_hole++;
	else
		self->short_by_slots++;
}

static void print_space(const struct space *space)
{
	ksft_print_msg("the target%s:\n", space->fork ? ", which has forked" : "");
	for (int i = 0; i < space->nr_maps; i++) {
		const struct map *map = &space->maps[i];

		ksft_print_msg("  %p %zu pages, prot %d, %s, from page %zu, hole %zu\n",
			       map->addr, map->pages, map->prot, map->kind->name,
			       map->file_offset, map->hole);
	}
}

static void print_case(SELF *self, size_t nr, const struct outcome *out)
{
	struct test_case *tc = &self->tc;

	ksft_print_msg("%s\n", out->wrong);
	ksft_print_msg("repeat with PVM_SEED=%llu PVM_CASES=%d, case %zu\n",
		       (unsigned long long)self->space.seed, CASES_PER_SPACE, nr);
	print_space(&self->space);
	ksft_print_msg("pipe: %d slots, %d taken, %zu bytes of them read, O_NONBLOCK %d\n",
		       tc->pipe->slots, tc->used, tc->eaten, tc->nonblock_fd);
	ksft_print_msg("flags %#x, process_vm_readv() %s, %lu segments:\n",
		       tc->flags, tc->read_first ? "first" : "last", tc->nr_segs);
	for (unsigned long i = 0; i < tc->nr_segs; i++)
		ksft_print_msg("  { %p, %zu }\n", tc->iov[i].iov_base,
			       tc->iov[i].iov_len);
	ksft_print_msg("total %zd, readable %zd, predicted %zd, result %zd\n",
		       total_length(tc), out->prefix, out->predicted, out->ret);
	ksft_print_msg("in the pipe %zd, first wrong byte at %zu\n", out->in_pipe,
		       out->at);
}

/* For long runs. */
static void print_progress(size_t done, size_t cases)
{
	if (done && done % DEFAULT_CASES == 0)
		ksft_print_msg("%zu of %zu cases\n", done, cases);
}

/* All cases of one address space. */
static bool run_space(SELF *self, size_t cases)
{
	struct outcome out;

	for (size_t i = 0; i < cases; i++) {
		random_case(self);
		run_case(self, &out);
		if (out.wrong) {
			print_case(self, i, &out);
			return false;
		}
		count_outcome(self, &out);
	}
	return space_unchanged(self);
}

/* Setting up. */

static void make_file(SELF *self)
{
	unsigned char *p;

	self->file = new_memfd(SMALL_PAGES);
	p = mmap(NULL, SMALL_PAGES * page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		 self->file, 0);
	for (size_t page = 0; page < SMALL_PAGES; page++) {
		uint64_t *words = (uint64_t *)(p + page * page_size);

		for (size_t i = 0; i < page_size / sizeof(*words); i++)
			words[i] = word(0, (void *)(page * page_size), OF_FILE, i);
	}
	munmap(p, SMALL_PAGES * page_size);
}

/* 0 if the kernel has none. */
static size_t usable_hugetlb_size(SELF *self)
{
	size_t size = hugetlb_size();
	void *mem;

	if (!size || size > MAX_HUGE)
		return 0;
	reserve_huge_pages(2);
	mem = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB,
		   -1, 0);
	if (mem == MAP_FAILED)
		return 0;
	munmap(mem, size);
	return size;
}

static void *round_up_to(void *p, size_t size)
{
	if (!size)
		return p;
	return (void *)(((uintptr_t)p + size - 1) & -size);
}

/* Reserve the window, with the huge pages at addresses that suit them. */
static bool make_window(SELF *self)
{
	size_t guard = GUARD_PAGES * page_size, small = SMALL_PAGES * page_size;
	size_t huge = self->thp_size + self->hugetlb_size + page_size;
	unsigned char *mem = mmap(NULL, 3 * guard + small + 2 * huge, PROT_NONE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return false;
	self->thp = round_up_to(mem + 2 * guard + small, self->thp_size);
	self->small = self->thp - guard - small;
	self->start = self->small - guard;
	self->hugetlb = round_up_to(self->thp + self->thp_size, self->hugetlb_size);
	self->end = self->hugetlb + self->hugetlb_size + guard;
	return true;
}

static bool make_pipes(SELF *self)
{
	static const int slots[NR_PIPES] = { 1, 2, 4, 16, 64, 256 };

	for (int i = 0; i < NR_PIPES; i++) {
		int p[2];

		if (pipe2(p, O_CLOEXEC) ||
		    fcntl(p[1], F_SETPIPE_SZ, slots[i] * page_size) < 0)
			return false;
		self->pipes[i] = (struct pipe){ p[0], p[1], pipe_slots(p[1]) };
	}
	return true;
}

/* The targets do not inherit it: that would take more time than all else. */
static void *new_buffer(size_t size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);

	if (mem == MAP_FAILED || madvise(mem, size, MADV_DONTFORK))
		return NULL;
	return mem;
}

/* Without SA_RESTART: a call that hangs fails then, and is printed. */
static void guard_against_hanging(void)
{
	handle_signal(SIGALRM, ignore_signal, 0);
}

FIXTURE_SETUP(differ)
{
	ASSERT_EQ(0, prctl(PR_SET_CHILD_SUBREAPER, 1));
	guard_against_hanging();
	self->thp_size = thp_size() <= MAX_HUGE ? thp_size() : 0;
	self->hugetlb_size = usable_hugetlb_size(self);
	ASSERT_TRUE(make_window(self));
	ASSERT_TRUE(make_pipes(self));
	make_file(self);

	/* The largest pipe full of filler, and as many readable bytes. */
	self->buf_size = 4 << 20;
	if (self->buf_size < 256 * page_size)
		self->buf_size = 256 * page_size;
	self->from_pipe = new_buffer(256 * page_size + self->buf_size);
	self->from_readv = new_buffer(self->buf_size);
	ASSERT_FALSE(!self->from_pipe || !self->from_readv);
}

FIXTURE_TEARDOWN(differ) {}

/* Assert that the call takes the bytes that process_vm_readv() reads. */
TEST_F_TIMEOUT(differ, as_process_vm_readv, NO_TIMEOUT)
{
	size_t cases = number_from_env("PVM_CASES", DEFAULT_CASES);
	uint64_t seed = number_from_env("PVM_SEED", any_seed());

	ksft_print_msg("PVM_SEED=%llu PVM_CASES=%zu\n", (unsigned long long)seed,
		       cases);
	for (size_t done = 0; done < cases; done += CASES_PER_SPACE) {
		size_t n = CASES_PER_SPACE;

		if (n > cases - done)
			n = cases - done;
		print_progress(done, cases);
		alarm(HANG_SECONDS);
		plan_space(self, seed);
		ASSERT_TRUE(start_space(self));
		ASSERT_TRUE(run_space(self, n)) {
			TH_LOG("after %zu address spaces", done / CASES_PER_SPACE);
		}
		end_space(self);
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	}
	alarm(0);

	ksft_print_msg("whole %zu, short by a hole %zu, by slots %zu\n", self->whole,
		       self->short_by_hole, self->short_by_slots);
	ksft_print_msg("EFAULT %zu, EAGAIN %zu, EINVAL %zu, 0 %zu\n", self->nr_efault,
		       self->nr_eagain, self->nr_einval, self->nr_zero);
	ksft_print_msg("address spaces with a huge page %zu, with hugetlb %zu\n",
		       self->with_thp, self->with_hugetlb);
	/* Few cases need not show everything. */
	if (cases < 1000)
		return;
	EXPECT_LT(cases / 20, self->whole);
	EXPECT_LT(cases / 100, self->short_by_hole);
	EXPECT_LT(cases / 100, self->short_by_slots);
	EXPECT_LT(cases / 100, self->nr_efault);
	EXPECT_LT(cases / 100, self->nr_eagain);
	EXPECT_LT(cases / 1000, self->nr_einval);
	EXPECT_LT(cases / 100, self->nr_zero);
}

PVM_HARNESS_MAIN
