// SPDX-License-Identifier: GPL-2.0
/*
 * process_vmsplice() and huge pages: what is contiguous in a large folio takes one slot
 * of the pipe, in a buffer longer than a page. All who take buffers out of a pipe get
 * the right bytes of it, at whatever byte it starts, ends or is cut in two; the slots are
 * as few as they can be; the folio stays what it was, whatever happens to the target's
 * mappings of it; and in the end nothing holds it.
 *
 * The target's memory is a row of huge pages between two areas of base pages. No two of
 * its words of 8 bytes are alike, so bytes that are shifted, lost or repeated are seen.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/mount.h>
#include "pvm_swap.h"
#include "pvm_test.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"
#define MEDIUM_ENABLED THP_DIR "hugepages-64kB/enabled"
#define MEDIUM_SIZE 65536
#define DIRECT_DEVICE "/dev/ram1"
#define SECTOR 512

/* A buffer takes no more, so that larger pages need several. */
#define MAX_HUGE (2UL << 20)
/* What the ranges below need of a huge page, and of each area of base pages. */
#define MIN_HUGE_PAGES 64
#define BASE_PAGES 16
#define NR_HUGE 3
#define SLOTS 16
#define MAX_BUFS 64

#define PM_PFN ((1ULL << 55) - 1)

enum { OLD_BYTES, NEW_BYTES };

/* Bytes that no two words share, and that depend on who wrote them. */

static uint64_t word(size_t nr, unsigned char seed)
{
	/* Odd, so that the products differ. */
	return (nr + 1) * 0x9e3779b97f4a7c15ULL ^ seed * 0x0101010101010101ULL;
}

static void fill(unsigned char *mem, size_t from, size_t to, unsigned char seed)
{
	uint64_t *words = (uint64_t *)mem;

	for (size_t i = from / sizeof(*words); i < to / sizeof(*words); i++)
		words[i] = word(i, seed);
}

/* The first of the bytes that is not the one that was at from + its index, or len. */
static size_t wrong_byte(const unsigned char *buf, size_t from, size_t len, unsigned char seed)
{
	uint64_t right[512];
	size_t done = 0, n;

	for (; done < len; done += n) {
		size_t nr = (from + done) / sizeof(*right);
		size_t skip = (from + done) % sizeof(*right);
		const unsigned char *bytes = (unsigned char *)right + skip;

		for (size_t i = 0; i < ARRAY_SIZE(right); i++)
			right[i] = word(nr + i, seed);
		n = sizeof(right) - skip;
		if (n > len - done)
			n = len - done;
		if (!memcmp(buf + done, bytes, n))
			continue;
		while (buf[done] == *bytes++)
			done++;
		return done;
	}
	return len;
}

/*
 * The target. A command is a letter and a range of the memory, as for the one of
 * pvm_test.h, but these are others:
 *   f, w  write the old or the new bytes
 *   h, b  huge pages, base pages
 *   p, o  make it read-only; read and write
 *   u, d  unmap it, discard it
 *   n     map it anew
 *   q     page it out
 *   k, K  keep it from the children of fork(), and no more
 *   c     fork a child, which exits
 *   x     exchange its first and its last page
 *   z     exit
 */

static int fork_once(void)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	return waitpid(child, NULL, 0) == child ? 0 : -1;
}

