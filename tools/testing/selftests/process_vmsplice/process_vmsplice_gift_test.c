// SPDX-License-Identifier: GPL-2.0
/*
 * SPLICE_F_GIFT of process_vmsplice(): a consumer that takes pages out of a pipe for
 * its own takes none that the target still maps. There are two such consumers: FUSE,
 * for the page cache of its files, and the ports of virtio-console, for what is on its
 * way to the host.
 *
 * A thread of the test is the FUSE server, in the raw protocol. Its only file is the
 * root of the mount, and has one page: one that the target has given. What the file
 * shows and what the target has stay apart.
 *
 * The guest of vmtest.sh has two ports, known by their names, and what goes out at the
 * first comes in at the second. While nobody reads there, pages wait in the queue of the
 * first.
 */
#define _GNU_SOURCE
#include <glob.h>
#include <linux/fuse.h>
#include <sys/mount.h>
#include "pvm_test.h"

#define PM_PFN ((1ULL << 55) - 1)

enum backing { ANON, MEMFD };

struct server {
	pthread_t thread;
	char path[80];		/* of the mount */
	int dev, file, rd, wr;
	pid_t pid;
	int ctl;
	struct iovec given;
	bool unmaps;		/* the target, what it has given */
	int reads;
	ssize_t placed, replied;
};

FIXTURE(gift)
{
	TARGET_MEMBERS;
	struct server server;
};

FIXTURE_VARIANT(gift)
{
	enum backing backing;
	bool unmaps;
};

FIXTURE_VARIANT_ADD(gift, mapped) { .backing = ANON };
FIXTURE_VARIANT_ADD(gift, unmapped) { .backing = ANON, .unmaps = true };
/* A page that is copied is the pipe's, but was not given. */
FIXTURE_VARIANT_ADD(gift, copied) { .backing = MEMFD };
FIXTURE_VARIANT_ADD(gift, copied_and_unmapped) { .backing = MEMFD, .unmaps = true };

static void reply(const struct server *s, uint64_t unique, int error,
		  const void *data, size_t len)
{
	struct fuse_out_header header = {
		.len = sizeof(header) + len, .error = error, .unique = unique,
	};
	struct iovec iov[] = {
		{ &header, sizeof(header) }, { (void *)data, len },
	};

	/* There may be nobody any more who waits for it. */
	if (writev(s->dev, iov, ARRAY_SIZE(iov)) < 0 && errno != ENOENT)
		perror("FUSE");
}

static void reply_to_init(const struct server *s, const struct fuse_in_header *in)
{
	const struct fuse_init_in *init = (const void *)(in + 1);
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		/* Only what is read ahead is put in place of the cache's pages. */
		.max_readahead = init->max_readahead,
		.max_write = page_size,
	};

	reply(s, in->unique, 0, &out, sizeof(out));
}

static void reply_to_getattr(const struct server *s, const struct fuse_in_header *in)
{
	struct fuse_attr_out out = {
		.attr_valid = 3600,
		.attr = {
			.ino = 1, .size = page_size, .nlink = 1,
			.mode = S_IFREG | 0444, .blksize = page_size,
		},
	};

	reply(s, in->unique, 0, &out, sizeof(out));
}

/* The page goes from the target to the file without a copy in the server. */
static void reply_to_read(struct server *s, const struct fuse_in_header *in)
{
	struct fuse_out_header header = {
		.len = sizeof(header) + page_size, .unique = in->unique,
	};

	s->reads++;
	if (write(s->wr, &header, sizeof(header)) != sizeof(header))
		return;
	s->placed = pvm(s->pid, s->wr, &s->given, 1, SPLICE_F_GIFT);
	if (s->placed == (ssize_t)page_size && s->unmaps)
		command(s->ctl, 'u', 0, page_size);
	if (s->placed == (ssize_t)page_size)
		s->replied = splice(s->rd, NULL, s->dev, NULL, header.len, SPLICE_F_MOVE);
	/* Then the reader must not wait for the data. */
	if (s->replied != (ssize_t)header.len)
		reply(s, in->unique, -EIO, NULL, 0);
}

