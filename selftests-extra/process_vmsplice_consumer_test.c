// SPDX-License-Identifier: GPL-2.0
/*
 * All consumers of a pipe get the right bytes of the buffers that
 * process_vmsplice() has inserted, at whatever byte a buffer of several pages
 * starts, ends or is cut in two; and those that take pages over (SPLICE_F_GIFT:
 * FUSE, for the page cache of its files, and the ports of virtio-console) take
 * none that the target still maps.
 *
 * The guest of vmtest.sh has two ports, known by their names, and what goes out
 * at the first comes in at the second. While nobody reads there, pages wait in
 * the queue of the first.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <glob.h>
#include <net/if.h>
#include <netinet/in.h>
#include "pvm_folio.h"
#include "pvm_fuse.h"
#include "pvm_ramdisk.h"

#define DIRECT_DEVICE "/dev/ram1"

/* Of the consumer: where the test sends data, and where it gets it back. */
static int dest = -1, source = -1;

/* The lengths of the parts in which the consumers take what is in the pipe. */
static const size_t parts[] = { 1, 4095, 7, 10007, 300007 };

static size_t part(unsigned int i, size_t left)
{
	size_t len = parts[i % ARRAY_SIZE(parts)];

	return len < left ? len : left;
}

/* From a pipe to the offset off, or to the file's own. */
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
 * The consumers. One function makes what is needed, or says why it can't; the
 * other takes so many bytes out of the pipe, and stores what has arrived in the
 * buffer.
 */

static const char *no_preparation(struct row *w)
{
	return NULL;
}

static bool take_by_read(struct row *w, size_t len)
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

static bool take_to_user(struct row *w, size_t len)
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

static const char *open_tmpfs(struct row *w)
{
	dest = memfd_create("file", 0);
	return dest < 0 ? "no memfd_create()" : NULL;
}

static bool take_to_file(struct row *w, size_t len)
{
	loff_t start = 12345, off = start;

	return splice_all(w->rd, dest, &off, len) && off == start + (loff_t)len &&
	       pread(dest, w->buf, len, start) == (ssize_t)len;
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

static bool take_to_socket(struct row *w, size_t len)
{
	struct reader r = { .fd = source, .buf = w->buf, .len = len };
	bool ok;

	if (pthread_create(&r.thread, NULL, reader_main, &r))
		return false;
	ok = splice_all(w->rd, dest, NULL, len);
	/* Or the reader would wait for the rest. */
	if (!ok)
		shutdown(dest, SHUT_RDWR);
	pthread_join(r.thread, NULL);
	return ok && r.got == (ssize_t)len;
}

static const char *open_unix(struct row *w)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv))
		return "no Unix sockets";
	dest = sv[0];
	source = sv[1];
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

static const char *open_tcp(struct row *w)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct sockaddr *name = (struct sockaddr *)&addr;
	socklen_t len = sizeof(addr);
	int server;

	set_loopback_up();
	server = socket(AF_INET, SOCK_STREAM, 0);
	dest = socket(AF_INET, SOCK_STREAM, 0);
	if (server < 0 || dest < 0)
		return "no IPv4";
	if (bind(server, name, len) || listen(server, 1) || getsockname(server, name, &len) ||
	    connect(dest, name, len))
		return "no loopback interface";
	source = accept(server, NULL, NULL);
	close(server);
	return source < 0 ? "no connection to itself" : NULL;
}

static const char *open_null(struct row *w)
{
	dest = open("/dev/null", O_WRONLY);
	return dest < 0 ? "no /dev/null" : NULL;
}

static bool take_to_null(struct row *w, size_t len)
{
	return splice_all(w->rd, dest, NULL, len);
}

static const char *open_second_pipe(struct row *w)
{
	return open_pipe(&source, &dest, 32) ? NULL : "no further pipe";
}