static bool move_page(void *from, void *to)
{
	return mremap(from, page_size, page_size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to;
}

static int exchange(unsigned char *first, unsigned char *last)
{
	void *spare = mmap(NULL, page_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (spare == MAP_FAILED)
		return -1;
	return move_page(first, spare) && move_page(last, first) && move_page(spare, last) ?
	       0 : -1;
}

static int obey(unsigned char *mem, const struct command *cmd)
{
	unsigned char *start = mem + cmd->from;
	size_t len = cmd->to - cmd->from;

	switch (cmd->what) {
	case 'f':
		fill(mem, cmd->from, cmd->to, OLD_BYTES);
		return 0;
	case 'w':
		fill(mem, cmd->from, cmd->to, NEW_BYTES);
		return 0;
	case 'h':
		return madvise(start, len, MADV_HUGEPAGE);
	case 'b':
		return madvise(start, len, MADV_NOHUGEPAGE);
	case 'p':
		return mprotect(start, len, PROT_READ);
	case 'o':
		return mprotect(start, len, PROT_READ | PROT_WRITE);
	case 'u':
		return munmap(start, len);
	case 'd':
		return madvise(start, len, MADV_DONTNEED);
	case 'n':
		return mmap(start, len, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == start ? 0 : -1;
	case 'q':
		return madvise(start, len, MADV_PAGEOUT);
	case 'k':
		return madvise(start, len, MADV_DONTFORK);
	case 'K':
		return madvise(start, len, MADV_DOFORK);
	case 'c':
		return fork_once();
	case 'x':
		return exchange(start, start + len - page_size);
	default:
		_exit(0);
	}
}

static void obedient_main(unsigned char *mem, int ctl)
{
	struct command cmd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (read(ctl, &cmd, sizeof(cmd)) == sizeof(cmd)) {
		int answer = obey(mem, &cmd);

		if (write(ctl, &answer, sizeof(answer)) != sizeof(answer))
			break;
	}
	_exit(0);
}

/* The memory starts with an area of base pages, as large as one huge page. */
struct world {
	unsigned char *mem, *buf;
	size_t huge, size;
	unsigned int nr_huge;
	pid_t pid;
	int ctl, rd, wr;
	int one_rd, one_wr;	/* a pipe of one slot */
	int in, out;		/* of the consumer */
	/* Linux 6.1's harness takes a SKIP in a fixture's set-up for a failure. */
	const char *missing;
};

/* A place in the memory: so many huge pages, pages and bytes from its start. */
struct spot {
	int huge, pages, bytes;
};

static size_t at(const struct world *w, struct spot spot)
{
	return spot.huge * w->huge + spot.pages * (ssize_t)page_size + spot.bytes;
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

static size_t set_iov(const struct world *w, const struct range *r, struct iovec *iov)
{
	size_t total = 0;

	for (unsigned int i = 0; i < r->nr; i++) {
		size_t from = at(w, r->spans[i].from);

		iov[i] = (struct iovec){ w->mem + from, at(w, r->spans[i].to) - from };
		total += iov[i].iov_len;
	}
	return total;
}

static size_t total_len(const struct world *w, const struct range *r)
{
	struct iovec iov[MAX_SPANS];

	return set_iov(w, r, iov);
}

static ssize_t place(const struct world *w, const struct range *r, unsigned int flags)
{
	struct iovec iov[MAX_SPANS];

	set_iov(w, r, iov);
	return pvm(w->pid, w->wr, iov, r->nr, flags | SPLICE_F_NONBLOCK);
}

/* The first of so many bytes that is not the range's, or len. */
static size_t wrong_in_range(const struct world *w, const struct range *r,
			     const unsigned char *buf, size_t len, unsigned char seed)
{
	struct iovec iov[MAX_SPANS];
	size_t done = 0;

	set_iov(w, r, iov);
	for (unsigned int i = 0; i < r->nr && done < len; i++) {
		size_t from = (unsigned char *)iov[i].iov_base - w->mem;
		size_t n = iov[i].iov_len < len - done ? iov[i].iov_len : len - done;
		size_t right = wrong_byte(buf + done, from, n, seed);

		done += right;
		if (right < n)
			break;
	}
	return done;
}

static bool is_huge(const struct world *w, size_t pos)
{
	return pos >= w->huge && pos < (w->nr_huge + 1) * w->huge;
}

/* May the bytes at pos be in one buffer with those before end? */
static bool merges(const struct world *w, size_t end, size_t pos)
{
	return pos == end && is_huge(w, pos) && (pos - 1) / w->huge == pos / w->huge;
}

/* The lengths of the buffers that the range takes, if it is only shared. */
static unsigned int expected_bufs(const struct world *w, const struct range *r, size_t *lens)
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

/* How much of the target's memory is in huge pages that are mapped as such. */
static size_t huge_bytes(const struct world *w)
{
	unsigned long start, end, kb;
	bool in_range = false;
	char path[64], line[256];
	size_t sum = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", w->pid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			in_range = start >= (unsigned long)w->mem &&
				   end <= (unsigned long)w->mem + w->size;
		else if (in_range && sscanf(line, "AnonHugePages: %lu kB", &kb) == 1)
			sum += (size_t)kb << 10;
	}
	fclose(f);
	return sum;
}

static bool open_pipe(int *rd, int *wr, int slots)
{
	int p[2];

	if (pipe(p))
		return false;
	*rd = p[0];
	*wr = p[1];
	return fcntl(*wr, F_SETPIPE_SZ, slots * page_size) >= 0 && pipe_slots(*wr) == slots;
}

/* The pipe of a test, with another number of slots, and without what was in it. */
static bool renew_pipe(struct world *w, int slots)
{
	close(w->rd);
	close(w->wr);
	return open_pipe(&w->rd, &w->wr, slots);
}

/* The next buffer of the pipe goes to buf; its length, or -1. */
static ssize_t next_buf(const struct world *w, int rd, unsigned char *buf)
{
	ssize_t n = splice(rd, NULL, w->one_wr, NULL, w->size, SPLICE_F_NONBLOCK);

	if (n > 0 && read_all(w->one_rd, buf, n) != n)
		return -1;
	return n;
}

static bool file_says(const char *path, const char *word)
{
	char line[128] = "";
	FILE *f = fopen(path, "r");
	bool says;

	if (!f)
		return false;
	says = fgets(line, sizeof(line), f) && strstr(line, word);
	fclose(f);
	return says;
}

/* Why there can't be such memory, or NULL. */
static const char *why_no_huge_pages(void)
{
	size_t huge = thp_size();

	if (!huge)
		return "no transparent huge pages";
	if (file_says(THP_DIR "enabled", "[never]"))
		return "transparent huge pages are turned off";
	if (read_number("/proc/meminfo", "HighTotal"))
		return "high memory is mapped a page at a time, and a buffer takes a page";
	if (huge > MAX_HUGE || huge < MIN_HUGE_PAGES * page_size)
		return "huge pages have a size that this test is not made for";
	return NULL;
}

/* Untouched in the test, so that only the target has pages there. */
static bool map_memory(struct world *w)
{
	uintptr_t p;

	w->size = (w->nr_huge + 2) * w->huge;
	p = (uintptr_t)mmap(NULL, w->size + w->huge, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == (uintptr_t)MAP_FAILED)
		return false;
	w->mem = (unsigned char *)((p + w->huge - 1) & -w->huge);
	w->buf = mmap(NULL, w->size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return w->buf != MAP_FAILED;
}

static bool start_obedient(struct world *w)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return false;
	w->pid = fork();
	if (!w->pid) {
		close(sv[0]);
		obedient_main(w->mem, sv[1]);
	}
	close(sv[1]);
	w->ctl = sv[0];
	return w->pid > 0;
}

static bool fill_memory(const struct world *w)
{
	size_t first = w->huge, end = (w->nr_huge + 1) * w->huge;

	return command(w->ctl, 'b', 0, w->size) &&
	       command(w->ctl, 'h', first, end) &&
	       command(w->ctl, 'f', first - BASE_PAGES * page_size,
		       end + BASE_PAGES * page_size) &&
	       /* They stay, but a split one is not made whole behind our back. */
	       command(w->ctl, 'b', 0, w->size);
}

/* The pipe is made after the fork: the target must not keep an end open. */
static bool begin(struct world *w, unsigned int nr_huge)
{
	w->missing = why_no_huge_pages();
	if (w->missing)
		return true;
	w->huge = thp_size();
	w->nr_huge = nr_huge;
	if (!map_memory(w) || !start_obedient(w) || !open_pipe(&w->rd, &w->wr, SLOTS) ||
	    !open_pipe(&w->one_rd, &w->one_wr, 1) || !fill_memory(w))
		return false;
	if (huge_bytes(w) == nr_huge * w->huge)
		return true;
	w->missing = "no huge pages are to be had now";
	return !host_is_ours();
}

/* Map all huge pages by PTEs: by a change of a page's protection, and back. */
static bool split_mappings(const struct world *w)
{
	for (unsigned int i = 1; i <= w->nr_huge; i++) {
		size_t page = i * w->huge + page_size;

		if (!command(w->ctl, 'p', page, page + page_size) ||
		    !command(w->ctl, 'o', page, page + page_size))
			return false;
	}
	return !huge_bytes(w);
}

static void end(struct world *w)
{
	if (w->pid <= 0)
		return;
	kill(w->pid, SIGKILL);
	waitpid(w->pid, NULL, 0);
}

/* So long are the parts in which the consumers take what is in the pipe. */
static const size_t parts[] = { 1, 4095, 7, 10007, 300007 };

static size_t part(unsigned int i, size_t left)
{
	size_t len = parts[i % ARRAY_SIZE(parts)];

	return len < left ? len : left;
}

/* From a pipe to where off says, or to the place where the file is. */
static bool splice_all(int rd, int fd, loff_t *off, size_t len)
{
	for (unsigned int i = 0; len; i++) {
		/* In the end, all the rest at once. */
		size_t want = i < ARRAY_SIZE(parts) ? part(i, len) : len;
		ssize_t n = splice(rd, NULL, fd, off, want, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

		if (n <= 0)
			return false;
		len -= n;
	}
	return true;
}

/*
 * The consumers. One function makes what is needed, or says why it can't; the other
 * takes so many bytes out of the pipe, and puts what has arrived into the buffer.
 */

static const char *no_preparation(struct world *w)
{
	return NULL;
}

static bool take_by_read(struct world *w, size_t len)
{
	size_t done = 0;

	for (unsigned int i = 0; done < len; i++) {
		ssize_t n = read(w->rd, w->buf + done, part(i, len - done));

		if (n <= 0)
			return false;
		done += n;
	}
	return true;
}

static bool take_to_user(struct world *w, size_t len)
{
	size_t done = 0;

	for (unsigned int i = 0; done < len; i++) {
		size_t first = part(i, len - done), rest = len - done - first;
		struct iovec iov[] = {
			{ w->buf + done, first }, { w->buf + done + first, rest / 3 },
		};
		ssize_t n = vmsplice(w->rd, iov, ARRAY_SIZE(iov), SPLICE_F_NONBLOCK);

		if (n <= 0)
			return false;
		done += n;
	}
	return true;
}

static const char *open_tmpfs(struct world *w)
{
	w->in = memfd_create("file", 0);
	return w->in < 0 ? "no memfd_create()" : NULL;
}

static bool take_to_file(struct world *w, size_t len)
{
	loff_t start = 12345, off = start;

	return splice_all(w->rd, w->in, &off, len) && off == start + (loff_t)len &&
	       pread(w->in, w->buf, len, start) == (ssize_t)len;
}

/* A thread, as a socket does not hold a whole range. */
struct reader {
	pthread_t thread;
	int fd;
	unsigned char *buf;
	size_t len;
	ssize_t got;
};

static void *reader_main(void *arg)
{
	struct reader *r = arg;

	r->got = read_all(r->fd, r->buf, r->len);
	return NULL;
}

static bool take_to_socket(struct world *w, size_t len)
{
	struct reader r = { .fd = w->out, .buf = w->buf, .len = len };
	bool ok;

	if (pthread_create(&r.thread, NULL, reader_main, &r))
		return false;
	ok = splice_all(w->rd, w->in, NULL, len);
	/* Then the reader must not wait for the rest. */
	if (!ok)
		shutdown(w->in, SHUT_RDWR);
	pthread_join(r.thread, NULL);
	return ok && r.got == (ssize_t)len;
}

static const char *open_unix(struct world *w)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv))
		return "no Unix sockets";
	w->in = sv[0];
	w->out = sv[1];
	return NULL;
}

/* In a network namespace of the test's own, if there can be one. */
static void set_loopback_up(void)
{
	struct ifreq req = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd;

	if (unshare(CLONE_NEWNET))
		return;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	ioctl(fd, SIOCSIFFLAGS, &req);
	close(fd);
}

static const char *open_tcp(struct world *w)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct sockaddr *name = (struct sockaddr *)&addr;
	socklen_t len = sizeof(addr);
	int server;

	set_loopback_up();
	server = socket(AF_INET, SOCK_STREAM, 0);
	w->in = socket(AF_INET, SOCK_STREAM, 0);
	if (server < 0 || w->in < 0)
		return "no IPv4";
	if (bind(server, name, len) || listen(server, 1) || getsockname(server, name, &len) ||
	    connect(w->in, name, len))
		return "no loopback interface";
	w->out = accept(server, NULL, NULL);
	close(server);
	return w->out < 0 ? "no connection to itself" : NULL;
}

