// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pvmdump.h"

/* For signal handlers and atexit(). */
static char *unfinished;

void output_abandon(void)
{
	if (unfinished)
		unlink(unfinished);
}

static void die_by(int signal)
{
	let_go();
	output_abandon();
	raise(signal);
}

static void remove_at_end(void)
{
	static const int signals[] = {
		SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGALRM, SIGUSR1, SIGUSR2, SIGXCPU,
		SIGVTALRM, SIGPROF, SIGIO, SIGPWR,
	};
	struct sigaction old;
	struct sigaction action = { .sa_handler = die_by, .sa_flags = SA_RESETHAND | SA_NODEFER };

	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		if (!sigaction(signals[i], NULL, &old) && old.sa_handler != SIG_IGN)
			sigaction(signals[i], &action, NULL);
	atexit(output_abandon);
}

/* HOST:PORT or [ADDRESS]:PORT, or NULL if the name is that of a file. */
static char *split_host(const char *name, const char **port)
{
	const char *colon = strrchr(name, ':');
	size_t len;

	if (!colon || strchr(name, '/') || !colon[1] || !access(name, F_OK) ||
	    strspn(colon + 1, "0123456789") != strlen(colon + 1))
		return NULL;
	*port = colon + 1;
	len = colon - name;
	if (len > 1 && name[0] == '[' && colon[-1] == ']') {
		name++;
		len -= 2;
	}
	return strndup(name, len);
}

static int connect_to(const char *host, const char *port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list, *a;
	int ret, fd = -1;

	/* getaddrinfo() would take the lower 16 bits. */
	if (strtoul(port, NULL, 10) > 65535)
		errx(EXIT_FAILURE, "there is no port %s", port);
	ret = getaddrinfo(host, port, &hints, &list);
	if (ret)
		errx(EXIT_FAILURE, "host %s: %s (a file of that name is ./%s:%s)", host,
		     gai_strerror(ret), host, port);
	for (a = list; a && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, 0);
		if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen)) {
			ret = errno;
			close(fd);
			errno = ret;
			fd = -1;
		}
	}
	if (fd < 0)
		err(EXIT_FAILURE, "can't connect to %s, port %s", host, port);
	freeaddrinfo(list);
	/* A peer that loses its power when all is sent would have the process held for good. */
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){ 1 }, sizeof(int));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){ 30 }, sizeof(int));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){ 10 }, sizeof(int));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &(int){ 3 }, sizeof(int));
	return fd;
}

/* The name that the file gets: a link stays one, and what it leads to is replaced. */
static char *find_name(const char *name)
{
	struct stat wanted, found;
	char *path;

	if (lstat(name, &found) && errno == ENOENT)
		return strdup(name);
	path = realpath(name, NULL);
	if (!path && errno != ENOENT)
		err(EXIT_FAILURE, "%s", name);
	/* Those of /proc lead to open files, also if these are at no path, or not at theirs. */
	if (!path || stat(name, &wanted) || stat(path, &found) ||
	    found.st_dev != wanted.st_dev || found.st_ino != wanted.st_ino)
		errx(EXIT_FAILURE, "%s: a link to a file that is not there, or not at that path any more",
		     name);
	return path;
}

/* As much of a path as leaves room for the seven bytes that mkstemp() wants. */
static int short_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	size_t start = slash ? slash + 1 - path : 0, max = start + NAME_MAX - 7;

	return strlen(path) < max ? strlen(path) : max;
}