/* The copy is cut off within a page; both must be right up to there. */
static bool take_by_tee(struct row *w, size_t len)
{
	size_t most = len - len / 3;
	unsigned char *copy = malloc(most);
	bool ok;

	ok = tee(w->rd, dest, most, SPLICE_F_NONBLOCK) == (ssize_t)most &&
	     in_pipe(source) == (int)most && in_pipe(w->rd) == (int)len &&
	     read_all(w->rd, w->buf, len) == (ssize_t)len &&
	     read_all(source, copy, most) == (ssize_t)most && !memcmp(copy, w->buf, most);
	free(copy);
	return ok;
}

/* Cut anywhere, into parts of which one pipe has some, and the other the rest. */
static bool take_by_two_pipes(struct row *w, size_t len)
{
	const size_t cuts[] = { 1, 5001, len / 2 + 3, 130 };
	size_t moved = 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(cuts) && moved + cuts[i] < len; i++) {
		ssize_t n = splice(w->rd, NULL, dest, NULL, cuts[i], SPLICE_F_NONBLOCK);

		if (n != (ssize_t)cuts[i])
			return false;
		moved += n;
	}
	return in_pipe(w->rd) == (int)(len - moved) && in_pipe(source) == (int)moved &&
	       read_all(w->rd, w->buf + moved, len - moved) == (ssize_t)(len - moved) &&
	       read_all(source, w->buf, moved) == (ssize_t)moved;
}

/* The bytes of one write: they end within a page, but not within a sector. */
#define WINDOW ((1UL << 20) + 3 * SECTOR)
#define DIRECT_SIZE (2UL << 20)

static const char *open_direct(struct row *w)
{
	int sector;

	dest = borrow_ramdisk(DIRECT_DEVICE, O_DIRECT);
	if (dest < 0)
		return "no blank " DIRECT_DEVICE ", or not root";
	source = -1;
	return ioctl(dest, BLKSSZGET, &sector) || sector != SECTOR ?
	       "the ramdisk has sectors of another size" : NULL;
}

static bool take_to_disk(struct row *w, size_t len)
{
	size_t done = 0;

	while (done < len) {
		size_t want = len - done < WINDOW ? len - done : WINDOW;
		loff_t off = SECTOR;
		ssize_t n = splice(w->rd, NULL, dest, &off, want, SPLICE_F_NONBLOCK);

		if (n <= 0 || pread(dest, w->buf + done, n, SECTOR) != n)
			return false;
		done += n;
	}
	return true;
}

static void close_direct(struct row *w)
{
	if (dest > 0)
		close(dest);
	release_ramdisk(DIRECT_DEVICE);
}

/*
 * The file is the bytes of the pipe, read from the first to the last. All that
 * is there goes through yet another pipe behind the header of each reply, so
 * that the device cuts off its part, which ends anywhere in a buffer.
 */
static struct {
	int rd;			/* of the pipe with what is left */
	int pipes[2][2];
	unsigned int next;	/* of these */
	size_t served;
} file;

static bool splice_reply(const struct fuse_out_header *header, size_t left)
{
	const int *p = file.pipes[file.next];

	if (write(p[1], header, sizeof(*header)) != sizeof(*header))
		return false;
	if (left && splice(file.rd, NULL, p[1], NULL, left, SPLICE_F_NONBLOCK) != (ssize_t)left)
		return false;
	file.rd = p[0];
	file.next = !file.next;
	return splice(p[0], NULL, fuse.dev, NULL, header->len, SPLICE_F_MOVE) ==
	       (ssize_t)header->len;
}

static void read_the_pipe(const struct fuse_in_header *in)
{
	const struct fuse_read_in *arg = (const void *)(in + 1);
	size_t left = fuse.size - file.served;
	size_t len = arg->size < left ? arg->size : left;
	struct fuse_out_header header = {
		.len = sizeof(header) + len, .unique = in->unique,
	};

	if (arg->offset != file.served) {
		reply(in->unique, -EIO, NULL, 0);
		return;
	}
	/* Before the reply, as the test may go on with it. */
	file.served += len;
	if (!splice_reply(&header, left))
		reply(in->unique, -EIO, NULL, 0);
}