static const char *open_null(struct world *w)
{
	w->in = open("/dev/null", O_WRONLY);
	return w->in < 0 ? "no /dev/null" : NULL;
}

static bool take_to_null(struct world *w, size_t len)
{
	return splice_all(w->rd, w->in, NULL, len);
}

static const char *open_second_pipe(struct world *w)
{
	return open_pipe(&w->out, &w->in, 32) ? NULL : "no further pipe";
}

/* The copy is cut off within a page; both must be right up to there. */
static bool take_by_tee(struct world *w, size_t len)
{
	size_t most = len - len / 3;
	unsigned char *copy = malloc(most);
	bool ok;

	ok = tee(w->rd, w->in, most, SPLICE_F_NONBLOCK) == (ssize_t)most &&
	     in_pipe(w->out) == (int)most && in_pipe(w->rd) == (int)len &&
	     read_all(w->rd, w->buf, len) == (ssize_t)len &&
	     read_all(w->out, copy, most) == (ssize_t)most && !memcmp(copy, w->buf, most);
	free(copy);
	return ok;
}

/* Cut anywhere, into parts of which one pipe has some, and the other the rest. */
static bool take_by_two_pipes(struct world *w, size_t len)
{
	const size_t cuts[] = { 1, 5001, len / 2 + 3, 130 };
	size_t moved = 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(cuts) && moved + cuts[i] < len; i++) {
		ssize_t n = splice(w->rd, NULL, w->in, NULL, cuts[i], SPLICE_F_NONBLOCK);

		if (n != (ssize_t)cuts[i])
			return false;
		moved += n;
	}
	return in_pipe(w->rd) == (int)(len - moved) && in_pipe(w->out) == (int)moved &&
	       read_all(w->rd, w->buf + moved, len - moved) == (ssize_t)(len - moved) &&
	       read_all(w->out, w->buf, moved) == (ssize_t)moved;
}

/* So much is written at a time: it ends within a page, but not within a sector. */
#define WINDOW ((1UL << 20) + 3 * SECTOR)
#define DIRECT_SIZE (2UL << 20)

static const char *open_direct(struct world *w)
{
	int sector;

	w->in = borrow_ramdisk(DIRECT_DEVICE, O_DIRECT);
	if (w->in < 0)
		return "no blank " DIRECT_DEVICE ", or not root";
	w->out = -1;
	return ioctl(w->in, BLKSSZGET, &sector) || sector != SECTOR ?
	       "the ramdisk has sectors of another size" : NULL;
}

static bool take_to_disk(struct world *w, size_t len)
{
	size_t done = 0;

	while (done < len) {
		size_t want = len - done < WINDOW ? len - done : WINDOW;
		loff_t off = SECTOR;
		ssize_t n = splice(w->rd, NULL, w->in, &off, want, SPLICE_F_NONBLOCK);

		if (n <= 0 || pread(w->in, w->buf + done, n, SECTOR) != n)
			return false;
		done += n;
	}
	return true;
}

static void close_direct(struct world *w)
{
	if (w->in > 0)
		close(w->in);
	release_ramdisk(DIRECT_DEVICE);
}

/*
 * A thread of the test is a FUSE server, in the raw protocol. The only file is the root
 * of the mount: the bytes of the pipe, read from the first to the last. All that is
 * there goes through yet another pipe behind the header of each reply, so that the
 * device cuts off its part, which ends anywhere in a buffer.
 */
static struct fuse_server {
	pthread_t thread;
	char path[64];		/* of the mount */
	int dev;
	uint32_t open_flags;
	int rd;			/* of the pipe with what is left */
	int pipes[2][2];
	unsigned int next;	/* of these */
	size_t size, served;
} fuse;

static void reply(uint64_t unique, int error, const void *data, size_t len)
{
	struct fuse_out_header header = {
		.len = sizeof(header) + len, .error = error, .unique = unique,
	};
	struct iovec iov[] = {
		{ &header, sizeof(header) }, { (void *)data, len },
	};

	/* There may be nobody any more who waits for it. */
	if (writev(fuse.dev, iov, ARRAY_SIZE(iov)) < 0 && errno != ENOENT)
		perror("FUSE");
}

static void reply_to_init(const struct fuse_in_header *in)
{
	const struct fuse_init_in *init = (const void *)(in + 1);
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = init->max_readahead,
		.max_write = page_size,
		.flags = FUSE_MAX_PAGES,
		.max_pages = 256,
	};

	reply(in->unique, 0, &out, sizeof(out));
}

static void reply_to_getattr(const struct fuse_in_header *in)
{
	struct fuse_attr_out out = {
		.attr = {
			.ino = 1, .size = fuse.size, .nlink = 1,
			.mode = S_IFREG | 0444, .blksize = page_size,
		},
	};

	reply(in->unique, 0, &out, sizeof(out));
}

static bool splice_reply(const struct fuse_out_header *header, size_t left)
{
	const int *p = fuse.pipes[fuse.next];

	if (write(p[1], header, sizeof(*header)) != sizeof(*header))
		return false;
	if (left && splice(fuse.rd, NULL, p[1], NULL, left, SPLICE_F_NONBLOCK) != (ssize_t)left)
		return false;
	fuse.rd = p[0];
	fuse.next = !fuse.next;
	return splice(p[0], NULL, fuse.dev, NULL, header->len, SPLICE_F_MOVE) ==
	       (ssize_t)header->len;
}

static void reply_to_read(const struct fuse_in_header *in)
{
	const struct fuse_read_in *arg = (const void *)(in + 1);
	size_t left = fuse.size - fuse.served;
	size_t len = arg->size < left ? arg->size : left;
	struct fuse_out_header header = {
		.len = sizeof(header) + len, .unique = in->unique,
	};

	if (arg->offset != fuse.served) {
		reply(in->unique, -EIO, NULL, 0);
		return;
	}
	/* Before the reply, as the test may go on with it. */
	fuse.served += len;
	if (!splice_reply(&header, left))
		reply(in->unique, -EIO, NULL, 0);
}

static void handle(const struct fuse_in_header *in)
{
	struct fuse_open_out opened = { .open_flags = fuse.open_flags };

	switch (in->opcode) {
	case FUSE_INIT:
		reply_to_init(in);
		break;
	case FUSE_GETATTR:
		reply_to_getattr(in);
		break;
	case FUSE_OPEN:
		reply(in->unique, 0, &opened, sizeof(opened));
		break;
	case FUSE_READ:
		reply_to_read(in);
		break;
	case FUSE_RELEASE:
		reply(in->unique, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		reply(in->unique, -ENOSYS, NULL, 0);
	}
}

/* Until the file system is unmounted. */
static void *server_main(void *arg)
{
	size_t size = FUSE_MIN_READ_BUFFER + page_size;
	struct fuse_in_header *in = malloc(size);

	while (read(fuse.dev, in, size) > 0)
		handle(in);
	free(in);
	return NULL;
}

/* In a mount namespace of the test's own, which ends with it. */
static bool mount_fuse(void)
{
	char options[96];
	int fd;

	scratch_path(fuse.path, sizeof(fuse.path), "fuse.XXXXXX");
	snprintf(options, sizeof(options), "fd=%d,rootmode=100444,user_id=0,group_id=0",
		 fuse.dev);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return false;
	fd = mkstemp(fuse.path);
	if (fd < 0)
		return false;
	close(fd);
	note_fuse(fuse.path);
	return !mount("process_vmsplice", fuse.path, "fuse", MS_NODEV | MS_NOSUID, options);
}

static const char *open_fuse(struct world *w)
{
	if (geteuid())
		return "needs root, to mount";
	fuse.dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse.dev < 0)
		return "no /dev/fuse";
	for (int i = 0; i < 2; i++)
		if (!open_pipe(&fuse.pipes[i][0], &fuse.pipes[i][1], 32))
			return "no further pipes";
	if (!mount_fuse())
		return "no FUSE file system can be mounted";
	return pthread_create(&fuse.thread, NULL, server_main, NULL) ? "no thread" : NULL;
}

