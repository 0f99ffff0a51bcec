/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A thread of the test is a FUSE server, in the raw protocol. Its only file is
 * the root of the mount; what it replies to a read is the test's.
 */
#ifndef PVM_FUSE_H
#define PVM_FUSE_H

#include <linux/fuse.h>
#include <sys/mount.h>
#include "pvm_test.h"

static struct fuse_server {
	pthread_t thread;
	char path[128];		/* of the mount */
	int dev;
	uint32_t open_flags;
	uint64_t size;		/* of the file */
	uint64_t attr_valid;	/* seconds */
	void (*reply_to_read)(const struct fuse_in_header *in);
} fuse;

/*
 * Whoever waits for a killed FUSE server can't be killed itself, if both are
 * threads of a process: it has the device open. The mount is in the process's
 * namespace.
 */
static void undo_fuse(const struct change *c)
{
	pid_t pid = fork();
	char path[96];

	if (pid) {
		waitpid(pid, NULL, 0);
		return;
	}
	snprintf(path, sizeof(path), "/proc/%s/ns/mnt", c->was);
	if (!setns(open(path, O_RDONLY), CLONE_NEWNS))
		umount2(c->what, MNT_FORCE | MNT_DETACH);
	_exit(0);
}

static void note_fuse(const char *path)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", getpid());
	note_change(undo_fuse, path, pid);
}

static void reply(uint64_t unique, int error, const void *data, size_t len)
{
	struct fuse_out_header header = {
		.len = sizeof(header) + len, .error = error, .unique = unique,
	};
	struct iovec iov[] = {
		{ &header, sizeof(header) }, { (void *)data, len },
	};

	/* The one that waited for it may be gone. */
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
		.attr_valid = fuse.attr_valid,
		.attr = {
			.ino = 1, .size = fuse.size, .nlink = 1,
			.mode = S_IFREG | 0444, .blksize = page_size,
		},
	};

	reply(in->unique, 0, &out, sizeof(out));
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
		fuse.reply_to_read(in);
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

	snprintf(fuse.path, sizeof(fuse.path), "%s", scratch_path("fuse"));
	snprintf(options, sizeof(options), "fd=%d,rootmode=100444,user_id=0,group_id=0",
		 fuse.dev);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return false;
	fd = open(fuse.path, O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		return false;
	close(fd);
	note_fuse(fuse.path);
	return !mount("process_vmsplice", fuse.path, "fuse", MS_NODEV | MS_NOSUID, options);
}

/* Why it can't be had, or NULL. */
static const char *start_fuse(void)
{
	if (geteuid())
		return "needs root, to mount";
	fuse.dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse.dev < 0)
		return "no /dev/fuse";
	if (!mount_fuse())
		return "no FUSE file system can be mounted";
	return pthread_create(&fuse.thread, NULL, server_main, NULL) ? "no thread" : NULL;
}

/* When nobody has the file any more, the server reads the end of its device. */
static void stop_fuse(void)
{
	if (!fuse.thread)
		return;
	umount2(fuse.path, MNT_DETACH);
	pthread_join(fuse.thread, NULL);
	fuse.thread = 0;
	unlink(fuse.path);
}

#endif