static const char *open_fuse(struct row *w)
{
	for (int i = 0; i < 2; i++)
		if (!open_pipe(&file.pipes[i][0], &file.pipes[i][1], 32))
			return "no further pipes";
	fuse.reply_to_read = read_the_pipe;
	return start_fuse();
}

static const char *open_fuse_direct(struct row *w)
{
	fuse.open_flags = FOPEN_DIRECT_IO;
	return open_fuse(w);
}

static bool take_to_fuse(struct row *w, size_t len)
{
	struct stat st;
	bool ok;
	int fd;

	file.rd = w->rd;
	fuse.size = len;
	file.served = 0;
	fd = open(fuse.path, O_RDONLY);
	if (fd < 0)
		return false;
	/* Asks for the size. */
	ok = !fstat(fd, &st) && (size_t)st.st_size == len &&
	     read_all(fd, w->buf, len) == (ssize_t)len && file.served == len;
	close(fd);
	return ok;
}

static void close_fuse(struct row *w)
{
	stop_fuse();
}

FIXTURE(bytes) {
	struct row w;
	const char *missing;
};

FIXTURE_VARIANT(bytes) {
	const char *(*open)(struct row *w);
	bool (*take)(struct row *w, size_t len);
	void (*close)(struct row *w);
	size_t align;		/* of what it takes, in memory and in length */
	bool are_lost;
};

FIXTURE_VARIANT_ADD(bytes, to_read) { .open = no_preparation, .take = take_by_read };

FIXTURE_VARIANT_ADD(bytes, to_vmsplice) { .open = no_preparation, .take = take_to_user };

FIXTURE_VARIANT_ADD(bytes, to_tmpfs) { .open = open_tmpfs, .take = take_to_file };

FIXTURE_VARIANT_ADD(bytes, to_o_direct) { .open = open_direct, .take = take_to_disk, .close = close_direct, .align = SECTOR };

FIXTURE_VARIANT_ADD(bytes, to_unix_socket) { .open = open_unix, .take = take_to_socket };

FIXTURE_VARIANT_ADD(bytes, to_tcp) { .open = open_tcp, .take = take_to_socket };

FIXTURE_VARIANT_ADD(bytes, to_fuse) { .open = open_fuse, .take = take_to_fuse, .close = close_fuse };

FIXTURE_VARIANT_ADD(bytes, to_fuse_direct) { .open = open_fuse_direct, .take = take_to_fuse, .close = close_fuse };

FIXTURE_VARIANT_ADD(bytes, to_dev_null) { .open = open_null, .take = take_to_null, .are_lost = true };

FIXTURE_VARIANT_ADD(bytes, to_tee) { .open = open_second_pipe, .take = take_by_tee };

FIXTURE_VARIANT_ADD(bytes, to_another_pipe) { .open = open_second_pipe, .take = take_by_two_pipes };

FIXTURE_SETUP(bytes)
{
	START_ROW(return, &self->w, NR_HUGE, false);
	self->missing = variant->open(&self->w);
}

FIXTURE_TEARDOWN(bytes)
{
	if (variant->close)
		variant->close(&self->w);
}

/* Does each of its parts start and end at a multiple? */
static bool is_aligned(const struct row *w, const struct range *r, size_t align)
{
	size_t rest = 0;

	for (unsigned int i = 0; align && i < r->nr; i++)
		rest |= at(w, r->spans[i].from) % align | at(w, r->spans[i].to) % align;
	return !rest;
}