static const char *open_fuse_direct(struct world *w)
{
	fuse.open_flags = FOPEN_DIRECT_IO;
	return open_fuse(w);
}

static bool take_to_fuse(struct world *w, size_t len)
{
	struct stat st;
	bool ok;
	int fd;

	fuse.rd = w->rd;
	fuse.size = len;
	fuse.served = 0;
	fd = open(fuse.path, O_RDONLY);
	if (fd < 0)
		return false;
	/* Asks for the size. */
	ok = !fstat(fd, &st) && (size_t)st.st_size == len &&
	     read_all(fd, w->buf, len) == (ssize_t)len && fuse.served == len;
	close(fd);
	return ok;
}

static void close_fuse(struct world *w)
{
	if (!fuse.thread)
		return;
	umount2(fuse.path, MNT_DETACH);
	pthread_join(fuse.thread, NULL);
	unlink(fuse.path);
}

FIXTURE(bytes)
{
	struct world w;
};

FIXTURE_VARIANT(bytes)
{
	const char *(*open)(struct world *w);
	bool (*take)(struct world *w, size_t len);
	void (*close)(struct world *w);
	size_t align;		/* of what it takes, in memory and in length */
	bool are_lost;
};

FIXTURE_VARIANT_ADD(bytes, to_read) {
	.open = no_preparation, .take = take_by_read,
};

FIXTURE_VARIANT_ADD(bytes, to_vmsplice) {
	.open = no_preparation, .take = take_to_user,
};

FIXTURE_VARIANT_ADD(bytes, to_tmpfs) {
	.open = open_tmpfs, .take = take_to_file,
};

FIXTURE_VARIANT_ADD(bytes, to_o_direct) {
	.open = open_direct, .take = take_to_disk, .close = close_direct, .align = SECTOR,
};

FIXTURE_VARIANT_ADD(bytes, to_unix_socket) {
	.open = open_unix, .take = take_to_socket,
};

FIXTURE_VARIANT_ADD(bytes, to_tcp) {
	.open = open_tcp, .take = take_to_socket,
};

FIXTURE_VARIANT_ADD(bytes, to_fuse) {
	.open = open_fuse, .take = take_to_fuse, .close = close_fuse,
};

FIXTURE_VARIANT_ADD(bytes, to_fuse_direct) {
	.open = open_fuse_direct, .take = take_to_fuse, .close = close_fuse,
};

FIXTURE_VARIANT_ADD(bytes, to_dev_null) {
	.open = open_null, .take = take_to_null, .are_lost = true,
};

FIXTURE_VARIANT_ADD(bytes, to_tee) {
	.open = open_second_pipe, .take = take_by_tee,
};

FIXTURE_VARIANT_ADD(bytes, to_another_pipe) {
	.open = open_second_pipe, .take = take_by_two_pipes,
};

FIXTURE_SETUP(bytes)
{
	ASSERT_TRUE(begin(&self->w, NR_HUGE));
	if (!self->w.missing)
		self->w.missing = variant->open(&self->w);
}

FIXTURE_TEARDOWN(bytes)
{
	if (variant->close)
		variant->close(&self->w);
	end(&self->w);
}

/* Does each of its parts start and end at a multiple? */
static bool is_aligned(const struct world *w, const struct range *r, size_t align)
{
	size_t rest = 0;

	for (unsigned int i = 0; align && i < r->nr; i++)
		rest |= at(w, r->spans[i].from) % align | at(w, r->spans[i].to) % align;
	return !rest;
}

TEST_F_TIMEOUT(bytes, are_right, TIMEOUT)
{
	struct world *w = &self->w;
	unsigned int taken = 0;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		const struct range *r = &ranges[i];
		size_t len = total_len(w, r);

		if (!is_aligned(w, r, variant->align))
			continue;
		memset(w->buf, 0, len);
		ASSERT_EQ((ssize_t)len, place(w, r, 0)) {
			TH_LOG("placing: %s", r->name);
		}
		ASSERT_TRUE(variant->take(w, len)) {
			TH_LOG("taking: %s: %s", r->name, strerror(errno));
		}
		ASSERT_EQ(0, in_pipe(w->rd));
		if (!variant->are_lost)
			EXPECT_EQ(len, wrong_in_range(w, r, w->buf, len, OLD_BYTES)) {
				TH_LOG("first wrong byte: %s", r->name);
			}
		taken++;
	}
	EXPECT_LT(ARRAY_SIZE(ranges) / 3, taken);
}

/* What goes where: on a row of a few huge pages. */
FIXTURE(row)
{
	struct world w;
};

FIXTURE_VARIANT(row)
{
	bool by_ptes;
};

FIXTURE_VARIANT_ADD(row, by_pmd) { .by_ptes = false };
FIXTURE_VARIANT_ADD(row, by_ptes) { .by_ptes = true };

FIXTURE_SETUP(row)
{
	ASSERT_TRUE(begin(&self->w, NR_HUGE));
	if (variant->by_ptes && !self->w.missing)
		ASSERT_TRUE(split_mappings(&self->w));
}

FIXTURE_TEARDOWN(row)
{
	end(&self->w);
}

/* The pipe has just so many buffers, of these lengths. Their bytes go to the buffer. */
#define EXPECT_BUFS(nr, lens) do {							\
	unsigned char *_to = self->w.buf;						\
											\
	for (unsigned int _i = 0; _i < (nr); _i++) {					\
		ASSERT_EQ((ssize_t)(lens)[_i], next_buf(&self->w, self->w.rd, _to)) {	\
			TH_LOG("buffer %u of %u", _i, (unsigned int)(nr));		\
		}									\
		_to += (lens)[_i];							\
	}										\
	EXPECT_EQ(0, in_pipe(self->w.rd));						\
} while (0)

TEST_F_TIMEOUT(row, few_buffers, TIMEOUT)
{
	struct world *w = &self->w;
	size_t lens[MAX_BUFS];

	if (w->missing)
		SKIP(return, "%s", w->missing);
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		const struct range *r = &ranges[i];
		unsigned int nr = expected_bufs(w, r, lens);
		size_t len = total_len(w, r);

		ASSERT_EQ((ssize_t)len, place(w, r, 0)) {
			TH_LOG("%s", r->name);
		}
		EXPECT_BUFS(nr, lens);
		EXPECT_EQ(len, wrong_in_range(w, r, w->buf, len, OLD_BYTES));
	}
}

/* Neither a huge page that has a hole, nor one that ends there, is read beyond it. */
TEST_F_TIMEOUT(row, hole, TIMEOUT)
{
	struct world *w = &self->w;
	size_t hole, from, len;
	struct iovec iov;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	hole = at(w, (struct spot){ 2, 9, 0 });
	from = at(w, (struct spot){ 1, 3, 77 });
	len = hole - from;
	ASSERT_TRUE(command(w->ctl, 'u', hole, hole + page_size));
	iov = (struct iovec){ w->mem + from, len + 5 * page_size };
	ASSERT_EQ((ssize_t)len, pvm(w->pid, w->wr, &iov, 1, 0));
	ASSERT_EQ((int)len, in_pipe(w->rd));
	ASSERT_EQ((ssize_t)len, read_all(w->rd, w->buf, len));
	EXPECT_EQ(len, wrong_byte(w->buf, from, len, OLD_BYTES));
	iov = (struct iovec){ w->mem + hole, 2 * page_size };
	EXPECT_EQ(-EFAULT, pvm(w->pid, w->wr, &iov, 1, 0));
}