static void handle(struct server *s, const struct fuse_in_header *in)
{
	struct fuse_open_out opened = {};

	switch (in->opcode) {
	case FUSE_INIT:
		reply_to_init(s, in);
		break;
	case FUSE_GETATTR:
		reply_to_getattr(s, in);
		break;
	case FUSE_OPEN:
		reply(s, in->unique, 0, &opened, sizeof(opened));
		break;
	case FUSE_READ:
		reply_to_read(s, in);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		reply(s, in->unique, -ENOSYS, NULL, 0);
	}
}

/* Until the file system is unmounted. */
static void *server_main(void *arg)
{
	struct server *s = arg;
	size_t size = FUSE_MIN_READ_BUFFER + page_size;
	struct fuse_in_header *in = malloc(size);

	while (read(s->dev, in, size) > 0)
		handle(s, in);
	free(in);
	return NULL;
}

/* In a mount namespace of the test's own, which ends with it. */
static bool mount_fuse(int dev, char *path, size_t size)
{
	char options[96];
	int fd;

	scratch_path(path, size, "fuse.XXXXXX");
	snprintf(options, sizeof(options), "fd=%d,rootmode=100444,user_id=0,group_id=0", dev);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return false;
	fd = mkstemp(path);
	if (fd < 0)
		return false;
	close(fd);
	note_fuse(path);
	return !mount("process_vmsplice", path, "fuse", MS_NODEV | MS_NOSUID, options);
}

static void *map_backing(enum backing backing, size_t size)
{
	int prot = PROT_READ | PROT_WRITE, fd;

	if (backing == ANON)
		return mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fd = memfd_create("backing", 0);
	if (fd < 0 || ftruncate(fd, size))
		return MAP_FAILED;
	return mmap(NULL, size, prot, MAP_SHARED, fd, 0);
}

FIXTURE_SETUP(gift)
{
	struct server *s = &self->server;

	if (geteuid())
		SKIP(return, "needs root, to mount");
	s->dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (s->dev < 0)
		SKIP(return, "no /dev/fuse");
	self->size = 2 * page_size;
	self->mem = map_backing(variant->backing, self->size);
	ASSERT_TRUE(self->mem != MAP_FAILED);
	madvise(self->mem, self->size, MADV_NOHUGEPAGE);
	START_TARGET();
	ASSERT_TRUE(command(self->ctl, 'f', 0, self->size));

	s->rd = self->rd;
	s->wr = self->wr;
	s->pid = self->pid;
	s->ctl = self->ctl;
	s->given = (struct iovec){ self->mem, page_size };
	s->unmaps = variant->unmaps;
	ASSERT_TRUE(mount_fuse(s->dev, s->path, sizeof(s->path)));
	ASSERT_EQ(0, pthread_create(&s->thread, NULL, server_main, s));
	s->file = open(s->path, O_RDONLY);
	ASSERT_LE(0, s->file);
}

/* When nobody has the file any more, the server reads the end of its device. */
static void stop_server(struct server *s)
{
	if (s->file < 0)
		return;
	close(s->file);
	s->file = -1;
	umount2(s->path, MNT_DETACH);
	pthread_join(s->thread, NULL);
	unlink(s->path);
}

FIXTURE_TEARDOWN(gift)
{
	stop_server(&self->server);
}

/* The bytes of the file, or of the target, are those of the seed. */
#define EXPECT_FILE(seed) do {								\
	ASSERT_EQ((ssize_t)page_size, pread(self->server.file, self->buf, page_size, 0));	\
	EXPECT_EQ(page_size, differs(self->buf, 0, page_size, seed));			\
} while (0)

#define EXPECT_TARGET(seed) do {							\
	struct iovec _local = { self->buf, page_size };				\
	struct iovec _remote = { self->mem, page_size };				\
											\
	ASSERT_EQ((ssize_t)page_size,							\
		  process_vm_readv(self->pid, &_local, 1, &_remote, 1, 0));		\
	EXPECT_EQ(page_size, differs(self->buf, 0, page_size, seed));			\
} while (0)

