// SPDX-License-Identifier: GPL-2.0
/*
 * pvmdump - dump the memory of a live process with process_vmsplice()
 *
 * The pages go from the process into a pipe and from there, with splice(), to a file,
 * to standard output or to a TCP connection; no byte of them is ever in this program.
 *
 * The image is the data, then an index as text, then a last line of 31 bytes that says
 * where the index starts. All numbers are hexadecimal. The index has the lines
 *	M start end perms name		a readable mapping
 *	D start end offset		data of these addresses, at offset of the image
 *	X start end			could not be read
 *	pvmdump-index offset		the last line
 * An image without the last line is not complete.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "memmap.h"

#ifndef __NR_process_vmsplice
#ifdef __alpha__
#define __NR_process_vmsplice 583
#else
#define __NR_process_vmsplice 473
#endif
#endif

#ifndef PROCESS_VMSPLICE_PIDFD
#define PROCESS_VMSPLICE_PIDFD 0x10000U
#endif

/* As many segments as one call takes (UIO_MAXIOV). */
#define MAX_SEGMENTS 1024
/* What an ordinary user may have; fs.pipe-max-size. */
#define PIPE_BYTES 1048576

struct data {
	struct range range;
	unsigned long long offset;
};

/**
 * struct dump - a dump under way
 * @pid: the process, as /proc and messages know it
 * @pidfd: the process; opened before anything is read of it, so that all that is
 *	dumped is of the process whose maps were read
 * @out: where the image goes; anything that splice() can write to
 * @pipe: between the two
 * @offset: bytes written to @out
 * @total: bytes that there are, if nothing vanishes
 * @data: what was dumped, and where it is in the image
 * @unreadable: what was not
 * @calls: how many calls of process_vmsplice() it took
 * @started: for the progress
 * @shown: when progress was shown last, or -1 not to show it
 */
struct dump {
	pid_t pid;
	int pidfd, out, pipe[2];
	unsigned long long offset, total;
	struct data *data;
	size_t nr_data;
	struct ranges unreadable;
	unsigned long calls;
	double started, shown;
};

static ssize_t process_vmsplice(pid_t pid, int fd, const struct iovec *iov,
				unsigned long nr_segs, unsigned int flags)
{
	return syscall(__NR_process_vmsplice, pid, fd, iov, nr_segs, flags);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void show_progress(struct dump *d, bool last)
{
	double t = now(), mib = d->offset / 1048576.0, took = t - d->started;

	if (d->shown < 0 || (!last && t - d->shown < 0.1))
		return;
	d->shown = t;
	fprintf(stderr, "\r%.0f of %.0f MiB, %.0f MiB/s%s", mib,
		d->total / 1048576.0, took > 0 ? mib / took : 0,
		last ? "\n" : "");
}

/* Holding the process. */

static pid_t *threads;
static size_t nr_threads;

static bool is_held(pid_t tid)
{
	for (size_t i = 0; i < nr_threads; i++)
		if (threads[i] == tid)
			return true;
	return false;
}

/*
 * Stop a thread with ptrace: if this program ends, however it does, the kernel lets the
 * thread go on. False if the thread has ended meanwhile.
 */
static bool hold_thread(pid_t tid)
{
	int status;

	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL)) {
		if (errno == ESRCH)
			return false;
		err(EXIT_FAILURE, "can't stop thread %d (is a debugger attached?)",
		    tid);
	}
	/* If that fails, it has ended, which the wait is told. */
	ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
	for (;;) {
		if (waitpid(tid, &status, __WALL) != tid || !WIFSTOPPED(status))
			return false;
		if (status >> 16 == PTRACE_EVENT_STOP)
			break;
		/* A signal came first: the thread takes it when it goes on. */
		ptrace(PTRACE_CONT, tid, NULL, (void *)(long)WSTOPSIG(status));
	}
	threads = reallocarray(threads, nr_threads + 1, sizeof(*threads));
	if (!threads)
		err(EXIT_FAILURE, "out of memory");
	threads[nr_threads++] = tid;
	return true;
}

/* Threads may start others until the last of them is held. */
static void hold_process(pid_t pid)
{
	bool found_more = true;
	struct dirent *entry;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	while (found_more) {
		found_more = false;
		dir = opendir(path);
		if (!dir)
			errx(EXIT_FAILURE, "process %d: no such process", pid);
		while ((entry = readdir(dir))) {
			pid_t tid = parse_pid(entry->d_name);

			if (tid && !is_held(tid) && hold_thread(tid))
				found_more = true;
		}
		closedir(dir);
	}
	if (!nr_threads)
		errx(EXIT_FAILURE, "process %d: no such process", pid);
}

static void release_process(void)
{
	for (size_t i = 0; i < nr_threads; i++)
		ptrace(PTRACE_DETACH, threads[i], NULL, NULL);
	nr_threads = 0;
}

/* The dump itself. */