/* Contiguous for the target, but not in the folio. */
TEST_F_TIMEOUT(row, exchanged_pages, TIMEOUT)
{
	struct world *w = &self->w;
	size_t from, p = page_size;
	const size_t lens[] = { 4 * p, p, p, 6 * p };
	struct iovec iov;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	from = at(w, (struct spot){ 2, 0, 0 });
	ASSERT_TRUE(command(w->ctl, 'x', from + 4 * p, from + 6 * p));
	iov = (struct iovec){ w->mem + from, 12 * p };
	ASSERT_EQ((ssize_t)(12 * p), pvm(w->pid, w->wr, &iov, 1, 0));
	EXPECT_BUFS(ARRAY_SIZE(lens), lens);
	EXPECT_EQ(4 * p, wrong_byte(w->buf, from, 4 * p, OLD_BYTES));
	EXPECT_EQ(p, wrong_byte(w->buf + 4 * p, from + 5 * p, p, OLD_BYTES));
	EXPECT_EQ(p, wrong_byte(w->buf + 5 * p, from + 4 * p, p, OLD_BYTES));
	EXPECT_EQ(6 * p, wrong_byte(w->buf + 6 * p, from + 6 * p, 6 * p, OLD_BYTES));
}

/* The rest of a folio needs no room in the pipe; what is in between its pages does. */
TEST_F_TIMEOUT(row, no_room_in_between, TIMEOUT)
{
	/* There is a page of the target's own, or none, so that it is a copy. */
	static const char changes[] = { 'x', 'd' };
	struct world *w = &self->w;
	const size_t len = 4 * page_size;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		size_t from = (i + 1) * w->huge;
		struct iovec iov = { w->mem + from, 12 * page_size };

		ASSERT_TRUE(command(w->ctl, changes[i], from + len, from + 6 * page_size));
		ASSERT_TRUE(renew_pipe(w, 1));
		ASSERT_EQ((ssize_t)len, pvm(w->pid, w->wr, &iov, 1, 0));
		EXPECT_BUFS(1, &len);
		EXPECT_EQ(len, wrong_byte(w->buf, from, len, OLD_BYTES));
	}
}

/* Where the nodes of some pages are; false if there are not two of them. */
#define MOVED_PAGES (2 * MAX_SPANS)

struct placing {
	unsigned long nr;
	void *pages[MOVED_PAGES];
	int nodes[MOVED_PAGES];
};

static bool find_nodes(const struct world *w, struct placing *p)
{
	if (syscall(SYS_move_pages, w->pid, p->nr, p->pages, NULL, p->nodes, 0))
		return false;
	for (unsigned long i = 0; i < p->nr; i++)
		if (p->nodes[i] < 0)
			return false;
	return true;
}

/* The first and the last page of each part of the range. */
static bool find_range(const struct world *w, const struct range *r, struct placing *p)
{
	p->nr = 0;
	for (unsigned int i = 0; i < r->nr; i++) {
		size_t from = at(w, r->spans[i].from), to = at(w, r->spans[i].to) - 1;

		p->pages[p->nr++] = w->mem + from - from % page_size;
		p->pages[p->nr++] = w->mem + to - to % page_size;
	}
	return find_nodes(w, p);
}

/* Try to move each to the other node, and see where it is then. */
static bool migrate(const struct world *w, struct placing *p)
{
	int wanted[MOVED_PAGES], status[MOVED_PAGES];

	for (unsigned long i = 0; i < p->nr; i++)
		wanted[i] = !p->nodes[i];
	return syscall(SYS_move_pages, w->pid, p->nr, p->pages, wanted, status,
		       MPOL_MF_MOVE) >= 0 && find_nodes(w, p);
}

static bool are_elsewhere(const struct placing *was, const struct placing *is)
{
	for (unsigned long i = 0; i < was->nr; i++)
		if (was->nodes[i] == is->nodes[i])
			return false;
	return true;
}

static bool are_there_still(const struct placing *was, const struct placing *is)
{
	return !memcmp(was->nodes, is->nodes, was->nr * sizeof(*was->nodes));
}

/* A page that is about to enter the LRU lists can't be moved: not at the first try. */
static bool can_migrate(const struct world *w, const struct range *r)
{
	struct placing was, is;

	for (int i = 0; i < 20; i++) {
		if (!find_range(w, r, &was))
			return false;
		is = was;
		if (migrate(w, &is) && are_elsewhere(&was, &is))
			return true;
	}
	return false;
}

/*
 * A folio that was moved, or was not to be moved, may have been split. To discard it is
 * not enough: before Linux 6.14, a page table that is left keeps huge pages away.
 */
static bool make_anew(const struct world *w, bool by_ptes)
{
	return command(w->ctl, 'n', 0, w->size) && fill_memory(w) &&
	       huge_bytes(w) == w->nr_huge * w->huge &&
	       (!by_ptes || split_mappings(w));
}

/* Only a page that nobody holds can be moved. */
TEST_F_TIMEOUT(row, references, TIMEOUT)
{
	struct world *w = &self->w;
	struct placing was, is;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	if (!has_two_nodes())
		SKIP(return, "not two NUMA nodes to move pages between");
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		const struct range *r = &ranges[i];
		size_t len = total_len(w, r);

		ASSERT_TRUE(find_range(w, r, &was));
		ASSERT_EQ((ssize_t)len, place(w, r, 0));
		is = was;
		ASSERT_TRUE(migrate(w, &is));
		EXPECT_TRUE(are_there_still(&was, &is)) {
			TH_LOG("moved, but in the pipe: %s", r->name);
		}
		ASSERT_TRUE(drain(w->rd, len));
		EXPECT_TRUE(can_migrate(w, r)) {
			TH_LOG("not to be moved: %s", r->name);
		}
		ASSERT_OR_SKIP(make_anew(w, variant->by_ptes), return,
			       "no more huge pages are to be had now");
	}
}

/* What was gathered for a pipe that has no room for it is given back. */
TEST_F_TIMEOUT(row, references_without_room, TIMEOUT)
{
	struct world *w = &self->w;
	size_t lens[MAX_BUFS];

	if (w->missing)
		SKIP(return, "%s", w->missing);
	if (!has_two_nodes())
		SKIP(return, "not two NUMA nodes to move pages between");
	ASSERT_TRUE(renew_pipe(w, 1));
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		const struct range *r = &ranges[i];
		ssize_t placed = place(w, r, 0);

		expected_bufs(w, r, lens);
		ASSERT_EQ((ssize_t)lens[0], placed) {
			TH_LOG("%s", r->name);
		}
		EXPECT_EQ(-EAGAIN, place(w, r, 0));
		ASSERT_EQ(placed, next_buf(w, w->rd, w->buf));
		EXPECT_EQ((size_t)placed, wrong_in_range(w, r, w->buf, placed, OLD_BYTES));
		EXPECT_TRUE(can_migrate(w, r)) {
			TH_LOG("not to be moved: %s", r->name);
		}
		ASSERT_OR_SKIP(make_anew(w, variant->by_ptes), return,
			       "no more huge pages are to be had now");
	}
}

/* Into a file with O_DIRECT go whole sectors, or nothing: just as from vmsplice(). */
static ssize_t splice_direct(const struct world *w, int rd, size_t len)
{
	loff_t off = 0;
	ssize_t ret = splice(rd, NULL, w->in, &off, len, SPLICE_F_NONBLOCK);

	return ret < 0 ? -errno : ret;
}

static ssize_t vmsplice_direct(const struct world *w, size_t from, size_t len)
{
	struct iovec iov = { w->buf + from % page_size, len };
	ssize_t ret = -1;
	int rd, wr;

	if (!open_pipe(&rd, &wr, SLOTS))
		return -1;
	memset(iov.iov_base, 1, len);
	if (vmsplice(wr, &iov, 1, SPLICE_F_NONBLOCK) == (ssize_t)len)
		ret = splice_direct(w, rd, len);
	close(rd);
	close(wr);
	return ret;
}

