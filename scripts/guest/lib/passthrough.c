// SPDX-License-Identifier: GPL-2.0
/*
 * passthrough DIRECTORY MOUNTPOINT - a FUSE file system that shows another directory
 *
 * It hands libfuse file descriptors, not data, so that this goes through splice()
 * in both directions, and the headers of replies through vmsplice(). When it is
 * unmounted, it prints how often libfuse called these.
 */
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int root;
static unsigned long vmsplices, short_vmsplices, splices;

/* Linked with --wrap=vmsplice,--wrap=splice. */
ssize_t __real_vmsplice(int fd, const struct iovec *iov, size_t nr, unsigned int flags);
ssize_t __wrap_vmsplice(int fd, const struct iovec *iov, size_t nr, unsigned int flags);
ssize_t __real_splice(int in, off_t *off_in, int out, off_t *off_out, size_t len,
		      unsigned int flags);
ssize_t __wrap_splice(int in, off_t *off_in, int out, off_t *off_out, size_t len,
		      unsigned int flags);

ssize_t __wrap_vmsplice(int fd, const struct iovec *iov, size_t nr, unsigned int flags)
{
	ssize_t ret = __real_vmsplice(fd, iov, nr, flags), want = 0;

	for (size_t i = 0; i < nr; i++)
		want += iov[i].iov_len;
	__atomic_add_fetch(&vmsplices, 1, __ATOMIC_RELAXED);
	if (ret != want)
		__atomic_add_fetch(&short_vmsplices, 1, __ATOMIC_RELAXED);
	return ret;
}

ssize_t __wrap_splice(int in, off_t *off_in, int out, off_t *off_out, size_t len,
		      unsigned int flags)
{
	__atomic_add_fetch(&splices, 1, __ATOMIC_RELAXED);
	return __real_splice(in, off_in, out, off_out, len, flags);
}

static const char *below(const char *path)
{
	return path[1] ? path + 1 : ".";
}

static int pt_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	return fstatat(root, below(path), st, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static int pt_open(const char *path, struct fuse_file_info *fi)
{
	int fd = openat(root, below(path), fi->flags & ~O_NOFOLLOW);

	if (fd < 0)
		return -errno;
	fi->fh = fd;
	return 0;
}

static int pt_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
	int fd = openat(root, below(path), fi->flags | O_CREAT, mode);

	if (fd < 0)
		return -errno;
	fi->fh = fd;
	return 0;
}

static int pt_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
	int fd = openat(root, below(path), O_WRONLY), ret;

	if (fd < 0)
		return -errno;
	ret = ftruncate(fd, size) ? -errno : 0;
	close(fd);
	return ret;
}

static int pt_read_buf(const char *path, struct fuse_bufvec **bufp, size_t size,
		       off_t off, struct fuse_file_info *fi)
{
	struct fuse_bufvec *buf = malloc(sizeof(*buf));

	if (!buf)
		return -ENOMEM;
	*buf = FUSE_BUFVEC_INIT(size);
	buf->buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	buf->buf[0].fd = fi->fh;
	buf->buf[0].pos = off;
	*bufp = buf;
	return 0;
}

static int pt_write_buf(const char *path, struct fuse_bufvec *from, off_t off,
			struct fuse_file_info *fi)
{
	struct fuse_bufvec to = FUSE_BUFVEC_INIT(fuse_buf_size(from));

	to.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	to.buf[0].fd = fi->fh;
	to.buf[0].pos = off;
	return fuse_buf_copy(&to, from, FUSE_BUF_SPLICE_NONBLOCK);
}

static int pt_release(const char *path, struct fuse_file_info *fi)
{
	close(fi->fh);
	return 0;
}

static void *pt_init(struct fuse_conn_info *conn, struct fuse_config *cfg)
{
	conn->want |= conn->capable & (FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
				       FUSE_CAP_SPLICE_MOVE);
	/* Or the kernel answers from its own cache. */
	cfg->direct_io = getenv("DIRECT_IO") != NULL;
	return NULL;
}

static void pt_destroy(void *data)
{
	printf("passthrough: %lu vmsplices, %lu of them short, %lu splices\n", vmsplices,
	       short_vmsplices, splices);
	fflush(stdout);
}

static const struct fuse_operations operations = {
	.getattr	= pt_getattr,
	.open		= pt_open,
	.create		= pt_create,
	.truncate	= pt_truncate,
	.read_buf	= pt_read_buf,
	.write_buf	= pt_write_buf,
	.release	= pt_release,
	.init		= pt_init,
	.destroy	= pt_destroy,
};

int main(int argc, char **argv)
{
	char *args[] = { argv[0], "-f", argc == 3 ? argv[2] : NULL, NULL };

	if (argc != 3) {
		fprintf(stderr, "usage: passthrough DIRECTORY MOUNTPOINT\n");
		return 2;
	}
	root = open(argv[1], O_PATH | O_DIRECTORY);
	if (root < 0) {
		perror(argv[1]);
		return 1;
	}
	return fuse_main(3, args, &operations, NULL);
}