/* Assert that each consumer gets the right bytes of each range. */
TEST_F_TIMEOUT(bytes, are_right, TIMEOUT)
{
	struct row *w = &self->w;
	unsigned int taken = 0;

	if (self->missing)
		SKIP(return, "%s", self->missing);
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		const struct range *r = &ranges[i];
		size_t len = total_len(w, r);

		if (!is_aligned(w, r, variant->align))
			continue;
		memset(w->buf, 0, len);
		ASSERT_EQ((ssize_t)len, insert(w, r, 0)) {
			TH_LOG("inserting: %s", r->name);
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

FIXTURE(direct) {
	struct row w;
};

FIXTURE_SETUP(direct)
{
	START_ROW(return, &self->w, NR_HUGE, false);
}

FIXTURE_TEARDOWN(direct)
{
	close_direct(&self->w);
}

/* A file with O_DIRECT takes whole sectors, or nothing. */
static ssize_t splice_direct(const struct row *w, int rd, size_t len)
{
	loff_t off = 0;
	ssize_t ret = splice(rd, NULL, dest, &off, len, SPLICE_F_NONBLOCK);

	return ret < 0 ? -errno : ret;
}

static ssize_t vmsplice_direct(const struct row *w, size_t from, size_t len)
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

/* Assert that O_DIRECT takes what it takes from vmsplice(). */
TEST_F_TIMEOUT(direct, unaligned_o_direct, TIMEOUT)
{
	static const struct {
		unsigned int pages, bytes, len_pages, len_bytes;
	} cases[] = {
		{ 5, 7, 3, 0 }, { 5, 0, 3, 100 }, { 5, SECTOR, 1, 99 }, { 5, 4, 2, 0 },
		{ 5, 1, 0, SECTOR }, { 5, 0, 0, 100 }, { 5, SECTOR, 3, SECTOR },
	};
	struct row *w = &self->w;
	unsigned int failed = 0;

	if (open_direct(w))
		SKIP(return, "no ramdisk for this");
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
			/* The pipe still has it all. */
			ASSERT_EQ((ssize_t)len, read_all(w->rd, w->buf, len));
			EXPECT_EQ(len, differs(w->buf, from, len, OLD_BYTES));
		} else {
			ASSERT_EQ((ssize_t)DIRECT_SIZE, pread(dest, w->buf, DIRECT_SIZE, 0));
			EXPECT_EQ((size_t)ret, differs(w->buf, from, ret, OLD_BYTES));
		}
	}
	EXPECT_LT(0U, failed);
	EXPECT_GT(ARRAY_SIZE(cases), failed);
}

/* What the target gives: a page of its memory, to a file or to a port. */
FIXTURE(gift) {
	TARGET_MEMBERS;
	int file;
};

FIXTURE_VARIANT(gift) {
	bool memfd;
	bool unmaps;	/* the target, what it has given */
};

FIXTURE_VARIANT_ADD(gift, mapped) { .unmaps = false };
FIXTURE_VARIANT_ADD(gift, unmapped) { .unmaps = true };
/* A page that is copied is the pipe's, but was not given. */
FIXTURE_VARIANT_ADD(gift, copied) { .memfd = true };
FIXTURE_VARIANT_ADD(gift, copied_and_unmapped) { .memfd = true, .unmaps = true };

static struct {
	struct iovec page;
	pid_t pid;
	int ctl, rd, wr, reads;
	bool unmaps;
	ssize_t inserted, replied;
} given;

/* The page goes from the target to the file without a copy in the server. */
static void give_a_page(const struct fuse_in_header *in)
{
	struct fuse_out_header header = {
		.len = sizeof(header) + page_size, .unique = in->unique,
	};

	given.reads++;
	if (write(given.wr, &header, sizeof(header)) != sizeof(header))
		return;
	given.inserted = pvm(given.pid, given.wr, &given.page, 1, SPLICE_F_GIFT);
	if (given.inserted == (ssize_t)page_size && given.unmaps)
		command(given.ctl, UNMAP, 0, page_size);
	if (given.inserted == (ssize_t)page_size)
		given.replied = splice(given.rd, NULL, fuse.dev, NULL, header.len,
				       SPLICE_F_MOVE);
	/* Or the reader would wait for the data. */
	if (given.replied != (ssize_t)header.len)
		reply(in->unique, -EIO, NULL, 0);
}