TEST_F_TIMEOUT(row, unaligned_o_direct, TIMEOUT)
{
	static const struct {
		unsigned int pages, bytes, len_pages, len_bytes;
	} cases[] = {
		{ 5, 7, 3, 0 }, { 5, 0, 3, 100 }, { 5, SECTOR, 1, 99 }, { 5, 4, 2, 0 },
		{ 5, 1, 0, SECTOR }, { 5, 0, 0, 100 }, { 5, SECTOR, 3, SECTOR },
	};
	struct world *w = &self->w;
	unsigned int failed = 0;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	w->missing = open_direct(w);
	if (w->missing)
		SKIP(return, "%s", w->missing);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		size_t from = w->huge + cases[i].pages * page_size + cases[i].bytes;
		size_t len = cases[i].len_pages * page_size + cases[i].len_bytes;
		struct iovec iov = { w->mem + from, len };
		ssize_t ret, theirs = vmsplice_direct(w, from, len);

		ASSERT_TRUE(renew_pipe(w, SLOTS));
		ASSERT_EQ((ssize_t)len, pvm(w->pid, w->wr, &iov, 1, 0));
		ret = splice_direct(w, w->rd, len);
		EXPECT_EQ(theirs, ret);
		failed += ret == -EINVAL;
		if (ret < 0) {
			/* Then it is all in the pipe still. */
			ASSERT_EQ((ssize_t)len, read_all(w->rd, w->buf, len));
			EXPECT_EQ(len, wrong_byte(w->buf, from, len, OLD_BYTES));
		} else {
			ASSERT_EQ((ssize_t)DIRECT_SIZE, pread(w->in, w->buf, DIRECT_SIZE, 0));
			EXPECT_EQ((size_t)ret, wrong_byte(w->buf, from, ret, OLD_BYTES));
		}
	}
	EXPECT_LT(0U, failed);
	EXPECT_GT(ARRAY_SIZE(cases), failed);
	close_direct(w);
}

/* As many huge pages as the pipe has slots, and one. */
FIXTURE(slots)
{
	struct world w;
};

FIXTURE_VARIANT(slots)
{
	bool by_ptes;
};

FIXTURE_VARIANT_ADD(slots, by_pmd) { .by_ptes = false };
FIXTURE_VARIANT_ADD(slots, by_ptes) { .by_ptes = true };

FIXTURE_SETUP(slots)
{
	ASSERT_TRUE(begin(&self->w, SLOTS + 1));
	if (variant->by_ptes && !self->w.missing)
		ASSERT_TRUE(split_mappings(&self->w));
}

FIXTURE_TEARDOWN(slots)
{
	end(&self->w);
}

/* Put into the pipe what has room there, from so many bytes after the first huge page. */
static ssize_t place_from(const struct world *w, size_t skip, unsigned int flags)
{
	struct iovec iov = { w->mem + w->huge + skip, w->nr_huge * w->huge - skip };

	return pvm(w->pid, w->wr, &iov, 1, flags);
}

/* The pipe has nr buffers: the first one ends with a huge page, and the others are one. */
#define EXPECT_HUGE_BUFS(nr, skip) do {							\
	size_t _from = self->w.huge + (skip), _len = self->w.huge - (skip) % self->w.huge; \
											\
	for (unsigned int _i = 0; _i < (nr); _i++) {					\
		ASSERT_EQ((ssize_t)_len, next_buf(&self->w, self->w.rd, self->w.buf));	\
		EXPECT_EQ(_len, wrong_byte(self->w.buf, _from, _len, OLD_BYTES));	\
		_from += _len;								\
		_len = self->w.huge;							\
	}										\
	EXPECT_EQ(0, in_pipe(self->w.rd));						\
} while (0)

TEST_F_TIMEOUT(slots, one_for_each_huge_page, TIMEOUT)
{
	struct world *w = &self->w;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	ASSERT_EQ((ssize_t)(SLOTS * w->huge), place_from(w, 0, 0));
	EXPECT_HUGE_BUFS(SLOTS, 0);
}

TEST_F_TIMEOUT(slots, from_an_odd_byte, TIMEOUT)
{
	size_t skip = 5 * page_size + 7;
	struct world *w = &self->w;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	ASSERT_EQ((ssize_t)(SLOTS * w->huge - skip), place_from(w, skip, 0));
	EXPECT_HUGE_BUFS(SLOTS, skip);
}

TEST_F_TIMEOUT(slots, a_pipe_of_one, TIMEOUT)
{
	struct world *w = &self->w;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	ASSERT_TRUE(renew_pipe(w, 1));
	ASSERT_EQ((ssize_t)w->huge, place_from(w, 0, 0));
	EXPECT_EQ(-EAGAIN, place_from(w, w->huge, SPLICE_F_NONBLOCK));
	EXPECT_HUGE_BUFS(1, 0);
	/* From one byte on, it is the rest of the page. */
	ASSERT_EQ(1, place_from(w, w->huge - 1, 0));
	EXPECT_HUGE_BUFS(1, w->huge - 1);
}

/* Whatever is in the pipe keeps its slots, and is not added to. */
TEST_F_TIMEOUT(slots, a_pipe_in_use, TIMEOUT)
{
	struct iovec iov = { NULL, 100 };
	struct world *w = &self->w;
	ssize_t len;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	iov.iov_base = w->mem + w->huge;
	ASSERT_EQ(100, pvm(w->pid, w->wr, &iov, 1, 0));
	ASSERT_EQ(1, write(w->wr, "x", 1));
	len = (SLOTS - 2) * w->huge - 100;
	ASSERT_EQ(len, place_from(w, 100, 0));
	ASSERT_EQ(100, next_buf(w, w->rd, w->buf));
	EXPECT_EQ((size_t)100, wrong_byte(w->buf, w->huge, 100, OLD_BYTES));
	ASSERT_EQ(1, next_buf(w, w->rd, w->buf));
	EXPECT_EQ('x', w->buf[0]);
	EXPECT_HUGE_BUFS(SLOTS - 2, 100);
}

/* 1024 ranges that follow one another in a huge page. */
TEST_F_TIMEOUT(slots, one_for_many_segments, TIMEOUT)
{
	struct world *w = &self->w;
	struct iovec iov[1024];
	size_t len, from;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	len = w->huge / ARRAY_SIZE(iov) - 1;
	from = w->huge + 333;
	for (size_t i = 0; i < ARRAY_SIZE(iov); i++)
		iov[i] = (struct iovec){ w->mem + from + i * len, len };
	len *= ARRAY_SIZE(iov);
	ASSERT_TRUE(renew_pipe(w, 1));
	ASSERT_EQ((ssize_t)len, pvm(w->pid, w->wr, iov, ARRAY_SIZE(iov), 0));
	ASSERT_EQ((ssize_t)len, next_buf(w, w->rd, w->buf));
	EXPECT_EQ(len, wrong_byte(w->buf, from, len, OLD_BYTES));
}

/* A gift is a page. */
TEST_F_TIMEOUT(slots, gift, TIMEOUT)
{
	struct world *w = &self->w;
	size_t lens[SLOTS];

	if (w->missing)
		SKIP(return, "%s", w->missing);
	for (int i = 0; i < SLOTS; i++)
		lens[i] = page_size;
	ASSERT_EQ((ssize_t)(SLOTS * page_size), place_from(w, 0, SPLICE_F_GIFT));
	EXPECT_BUFS(SLOTS, lens);
	EXPECT_EQ(SLOTS * page_size, wrong_byte(w->buf, w->huge, SLOTS * page_size, OLD_BYTES));
}

/* Fill a pipe with the same huge page until it holds more than an int counts. */
static bool place_more_than_an_int(struct world *w, unsigned int nr)
{
	struct iovec iov[1000];
	unsigned int n;

	for (unsigned int i = 0; i < ARRAY_SIZE(iov); i++)
		iov[i] = (struct iovec){ w->mem + w->huge, w->huge };
	for (; nr; nr -= n) {
		/* And no call for more than a 32-bit caller can ask for. */
		n = nr < ARRAY_SIZE(iov) ? nr : ARRAY_SIZE(iov);
		if (pvm(w->pid, w->wr, iov, n, 0) != (ssize_t)(n * w->huge))
			return false;
	}
	return true;
}

/* No call places more than read() and write() move, whatever the pipe has room for. */
TEST_F_TIMEOUT(slots, no_more_than_an_int, TIMEOUT)
{
	const ssize_t most = INT_MAX & ~(page_size - 1);
	struct world *w = &self->w;
	struct iovec iov[1024];
	unsigned int nr;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	nr = INT_MAX / w->huge + 1;
	if (sizeof(size_t) == sizeof(int) || nr > ARRAY_SIZE(iov))
		SKIP(return, "a call can't ask for as much");
	ASSERT_TRUE(renew_pipe(w, 1));
	if (fcntl(w->wr, F_SETPIPE_SZ, nr * page_size) < 0)
		SKIP(return, "may not have a pipe of %u pages", nr);
	for (unsigned int i = 0; i < nr; i++)
		iov[i] = (struct iovec){ w->mem + w->huge, w->huge };
	EXPECT_EQ(most, pvm(w->pid, w->wr, iov, nr, 0));
	EXPECT_EQ(most, in_pipe(w->rd));
}