static void record_data(struct dump *d, unsigned long long start, unsigned long long len)
{
	struct data *last = d->nr_data ? &d->data[d->nr_data - 1] : NULL;

	if (last && last->range.end == start) {
		last->range.end += len;
		return;
	}
	d->data = reallocarray(d->data, d->nr_data + 1, sizeof(*d->data));
	if (!d->data)
		err(EXIT_FAILURE, "out of memory");
	d->data[d->nr_data++] = (struct data){
		.range = { start, start + len }, .offset = d->offset,
	};
}

static void splice_out(struct dump *d, size_t len)
{
	while (len) {
		ssize_t n = splice(d->pipe[0], NULL, d->out, NULL, len,
				   SPLICE_F_MORE);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EINVAL)
			errx(EXIT_FAILURE, "the output does not take splice()");
		if (n <= 0)
			err(EXIT_FAILURE, "can't write the image");
		len -= n;
	}
}

/* Take len bytes off the front of the segments, which hold at least as many. */
static void advance(struct dump *d, struct iovec **iov, size_t *nr, size_t len)
{
	while (len) {
		size_t n = len < (*iov)->iov_len ? len : (*iov)->iov_len;

		record_data(d, (unsigned long)(*iov)->iov_base, n);
		d->offset += n;
		len -= n;
		(*iov)->iov_base = (char *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
		if (!(*iov)->iov_len) {
			(*iov)++;
			(*nr)--;
		}
	}
}

/* The page at the front can't be read: what was there has gone, or never could be. */
static void skip_page(struct dump *d, struct iovec **iov, size_t *nr)
{
	unsigned long long start = (unsigned long)(*iov)->iov_base;
	size_t page = sysconf(_SC_PAGESIZE);
	size_t len = page - start % page;

	if (len > (*iov)->iov_len)
		len = (*iov)->iov_len;
	ranges_add(&d->unreadable, start, start + len);
	(*iov)->iov_base = (char *)(*iov)->iov_base + len;
	(*iov)->iov_len -= len;
	if (!(*iov)->iov_len) {
		(*iov)++;
		(*nr)--;
	}
}

static const char *explain(int error)
{
	switch (error) {
	case ENOSYS:
		return "this kernel has no process_vmsplice()";
	case ESRCH:
	case ENOENT:
		return "no such process";
	case EINVAL:
		return "that is a thread, not a process";
	case EPERM:
	case EACCES:
		return "not permitted: that takes the right to trace it, ptrace(2)";
	default:
		return strerror(error);
	}
}

static void dump_segments(struct dump *d, struct iovec *iov, size_t nr)
{
	while (nr) {
		ssize_t n = process_vmsplice(d->pidfd, d->pipe[1], iov, nr,
					     PROCESS_VMSPLICE_PIDFD);

		d->calls++;
		if (n > 0) {
			advance(d, &iov, &nr, n);
			splice_out(d, n);
		} else if (errno == EFAULT) {
			skip_page(d, &iov, &nr);
		} else if (errno != EINTR) {
			errx(EXIT_FAILURE, "process %d: %s", d->pid,
			     explain(errno));
		}
		show_progress(d, false);
	}
}

static void dump_ranges(struct dump *d, const struct ranges *ranges)
{
	static struct iovec iov[MAX_SEGMENTS];
	size_t nr = 0;

	for (size_t i = 0; i < ranges->nr; i++) {
		const struct range *r = &ranges->at[i];

		if (r->end - 1 > ULONG_MAX)
			errx(EXIT_FAILURE, "a 64-bit process takes a 64-bit pvmdump");
		iov[nr++] = (struct iovec){
			.iov_base = (void *)(unsigned long)r->start,
			.iov_len = r->end - r->start,
		};
		if (nr == MAX_SEGMENTS || i == ranges->nr - 1) {
			dump_segments(d, iov, nr);
			nr = 0;
		}
	}
}

static void write_index(const struct dump *d, const struct memmap *map)
{
	char *text = NULL;
	size_t size = 0, done = 0;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		err(EXIT_FAILURE, "out of memory");
	for (size_t i = 0; i < map->nr_mappings; i++) {
		const struct mapping *m = &map->mappings[i];

		fprintf(f, "M %llx %llx %s %s\n", m->range.start,
			m->range.end, m->perms, m->name);
	}
	for (size_t i = 0; i < d->nr_data; i++)
		fprintf(f, "D %llx %llx %llx\n",
			d->data[i].range.start, d->data[i].range.end,
			d->data[i].offset);
	for (size_t i = 0; i < d->unreadable.nr; i++)
		fprintf(f, "X %llx %llx\n",
			d->unreadable.at[i].start, d->unreadable.at[i].end);
	fprintf(f, "pvmdump-index %016llx\n", d->offset);
	if (fclose(f))
		err(EXIT_FAILURE, "out of memory");
	while (done < size) {
		ssize_t n = write(d->out, text + done, size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			err(EXIT_FAILURE, "can't write the index");
		done += n;
	}
	free(text);
}

/*
 * Shared pages are live until they are read: with a pipe or a connection, the image is
 * what it should be only when the other side has taken all of it. A peer says so by
 * closing the connection.
 */
static void wait_until_taken(int out)
{
	struct pollfd pollfd = { .fd = out };
	char byte;
	int left;

	if (!shutdown(out, SHUT_WR)) {
		while (read(out, &byte, 1) > 0)
			;
		return;
	}
	while (!ioctl(out, FIONREAD, &left) && left) {
		if (poll(&pollfd, 1, 1) > 0 && (pollfd.revents & POLLERR))
			errx(EXIT_FAILURE, "the reader has left");
	}
}

/* HOST:PORT or [ADDRESS]:PORT, or NULL if the name is that of a file. */
static char *split_host(const char *name, const char **port)
{
	const char *colon = strrchr(name, ':');
	size_t len;

	if (!colon || strchr(name, '/') || !colon[1] ||
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

	ret = getaddrinfo(host, port, &hints, &list);
	if (ret)
		errx(EXIT_FAILURE, "%s: %s", host, gai_strerror(ret));
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
	return fd;
}

static int open_output(const char *name)
{
	const char *port;
	char *host;
	int fd;

	if (!strcmp(name, "-")) {
		if (isatty(STDOUT_FILENO))
			errx(EXIT_FAILURE, "standard output is a terminal");
		return STDOUT_FILENO;
	}
	host = split_host(name, &port);
	if (host) {
		fd = connect_to(host, port);
		free(host);
		return fd;
	}
	/* Memory is as private as the process. */
	fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		err(EXIT_FAILURE, "%s", name);
	return fd;
}

static void open_pipe(struct dump *d)
{
	if (pipe2(d->pipe, O_CLOEXEC))
		err(EXIT_FAILURE, "pipe");
	/* If that is not allowed, it just takes more calls. */
	fcntl(d->pipe[1], F_SETPIPE_SZ, PIPE_BYTES);
}

static void report(const struct dump *d, const struct memmap *map)
{
	fprintf(stderr, "pvmdump: %zu mappings, %llu bytes in %zu ranges, %lu calls, %.3f s\n",
		map->nr_mappings, d->offset, d->nr_data, d->calls,
		now() - d->started);
	if (map->has_pagemap) {
		fprintf(stderr, "pvmdump: shared, the process's own: %llu bytes\n",
			map->exclusive);
		fprintf(stderr, "pvmdump: copied, others' too: %llu bytes\n",
			map->bytes - map->exclusive);
	} else {
		fprintf(stderr, "pvmdump: no pagemap: pages never touched are in the image, too\n");
	}
	for (size_t i = 0; i < d->unreadable.nr; i++)
		fprintf(stderr, "pvmdump: could not be read: %llx-%llx\n",
			d->unreadable.at[i].start, d->unreadable.at[i].end);
}

static void usage(FILE *f)
{
	fputs("Usage: pvmdump [--stop] [--quiet] PID FILE|-|HOST:PORT\n"
	      "\n"
	      "Writes an image of the readable memory of a process, with an index at its end.\n"
	      "  -s, --stop   hold the process until the image has been taken by whom it goes\n"
	      "               to, so that it is consistent\n"
	      "  -q, --quiet  no summary and no progress\n"
	      "  -h, --help   this text\n", f);
}

static void dump(struct dump *d, bool stop, bool quiet)
{
	struct memmap map;
	int ret;

	if (stop)
		hold_process(d->pid);
	d->started = now();
	ret = memmap_read(&map, d->pid);
	if (ret)
		errx(EXIT_FAILURE, "process %d: %s", d->pid, explain(-ret));
	if (!map.nr_mappings)
		errx(EXIT_FAILURE, "process %d has no memory: a kernel thread or a zombie",
		     d->pid);
	d->total = map.bytes;
	dump_ranges(d, &map.touched);
	show_progress(d, true);
	write_index(d, &map);
	if (stop) {
		wait_until_taken(d->out);
		release_process();
	}
	if (!quiet)
		report(d, &map);
	memmap_free(&map);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "stop", no_argument, NULL, 's' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	bool stop = false, quiet = false;
	struct dump d = { .shown = -1 };
	int opt;

	while ((opt = getopt_long(argc, argv, "sqh", options, NULL)) != -1) {
		switch (opt) {
		case 's':
			stop = true;
			break;
		case 'q':
			quiet = true;
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (argc - optind != 2) {
		usage(stderr);
		return 2;
	}
	d.pid = parse_pid(argv[optind]);
	if (!d.pid)
		errx(2, "not a process id: %s", argv[optind]);
	/* Without segments, the call only says whether there is one. */
	if (process_vmsplice(0, -1, NULL, 0, PROCESS_VMSPLICE_PIDFD))
		errx(EXIT_FAILURE, "%s", explain(errno));
	if (d.pid == getpid())
		stop = false;
	d.pidfd = syscall(SYS_pidfd_open, d.pid, 0);
	if (d.pidfd < 0)
		errx(EXIT_FAILURE, "process %d: %s", d.pid, explain(errno));
	open_pipe(&d);
	d.out = open_output(argv[optind + 1]);
	if (!quiet && isatty(STDERR_FILENO))
		d.shown = 0;
	dump(&d, stop, quiet);
	if (close(d.out))
		err(EXIT_FAILURE, "can't write the image");
	return 0;
}