FIXTURE_SETUP(gift)
{
	const char *missing;

	self->size = 2 * page_size;
	self->mem = variant->memfd ?
		    mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_SHARED,
			 pattern_file(self->size, OLD_BYTES), 0) : map_small(self->size);
	ASSERT_TRUE(self->mem != MAP_FAILED);
	START_TARGET();
	TELL(WRITE_OLD, 0, self->size);
	given.page = *RANGE(0, page_size);
	given.pid = self->pid;
	given.ctl = self->ctl[0];
	given.rd = self->rd;
	given.wr = self->wr;
	given.unmaps = variant->unmaps;
	fuse.size = page_size;
	fuse.attr_valid = 3600;
	fuse.reply_to_read = give_a_page;
	missing = start_fuse();
	if (missing)
		SKIP(return, "%s", missing);
	self->file = open(fuse.path, O_RDONLY);
	ASSERT_LE(0, self->file);
}

FIXTURE_TEARDOWN(gift)
{
	close(self->file);
	stop_fuse();
}

/* The bytes of the file, or of the target, are those of the seed. */
#define EXPECT_FILE(seed) do {								\
	ASSERT_EQ((ssize_t)page_size, pread(self->file, self->buf, page_size, 0));	\
	EXPECT_EQ(page_size, differs(self->buf, 0, page_size, seed));			\
} while (0)

#define EXPECT_TARGET(seed) do {							\
	ASSERT_EQ((ssize_t)page_size,							\
		  readv_from(self->pid, self->mem, self->buf, page_size));		\
	EXPECT_EQ(page_size, differs(self->buf, 0, page_size, seed));			\
} while (0)

/* The page of the file in the cache. */
static uint64_t file_frame(int fd)
{
	unsigned char *map = mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, 0);
	uint64_t frame;

	if (map == MAP_FAILED)
		return 0;
	read_pages(map, page_size);
	frame = page_frame(getpid(), map);
	munmap(map, page_size);
	return frame;
}

/* Assert that a file of FUSE shares no page with the target that gave it. */
TEST_F_TIMEOUT(gift, file_is_apart, TIMEOUT)
{
	uint64_t was = page_frame(self->pid, self->mem), frame;

	EXPECT_FILE(OLD_BYTES);
	frame = file_frame(self->file);
	EXPECT_NE((uint64_t)0, frame);
	/* FUSE takes no page that was anonymous, not even one that nobody maps any more. */
	EXPECT_NE(frame, was);
	if (!variant->unmaps) {
		EXPECT_TARGET(OLD_BYTES);
		TELL(WRITE_NEW, 0, page_size);
		EXPECT_FILE(OLD_BYTES);
		EXPECT_TARGET(NEW_BYTES);
	}
	/* Nor is the page of the file freed when those of the target are. */
	END_TARGET();
	EXPECT_FILE(OLD_BYTES);
	/* After this, the server has reported how it went. */
	close(self->file);
	self->file = -1;
	stop_fuse();
	/* All but the first read came out of the cache. */
	EXPECT_EQ(1, given.reads);
	EXPECT_EQ((ssize_t)page_size, given.inserted);
	EXPECT_EQ((ssize_t)(sizeof(struct fuse_out_header) + page_size), given.replied);
}

FIXTURE(port) {
	TARGET_MEMBERS;
	int in, out;
};

FIXTURE_VARIANT(port) {
	unsigned int flags;
	bool huge;
};

FIXTURE_VARIANT_ADD(port, given) { .flags = SPLICE_F_GIFT };
FIXTURE_VARIANT_ADD(port, lent) { .flags = 0 };
/* In one buffer, of which the port maps only a page at a time. */
FIXTURE_VARIANT_ADD(port, huge_page) { .flags = 0, .huge = true };

/* The ports of others may lead anywhere: to a guest's agent, say. */
#define PORT_NAME "org.kernel.process_vmsplice."