/* Whoever takes of it is told of less, not of an error after the fact. */
TEST_F_TIMEOUT(slots, more_than_an_int, TIMEOUT)
{
	const ssize_t most = INT_MAX & ~(page_size - 1);
	/* More is an error, not a lot, to a kernel that extends the sign of 32 bits. */
	const size_t all = sizeof(size_t) > sizeof(int) ? (size_t)INT_MAX + 1 : INT_MAX;
	struct world *w = &self->w;
	int other[2], null;
	unsigned int nr;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	nr = INT_MAX / w->huge + 16;
	ASSERT_TRUE(renew_pipe(w, 1));
	if (fcntl(w->wr, F_SETPIPE_SZ, nr * page_size) < 0)
		SKIP(return, "may not have a pipe of %u pages", nr);
	ASSERT_TRUE(open_pipe(&other[0], &other[1], 1));
	ASSERT_LE(0, fcntl(other[1], F_SETPIPE_SZ, nr * page_size));
	null = open("/dev/null", O_WRONLY);
	ASSERT_LE(0, null);

	ASSERT_TRUE(place_more_than_an_int(w, nr));
	EXPECT_EQ(INT_MAX, in_pipe(w->rd));
	EXPECT_EQ(most, tee(w->rd, other[1], all, 0));
	EXPECT_EQ(most, in_pipe(other[0]));
	EXPECT_EQ(most, splice(w->rd, NULL, null, NULL, all, 0));
	ASSERT_TRUE(place_more_than_an_int(w, nr - 16));
	EXPECT_EQ(INT_MAX, in_pipe(w->rd));
	close(other[0]);
	close(other[1]);
	ASSERT_TRUE(open_pipe(&other[0], &other[1], 1));
	ASSERT_LE(0, fcntl(other[1], F_SETPIPE_SZ, nr * page_size));
	EXPECT_EQ(most, splice(w->rd, NULL, other[1], NULL, all, 0));
	EXPECT_EQ(most, in_pipe(other[0]));
	close(null);
	close(other[0]);
	close(other[1]);
}

static uint64_t page_frame(const struct world *w, size_t pos)
{
	uint64_t entry = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", w->pid);
	fd = open(path, O_RDONLY);
	if (pread(fd, &entry, sizeof(entry),
		  (uintptr_t)(w->mem + pos) / page_size * sizeof(entry)) != sizeof(entry))
		entry = 0;
	close(fd);
	return entry & PM_PFN;
}

/* Folios of an own, smaller size, which only PTEs map. */
FIXTURE(medium)
{
	struct world w;
	size_t from, to;
};

static char *enabled_path(char *path, size_t size, size_t folio)
{
	snprintf(path, size, THP_DIR "hugepages-%zukB/enabled", folio >> 10);
	return path;
}

/* Such folios, and no larger ones, which the kernel would take first. */
static bool allow_medium(const struct world *w)
{
	bool ok = change_setting(MEDIUM_ENABLED, "madvise");
	char path[96];

	for (size_t folio = 2 * MEDIUM_SIZE; folio < w->huge; folio *= 2)
		ok = ok && change_setting(enabled_path(path, sizeof(path), folio), "never");
	return ok;
}

static void restore_folio_sizes(const struct world *w)
{
	char path[96];

	for (size_t folio = MEDIUM_SIZE; folio < w->huge; folio *= 2)
		restore_setting(enabled_path(path, sizeof(path), folio));
}

static bool fill_medium(const struct world *w, size_t from, size_t to)
{
	bool ok = allow_medium(w) && command(w->ctl, 'h', from, to) &&
		  command(w->ctl, 'f', from, to) && command(w->ctl, 'b', from, to);

	restore_folio_sizes(w);
	return ok;
}

static bool is_contiguous(const struct world *w, size_t pos, size_t len)
{
	uint64_t first = page_frame(w, pos);

	for (size_t i = 1; i < len / page_size; i++)
		if (page_frame(w, pos + i * page_size) != first + i)
			return false;
	return first && first % (len / page_size) == 0;
}

FIXTURE_SETUP(medium)
{
	ASSERT_TRUE(begin(&self->w, 1));
	if (self->w.missing)
		return;
	if (geteuid())
		self->w.missing = "needs root, to have such folios and to see them";
	else if (access(MEDIUM_ENABLED, F_OK) || MEDIUM_SIZE <= page_size)
		self->w.missing = "no folios of 64 KiB";
	if (self->w.missing)
		return;
	/* Not a whole huge page, where there could be one. */
	self->from = MEDIUM_SIZE;
	self->to = self->w.huge / 2;
	if (self->to > SLOTS * MEDIUM_SIZE)
		self->to = SLOTS * MEDIUM_SIZE;
	ASSERT_OR_SKIP(fill_medium(&self->w, self->from, self->to), return,
		       "folios of 64 KiB can't be turned on");
	for (size_t pos = self->from; pos < self->to; pos += MEDIUM_SIZE)
		ASSERT_OR_SKIP(is_contiguous(&self->w, pos, MEDIUM_SIZE), return,
			       "no folios of 64 KiB are to be had now");
}

FIXTURE_TEARDOWN(medium)
{
	end(&self->w);
}

TEST_F_TIMEOUT(medium, one_slot_each, TIMEOUT)
{
	struct world *w = &self->w;
	unsigned int nr = 0;
	size_t lens[SLOTS];
	struct iovec iov;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	iov = (struct iovec){ w->mem + self->from + 99, self->to - self->from - 99 };
	for (size_t pos = self->from; pos < self->to; pos += MEDIUM_SIZE)
		lens[nr++] = MEDIUM_SIZE;
	lens[0] -= 99;
	ASSERT_EQ((ssize_t)iov.iov_len, pvm(w->pid, w->wr, &iov, 1, 0));
	EXPECT_BUFS(nr, lens);
	EXPECT_EQ(iov.iov_len, wrong_byte(w->buf, self->from + 99, iov.iov_len, OLD_BYTES));
}

/*
 * Pages of one folio, of which some ('#') are exclusive to the target, and others were
 * left by fork(): these are copied, each into a buffer of its own.
 */
FIXTURE(runs)
{
	struct world w;
};

FIXTURE_VARIANT(runs)
{
	const char *pages;
	bool by_ptes;
	bool by_writing;	/* to those that are exclusive, when the child is gone */
};

#define SOME_PAGES "...#######..##.#.....####"
#define OTHER_PAGES "####.####.#..##########.."
#define NO_PAGES "........................."
#define NR_PAGES_OF_RUNS (sizeof(SOME_PAGES) - 1)

FIXTURE_VARIANT_ADD(runs, kept_from_child) { .pages = SOME_PAGES };
FIXTURE_VARIANT_ADD(runs, others_kept_from_child) { .pages = OTHER_PAGES };
FIXTURE_VARIANT_ADD(runs, written) {
	.pages = SOME_PAGES, .by_ptes = true, .by_writing = true,
};

FIXTURE_VARIANT_ADD(runs, others_written) {
	.pages = OTHER_PAGES, .by_ptes = true, .by_writing = true,
};

FIXTURE_VARIANT_ADD(runs, all_left_by_pmd) { .pages = NO_PAGES };
FIXTURE_VARIANT_ADD(runs, all_left_by_ptes) { .pages = NO_PAGES, .by_ptes = true };

FIXTURE_SETUP(runs)
{
	ASSERT_TRUE(begin(&self->w, 1));
	if (variant->by_writing && geteuid())
		self->w.missing = "needs root, to see which pages are copied on a write";
	if (self->w.missing)
		return;
	ASSERT_TRUE(renew_pipe(&self->w, MAX_BUFS));
	if (variant->by_ptes)
		ASSERT_TRUE(split_mappings(&self->w));
}

FIXTURE_TEARDOWN(runs)
{
	end(&self->w);
}

/* A command for each of the pages that are exclusive. */
static bool command_pages(const struct world *w, const char *pages, char what)
{
	for (size_t i = 0; pages[i]; i++) {
		size_t pos = w->huge + i * page_size;

		if (pages[i] == '#' && !command(w->ctl, what, pos, pos + page_size))
			return false;
	}
	return true;
}