/* A file that a container is given: rename() would fail, when all is done. */
static bool is_mount_point(const char *name)
{
	struct statx st;

	return !statx(AT_FDCWD, name, 0, 0, &st) &&
	       (st.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

/* Memory is as private as the process: mkstemp() gives it the mode 0600. */
static int open_beside(struct output *out, const char *name)
{
	int fd;

	if (is_mount_point(name))
		errx(EXIT_FAILURE, "%s: a mount point, which can't be replaced: write to - instead, with >%s",
		     name, name);
	out->name = find_name(name);
	if (!out->name || asprintf(&out->temp, "%.*s.XXXXXX", short_name(out->name), out->name) < 0)
		err(EXIT_FAILURE, "out of memory");
	remove_at_end();
	umask(077);
	fd = mkstemp(out->temp);
	if (fd < 0)
		err(EXIT_FAILURE, "%s: can't make a file beside it", name);
	unfinished = out->temp;
	return fd;
}

static int open_output(struct output *out, const char *name)
{
	const char *port;
	struct stat st;
	char *host;
	int fd;

	/* To open that would forget the offset, or O_APPEND. */
	if (!strcmp(name, "-") || !strcmp(name, "/dev/stdout")) {
		fd = fcntl(STDOUT_FILENO, F_GETFL);
		if (fd < 0 || (fd & O_ACCMODE) == O_RDONLY)
			errx(EXIT_FAILURE, "standard output is closed, or can't be written to");
		return STDOUT_FILENO;
	}
	if (!*name)
		errx(EXIT_FAILURE, "the name of the output is empty");
	host = split_host(name, &port);
	if (host) {
		fd = connect_to(host, port);
		free(host);
		return fd;
	}
	if (stat(name, &st) || S_ISREG(st.st_mode))
		return open_beside(out, name);
	/* With O_CREAT, fs.protected_fifos counts. */
	fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		err(EXIT_FAILURE, "%s", name);
	return fd;
}

void output_open(struct output *out, const char *name)
{
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	out->fd = open_output(out, name);
	if (isatty(out->fd))
		errx(EXIT_FAILURE, "the output is a terminal");
}

/* After a failure: returns to try again, or ends the program. */
static void try_again(const struct output *out)
{
	struct pollfd pollfd = { .fd = out->fd, .events = POLLOUT };

	if (errno == EPIPE)
		errx(EXIT_FAILURE, "can't write the core file: the reader has left");
	if (errno != EINTR && errno != EAGAIN)
		err(EXIT_FAILURE, "can't write the core file");
	/* Others, who share the output, may have made it non-blocking. */
	if (errno == EAGAIN)
		poll(&pollfd, 1, -1);
}

void output_write(struct output *out, const void *data, size_t len)
{
	while (len) {
		ssize_t n = write(out->fd, data, len);

		if (n < 0) {
			try_again(out);
			continue;
		}
		data = (const char *)data + n;
		len -= n;
		out->offset += n;
	}
}

/* Only a new file has a hole where nothing is written. */
void output_zeroes(struct output *out, size_t len)
{
	static const char zeroes[65536];

	if (out->temp && lseek(out->fd, len, SEEK_CUR) >= 0) {
		out->offset += len;
		return;
	}
	while (len) {
		size_t n = len < sizeof(zeroes) ? len : sizeof(zeroes);

		output_write(out, zeroes, n);
		len -= n;
	}
}

/* Files that are appended to and some devices do not take splice(). */
static size_t copy_out(struct output *out, int pipe, size_t len)
{
	static char data[65536];
	ssize_t n = read(pipe, data, len < sizeof(data) ? len : sizeof(data));

	if (n < 0)
		err(EXIT_FAILURE, "can't read the pipe");
	output_write(out, data, n);
	return n;
}

/*
 * One that has closed its side will not say when it has taken all: then, pages must not
 * be shared with the process in its queue, which may be on this machine.
 */
static bool is_half_closed(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLRDHUP };

	return poll(&pollfd, 1, 0) > 0 && (pollfd.revents & POLLRDHUP);
}

void output_splice(struct output *out, int pipe, size_t len)
{
	out->copy |= is_half_closed(out->fd);
	while (len) {
		ssize_t n = out->copy ? (ssize_t)copy_out(out, pipe, len) :
			    splice(pipe, NULL, out->fd, NULL, len, SPLICE_F_MORE);

		if (n < 0 && errno == EINVAL)
			out->copy = true;
		else if (n < 0)
			try_again(out);
		else if (!n)
			errx(EXIT_FAILURE, "the output takes no more");
		else
			len -= n;
		if (n > 0 && !out->copy)
			out->offset += n;
	}
}

/* Until the peer's kernel has all; of AF_UNIX, until the peer has. */
static void wait_for_queue(int fd)
{
	int left, error = 0;
	socklen_t len = sizeof(error);

	while (!ioctl(fd, SIOCOUTQ, &left) && left && !error) {
		poll(NULL, 0, 1);
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
	}
	if (!error)
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
	errno = error;
	if (error)
		err(EXIT_FAILURE, "the peer has not taken all of it");
}

static bool is_local(int fd)
{
	int domain;
	socklen_t len = sizeof(domain);

	return !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) && domain == AF_UNIX;
}

/*
 * A peer says that it has taken all by closing the connection; with a reset, if it has
 * not. But it may have said early that it has nothing to send.
 */
static void wait_for_peer(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	char byte;
	ssize_t n;

	while ((n = read(fd, &byte, 1)) > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
		poll(&pollfd, 1, -1);
	if (n < 0)
		err(EXIT_FAILURE, "the peer has not taken all of it");
	wait_for_queue(fd);
}

static void wait_for_reader(int fd)
{
	struct pollfd pollfd = { .fd = fd };
	struct stat st;
	int left;

	/* Of a regular file, it is what follows the offset. */
	if (fstat(fd, &st) || !S_ISFIFO(st.st_mode))
		return;
	while (!ioctl(fd, FIONREAD, &left) && left) {
		/* It may have taken the last of it, and left, in between. */
		if (poll(&pollfd, 1, 1) > 0 && (pollfd.revents & POLLERR) &&
		    !ioctl(fd, FIONREAD, &left) && left)
			errx(EXIT_FAILURE, "the reader has left before it had taken all of it");
	}
}

/* Shared pages are live until they are read. */
void output_finish(struct output *out)
{
	if (is_local(out->fd)) {
		shutdown(out->fd, SHUT_WR);
		wait_for_queue(out->fd);
	} else if (!shutdown(out->fd, SHUT_WR)) {
		wait_for_peer(out->fd);
	} else if (errno == ENOTSOCK) {
		wait_for_reader(out->fd);
	} else {
		err(EXIT_FAILURE, "the peer has not taken all of it");
	}
}

void output_close(struct output *out)
{
	/* It replaces an older one only when it is on the disk. */
	if (out->temp && (ftruncate(out->fd, out->offset) || fsync(out->fd)))
		err(EXIT_FAILURE, "%s", out->temp);
	if (close(out->fd))
		err(EXIT_FAILURE, "can't write the core file");
	if (out->temp && rename(out->temp, out->name))
		err(EXIT_FAILURE, "%s", out->name);
	unfinished = NULL;
}