static uint64_t page_frame(pid_t pid, const void *addr)
{
	uint64_t entry = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY);
	if (pread(fd, &entry, sizeof(entry), (uintptr_t)addr / page_size * sizeof(entry)) !=
	    sizeof(entry))
		entry = 0;
	close(fd);
	return entry & PM_PFN;
}

/* The page of the file in the cache. */
static uint64_t file_frame(int fd)
{
	volatile unsigned char *map = mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, 0);
	uint64_t frame;

	if (map == MAP_FAILED)
		return 0;
	(void)map[0];
	frame = page_frame(getpid(), (void *)map);
	munmap((void *)map, page_size);
	return frame;
}

TEST_F_TIMEOUT(gift, file_is_apart, TIMEOUT)
{
	uint64_t frame;

	EXPECT_FILE(0);
	if (!variant->unmaps) {
		EXPECT_TARGET(0);
		frame = file_frame(self->server.file);
		EXPECT_NE((uint64_t)0, frame);
		EXPECT_NE(frame, page_frame(self->pid, self->mem));
		ASSERT_TRUE(command(self->ctl, 'w', 0, page_size));
		EXPECT_FILE(0);
		EXPECT_TARGET(1);
	}
	/* Nor is the page of the file freed when those of the target are. */
	ASSERT_FALSE(command(self->ctl, 'z', 0, 0));
	wait_for_state(self->pid, 'Z');
	EXPECT_FILE(0);

	stop_server(&self->server);
	/* What was read more than once came out of the cache. */
	EXPECT_EQ(1, self->server.reads);
	EXPECT_EQ((ssize_t)page_size, self->server.placed);
	EXPECT_EQ((ssize_t)(sizeof(struct fuse_out_header) + page_size), self->server.replied);
}

FIXTURE(port)
{
	TARGET_MEMBERS;
	int in, out;
};

FIXTURE_VARIANT(port)
{
	unsigned int flags;
	bool huge;
};

FIXTURE_VARIANT_ADD(port, given) { .flags = SPLICE_F_GIFT };
FIXTURE_VARIANT_ADD(port, lent) { .flags = 0 };
/* In one buffer, of which the port maps only a page at a time. */
FIXTURE_VARIANT_ADD(port, huge_page) { .flags = 0, .huge = true };

/* Others' ports lead to who knows whom: a guest's agent, say. */
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
	unsigned char *map;

	self->size = align > NR_PAGES * page_size ? align : NR_PAGES * page_size;
	map = mmap(NULL, self->size + align, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_TRUE(map != MAP_FAILED);
	self->mem = map;
	if (align)
		self->mem += align - (uintptr_t)map % align;
	START_TARGET();
	if (variant->huge)
		command(self->ctl, 'h', 0, self->size);
	ASSERT_TRUE(command(self->ctl, 'f', 0, self->size));
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

TEST_F_TIMEOUT(port, later_writes_are_not_sent, TIMEOUT)
{
	struct iovec iov = { self->mem, self->size };
	uint64_t frame = page_frame(self->pid, self->mem);
	ssize_t placed;
	size_t sent;

	if (self->out < 0 || self->in < 0)
		SKIP(return, "no virtio ports " PORT_NAME "{out,in}, or not root");
	if (variant->huge && !has_huge_page(self->pid, self->mem))
		SKIP(return, "no huge page");
	ASSERT_LE(0, fcntl(self->wr, F_SETPIPE_SZ, self->size));
	placed = pvm(self->pid, self->wr, &iov, 1, variant->flags);
	ASSERT_EQ((ssize_t)self->size, placed);
	sent = send_to_port(self->rd, self->out, placed);
	ASSERT_LT(0U, sent) {
		TH_LOG("has the host opened the port?");
	}
	/* Some of it was taken by the host, and more waits in the queue. */
	ASSERT_LT(64 * page_size, sent);

	ASSERT_TRUE(command(self->ctl, 'w', 0, self->size));
	ASSERT_EQ(sent, receive_from_port(self->in, self->buf, sent));
	EXPECT_EQ(sent, differs(self->buf, 0, sent, 0));
	if (frame)
		EXPECT_EQ(frame, page_frame(self->pid, self->mem));
}

SUPERVISED_HARNESS_MAIN