static bool make_exclusive(const struct world *w, const char *pages, bool by_writing)
{
	if (by_writing)
		return command(w->ctl, 'c', 0, 0) && command_pages(w, pages, 'f');
	return command_pages(w, pages, 'k') && command(w->ctl, 'c', 0, 0) &&
	       command_pages(w, pages, 'K');
}

static void find_frames(const struct world *w, uint64_t *frames)
{
	for (size_t i = 0; i < NR_PAGES_OF_RUNS; i++)
		frames[i] = page_frame(w, w->huge + i * page_size);
}

/*
 * The lengths of the buffers. Some kernels do not take a page of a large folio over on
 * a write, but copy it: then it is exclusive, but has another frame, and no neighbour.
 */
static unsigned int expected_runs(const char *pages, const uint64_t *was, const uint64_t *is,
				  size_t *lens)
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

TEST_F_TIMEOUT(runs, are_merged, TIMEOUT)
{
	uint64_t was[NR_PAGES_OF_RUNS], is[NR_PAGES_OF_RUNS];
	size_t len = NR_PAGES_OF_RUNS * page_size, lens[MAX_BUFS], skip = 100;
	struct world *w = &self->w;
	struct iovec iov;
	unsigned int nr;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	find_frames(w, was);
	ASSERT_TRUE(make_exclusive(w, variant->pages, variant->by_writing));
	find_frames(w, is);
	nr = expected_runs(variant->pages, was, is, lens);
	lens[0] -= skip;

	iov = (struct iovec){ w->mem + w->huge + skip, len - skip };
	ASSERT_EQ((ssize_t)iov.iov_len, pvm(w->pid, w->wr, &iov, 1, 0));
	ASSERT_TRUE(command(w->ctl, 'w', w->huge, w->huge + len));
	EXPECT_BUFS(nr, lens);
	for (size_t i = 0; variant->pages[i]; i++, skip = 0) {
		size_t from = i * page_size + skip, n = page_size - skip;
		unsigned char *page = w->buf + from - 100;

		EXPECT_EQ(n, wrong_byte(page, w->huge + from, n,
					variant->pages[i] == '#' ? NEW_BYTES : OLD_BYTES)) {
			TH_LOG("page %zu", i);
		}
	}
}

/* What happens to the target while parts of two huge pages are in the pipe. */
struct step {
	char what;		/* for obey(), or M: the test migrates it */
	struct span span;
};

#define MAX_STEPS 3

FIXTURE(event)
{
	struct world w;
	bool own_swap;
};

FIXTURE_VARIANT(event)
{
	struct step steps[MAX_STEPS + 1];	/* and none */
	unsigned char seed;	/* of what the reader gets */
};

static const struct range in_event = {
	"parts of two huge pages", 1, { { { 1, 3, 77 }, { 3, -3, -9 } } },
};

#define BOTH_PAGES { { 1, 0, 0 }, { 3, 0, 0 } }
#define MIDDLE { { 1, 10, 0 }, { 2, 11, 0 } }
#define ONE_PAGE { { 1, 20, 0 }, { 1, 21, 0 } }

FIXTURE_VARIANT_ADD(event, none) { .steps = { } };
FIXTURE_VARIANT_ADD(event, writes) {
	.steps = { { 'w', BOTH_PAGES } }, .seed = NEW_BYTES,
};

FIXTURE_VARIANT_ADD(event, unmaps) { .steps = { { 'u', BOTH_PAGES } } };
FIXTURE_VARIANT_ADD(event, unmaps_middle) { .steps = { { 'u', MIDDLE } } };
FIXTURE_VARIANT_ADD(event, discards_middle) { .steps = { { 'd', MIDDLE } } };
FIXTURE_VARIANT_ADD(event, discards_and_writes) {
	.steps = { { 'd', BOTH_PAGES }, { 'w', BOTH_PAGES } },
};

FIXTURE_VARIANT_ADD(event, protects_page) { .steps = { { 'p', ONE_PAGE } } };
/* The huge page stays the one that is in the pipe. */
FIXTURE_VARIANT_ADD(event, protects_page_and_writes) {
	.steps = { { 'p', ONE_PAGE }, { 'o', ONE_PAGE }, { 'w', BOTH_PAGES } },
	.seed = NEW_BYTES,
};

FIXTURE_VARIANT_ADD(event, forks_and_writes) {
	.steps = { { 'c', BOTH_PAGES }, { 'w', BOTH_PAGES } },
};

FIXTURE_VARIANT_ADD(event, exchanges_pages) { .steps = { { 'x', MIDDLE } } };
FIXTURE_VARIANT_ADD(event, pages_out) { .steps = { { 'q', BOTH_PAGES } } };
FIXTURE_VARIANT_ADD(event, unmaps_middle_and_pages_out) {
	.steps = { { 'u', MIDDLE }, { 'q', { { 1, 0, 0 }, { 1, 10, 0 } } } },
};

FIXTURE_VARIANT_ADD(event, is_migrated) { .steps = { { 'M', BOTH_PAGES } } };
FIXTURE_VARIANT_ADD(event, protects_page_and_is_migrated) {
	.steps = { { 'p', ONE_PAGE }, { 'M', BOTH_PAGES } },
};

FIXTURE_VARIANT_ADD(event, exits) { .steps = { { 'z', BOTH_PAGES } } };

static bool has_step(const struct step *steps, char what)
{
	for (; steps->what; steps++)
		if (steps->what == what)
			return true;
	return false;
}

/* All run on one CPU: what is freed there is what is allocated there next. */
static void stay_on_one_cpu(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* If the pipe had memory that was freed, it would now have these bytes. */
static void reuse_freed_memory(const struct world *w, int advice)
{
	size_t len = 4 * w->huge;
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return;
	madvise(p, len, advice);
	memset(p, 0xaa, len);
	munmap(p, len);
}

FIXTURE_SETUP(event)
{
	stay_on_one_cpu();
	ASSERT_TRUE(begin(&self->w, NR_HUGE));
	if (has_step(variant->steps, 'M') && !has_two_nodes())
		self->w.missing = "not two NUMA nodes to move pages between";
	if (self->w.missing || !has_step(variant->steps, 'q') || can_swap())
		return;
	self->own_swap = add_swap();
	if (!self->own_swap)
		self->w.missing = "no swap, and no blank " SWAP_DEVICE ", or not root";
	else if (!can_swap())
		self->w.missing = "no swap for us";
}

FIXTURE_TEARDOWN(event)
{
	end(&self->w);
	if (self->own_swap)
		remove_swap();
}

static bool migrate_event(const struct world *w)
{
	struct placing p;

	return find_range(w, &in_event, &p) && migrate(w, &p);
}

static bool do_event_step(const struct world *w, const struct step *step)
{
	size_t from = at(w, step->span.from), to = at(w, step->span.to);

	if (step->what == 'M')
		return migrate_event(w);
	if (step->what != 'z')
		return command(w->ctl, step->what, from, to);
	if (command(w->ctl, 'z', from, to))
		return false;
	wait_for_state(w->pid, 'Z');
	return true;
}

TEST_F_TIMEOUT(event, keeps_the_bytes, TIMEOUT)
{
	struct world *w = &self->w;
	size_t len, lens[MAX_BUFS];
	unsigned int nr;

	if (w->missing)
		SKIP(return, "%s", w->missing);
	len = total_len(w, &in_event);
	nr = expected_bufs(w, &in_event, lens);
	ASSERT_EQ(2U, nr);
	ASSERT_EQ((ssize_t)len, place(w, &in_event, 0));
	for (const struct step *step = variant->steps; step->what; step++) {
		ASSERT_TRUE(do_event_step(w, step)) {
			TH_LOG("the step '%c'", step->what);
		}
	}
	reuse_freed_memory(w, MADV_HUGEPAGE);
	reuse_freed_memory(w, MADV_NOHUGEPAGE);
	EXPECT_BUFS(nr, lens);
	EXPECT_EQ(len, wrong_in_range(w, &in_event, w->buf, len, variant->seed));
}

SUPERVISED_HARNESS_MAIN