static int open_port(const char *end, int flags)
{
	char name[64], path[128];
	glob_t ports;
	int fd = -1;

	snprintf(name, sizeof(name), PORT_NAME "%s", end);
	if (glob("/sys/class/virtio-ports/*/name", 0, NULL, &ports))
		return -1;
	for (size_t i = 0; i < ports.gl_pathc && fd < 0; i++) {
		if (!setting_is(ports.gl_pathv[i], name))
			continue;
		/* The port has the name of the directory. */
		*strrchr(ports.gl_pathv[i], '/') = 0;
		snprintf(path, sizeof(path), "/dev/%s",
			 strrchr(ports.gl_pathv[i], '/') + 1);
		fd = open(path, flags | O_NONBLOCK | O_CLOEXEC);
	}
	globfree(&ports);
	return fd;
}

FIXTURE_SETUP(port)
{
	size_t align = variant->huge ? thp_size() : page_size;

	self->size = align > NR_PAGES * page_size ? align : NR_PAGES * page_size;
	self->mem = align ? map_aligned(self->size, align) : map_small(self->size);
	ASSERT_FALSE(!self->mem);
	START_TARGET();
	if (variant->huge)
		command(self->ctl[0], HUGE_PAGES, 0, self->size);
	TELL(WRITE_OLD, 0, self->size);
	self->out = open_port("out", O_WRONLY);
	self->in = open_port("in", O_RDONLY);
}

FIXTURE_TEARDOWN(port)
{
	if (self->out >= 0)
		close(self->out);
	if (self->in >= 0)
		close(self->in);
}

/* The host has to open the port, and to send on what it gets. */
#define HOST_SECONDS 30

/* False if nothing comes, or goes, for so long. */
static bool wait_for_port(int fd, short events)
{
	struct pollfd pfd = { .fd = fd, .events = events };

	/* While the host has not opened it, there is nothing but POLLHUP. */
	for (int ms = 0; ms < HOST_SECONDS * 1000; ms += 10) {
		if (poll(&pfd, 1, 10) < 0)
			return false;
		if (pfd.revents & events)
			return true;
		usleep(10000);
	}
	return false;
}

/* What is in the pipe goes to the port, as far as its queue takes it. */
static size_t send_to_port(int rd, int out, size_t len)
{
	size_t done = 0;
	ssize_t n;

	if (!wait_for_port(out, POLLOUT))
		return 0;
	while (done < len) {
		n = splice(rd, NULL, out, NULL, len - done, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
		if (n <= 0)
			break;
		done += n;
	}
	return done;
}

static size_t receive_from_port(int in, unsigned char *buf, size_t len)
{
	size_t done = 0;

	while (done < len && wait_for_port(in, POLLIN)) {
		ssize_t n = read(in, buf + done, len - done);

		if (n > 0)
			done += n;
	}
	return done;
}

/* Assert that a port sends no byte that the target writes later. */
TEST_F_TIMEOUT(port, later_writes_are_not_sent, TIMEOUT)
{
	struct iovec iov = { self->mem, self->size };
	uint64_t frame = page_frame(self->pid, self->mem);
	ssize_t inserted;
	size_t sent;

	if (self->out < 0 || self->in < 0)
		SKIP(return, "no virtio ports " PORT_NAME "{out,in}, or not root");
	if (variant->huge && !huge_bytes(self->pid, self->mem, self->size))
		SKIP(return, "no huge page");
	ASSERT_LE(0, fcntl(self->wr, F_SETPIPE_SZ, self->size));
	inserted = pvm(self->pid, self->wr, &iov, 1, variant->flags);
	ASSERT_EQ((ssize_t)self->size, inserted);
	sent = send_to_port(self->rd, self->out, inserted);
	ASSERT_LT(0U, sent) {
		TH_LOG("has the host opened the port?");
	}
	/* The host has taken some of it, and more waits in the queue. */
	ASSERT_LT(64 * page_size, sent);

	TELL(WRITE_NEW, 0, self->size);
	ASSERT_EQ(sent, receive_from_port(self->in, self->buf, sent));
	EXPECT_EQ(sent, differs(self->buf, 0, sent, OLD_BYTES));
	if (frame)
		EXPECT_EQ(frame, page_frame(self->pid, self->mem));
}

PVM_HARNESS_MAIN
