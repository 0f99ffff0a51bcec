// SPDX-License-Identifier: GPL-2.0
/*
 * pvmdump - write a core file of a live process with process_vmsplice()
 *
 * The memory goes from the process into a pipe and from there, with splice(), to a file,
 * to standard output or to a TCP connection; no byte of it is ever in this program, but
 * for what the process itself may not read, which only /proc/PID/mem gives.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "pvmdump.h"

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

/* What an ordinary user may have, fs.pipe-max-size, and its slots: no call takes more. */
#define PIPE_BYTES 1048576
#define MAX_SEGMENTS 256
#define MAX_BYTES (1UL << 30)

#define END_HOLDER (SIGRTMIN + 1)

/**
 * struct dump - a dump under way
 * @pid: the process
 * @tid: a thread of it that has not ended
 * @id: what the calls know that by, as @flags say: a pidfd, or @tid
 * @mem: its /proc/TID/mem, opened before anything is read of it: belongs to its memory
 *	as it was then, and ends when the process does, or becomes another program
 * @pagemap: the same, or -1 if the kernel has none
 * @pipe: between the process and the output
 * @copy: with process_vm_readv()
 * @at: how far it is in the content, of which @next is the range under way
 * @lost: what could not be read
 * @calls: how many calls it took; @hidden: how many bytes came from @mem
 * @tries: of finding a thread that has not ended
 * @going: a pipe that is closed when the process has been let go
 * @started, @held: when, and for how long the process was stopped
 */
struct dump {
	pid_t pid, tid;
	int id, mem, pagemap, pipe[2], going[2];
	unsigned int flags;
	bool stop, all, quiet, copy;
	unsigned int timeout;
	struct output out;
	struct core core;
	struct memmap map;
	struct threads threads;
	size_t nr_threads, no_registers, next;
	unsigned long long at;
	struct ranges lost;
	unsigned long long hidden;
	unsigned long calls;
	unsigned int tries;
	double started, held;
};

static ssize_t process_vmsplice(pid_t pid, int fd, const struct iovec *iov,
				unsigned long nr_segs, unsigned int flags)
{
	return syscall(__NR_process_vmsplice, pid, fd, iov, nr_segs, flags);
}

/* Progress, for people. */

static double shown = -1;

/* If it had to wait for the terminal, so would the process: that may even serve it. */
static bool can_show(void)
{
	struct pollfd pollfd = { .fd = STDERR_FILENO, .events = POLLOUT };

	return shown >= 0 && poll(&pollfd, 1, 0) == 1;
}

static bool time_to_show(void)
{
	if (!can_show() || now() - shown < 0.1)
		return false;
	shown = now();
	return true;
}

static void show_search(const struct memmap *map, size_t done)
{
	if (time_to_show())
		fprintf(stderr, "\rlooking for what there is: %zu of %zu mappings, %llu MiB ",
			done, map->nr, map->bytes >> 20);
}

static void show_copy(const struct dump *d, bool last)
{
	double t = now() - d->started;

	if (time_to_show() || (last && can_show()))
		fprintf(stderr, "\r%llu of %llu MiB, %.0f MiB/s%40s%s", d->out.offset >> 20,
			d->core.size >> 20, t > 0 ? d->out.offset / 1048576.0 / t : 0,
			"", last ? "\n" : "");
}

/* Moving memory. */

static void __attribute__((noreturn)) die_of_end(const struct dump *d)
{
	errx(EXIT_FAILURE, "process %d has ended, or has become another program, in the middle of the dump",
	     d->pid);
}

/*
 * Addresses of an old program mean nothing in a new one. Another process may have kept the
 * old one's memory, as the parent of a vfork() does: the random bytes of the two differ.
 */
static void check_same(const struct dump *d)
{
	char old[16] = "", new[16] = "";
	int mem = open_proc(d->tid, "mem");
	ssize_t n = pread(mem, new, sizeof(new), d->core.random);

	if (!pread(d->mem, old, 1, 0))
		die_of_end(d);
	old[0] = 0;
	/* A thread that has ended has no memory. */
	if (mem >= 0 && n && (pread(d->mem, old, sizeof(old), d->core.random) != n ||
			      memcmp(old, new, sizeof(old))))
		die_of_end(d);
	if (mem >= 0)
		close(mem);
}

/* Threads that come and go: one will last long enough. */
static void wait_a_moment(struct dump *d)
{
	if (++d->tries == 1000)
		errx(EXIT_FAILURE, "process %d: %s", d->pid, strerror(ESRCH));
	poll(NULL, 0, 1);
}

/* The call takes no pidfd of a thread, and what has ended, if only that, has no memory. */
static void open_thread(struct dump *d, pid_t tid)
{
	d->tid = tid;
	if (!d->tid)
		die_of_end(d);
	d->id = d->tid == d->pid ? syscall(SYS_pidfd_open, d->pid, 0) : -1;
	d->flags = d->id < 0 ? 0 : PROCESS_VMSPLICE_PIDFD;
	if (d->id < 0)
		d->id = d->tid;
}

static void close_thread(struct dump *d)
{
	if (d->flags)
		close(d->id);
}

/* The thread has ended: perhaps the process has not, which will show in a moment. */
static void open_another(struct dump *d)
{
	check_same(d);
	close_thread(d);
	wait_a_moment(d);
	open_thread(d, find_thread(d->pid));
}

/* What stays the same, whichever thread it is of. */
static void open_target(struct dump *d)
{
	open_thread(d, find_thread(d->pid));
	while ((d->mem = open_memory(d->tid)) < 0) {
		close_thread(d);
		wait_a_moment(d);
		open_thread(d, find_thread(d->pid));
	}
	while ((d->pagemap = open_proc(d->tid, "pagemap")) < 0 && errno == ESRCH)
		open_another(d);
	while (!core_init(&d->core, d->tid))
		open_another(d);
}

/*
 * As much of the content as one call can take, which is less than SSIZE_MAX also if this
 * program is of 32 bits. Then it may be nothing.
 */
static size_t gather(const struct dump *d, struct iovec *iov)
{
	unsigned long long at = d->at;
	size_t nr = 0, left = MAX_BYTES;

	for (size_t i = d->next; i < d->core.content.nr && nr < MAX_SEGMENTS && left; i++, nr++) {
		const struct range *r = &d->core.content.at[i];

		if (nr)
			at = r->start;
		if (r->end - 1 > ULONG_MAX)
			break;
		iov[nr].iov_base = (void *)(unsigned long)at;
		iov[nr].iov_len = r->end - at < left ? r->end - at : left;
		left -= iov[nr].iov_len;
	}
	return nr;
}

static char data[PIPE_BYTES];

static ssize_t move(struct dump *d, const struct iovec *iov, size_t nr)
{
	struct iovec local = { data, sizeof(data) };
	ssize_t n;

	d->calls++;
	if (d->copy)
		n = process_vm_readv(d->tid, &local, 1, iov, nr, 0);
	else
		n = process_vmsplice(d->id, d->pipe[1], iov, nr, d->flags);
	if (n < 0)
		return -errno;
	if (d->copy)
		output_write(&d->out, data, n);
	else
		output_splice(&d->out, d->pipe[0], n);
	return n;
}

/* MADV_GUARD_INSTALL: reading it is an error, and there is nothing. */
static bool is_guard(const struct dump *d, unsigned long long at)
{
	unsigned long long entry = 0;
	off_t offset = at / sysconf(_SC_PAGESIZE) * sizeof(entry);

	return pread(d->pagemap, &entry, sizeof(entry), offset) == sizeof(entry) &&
	       (entry & PM_GUARD);
}

/* What the process may not read; or what nobody can, which has gone since it was found. */
static ssize_t move_hidden(struct dump *d)
{
	unsigned long long end = d->core.content.at[d->next].end;
	size_t page = sysconf(_SC_PAGESIZE);
	size_t len = end - d->at < sizeof(data) ? end - d->at : sizeof(data);
	ssize_t n = pread(d->mem, data, len, d->at);

	if (!n)
		die_of_end(d);
	if (n < 0) {
		n = page - d->at % page;
		if (!is_guard(d, d->at))
			ranges_add(&d->lost, d->at, d->at + n);
		memset(data, 0, n);
	}
	output_write(&d->out, data, n);
	d->hidden += n;
	return n;
}

static void advance(struct dump *d, size_t len)
{
	const struct ranges *content = &d->core.content;

	while (len) {
		unsigned long long left = content->at[d->next].end - d->at;

		if (len < left) {
			d->at += len;
			return;
		}
		len -= left;
		if (++d->next < content->nr)
			d->at = content->at[d->next].start;
	}
}

static void move_content(struct dump *d)
{
	static struct iovec iov[MAX_SEGMENTS];

	d->at = d->core.content.nr ? d->core.content.at[0].start : 0;
	while (d->next < d->core.content.nr) {
		size_t nr = gather(d, iov);
		ssize_t n = nr ? move(d, iov, nr) : -EFAULT;

		if (n == -EFAULT || n == -EIO)
			n = move_hidden(d);
		if (n == -ESRCH)
			open_another(d);
		else if (n < 0 && n != -EINTR)
			errx(EXIT_FAILURE, "process %d: %s", d->pid, strerror(-n));
		if (n > 0) {
			advance(d, n);
			d->tries = 0;
		}
		show_copy(d, false);
	}
}

/* The steps. */

/* A stop by the terminal would be one of the process, too, and last. */
static void ignore_stops(bool ignore)
{
	static const int signals[] = { SIGTSTP, SIGTTIN, SIGTTOU };
	static struct sigaction old[3];
	struct sigaction action = { .sa_handler = SIG_IGN };

	for (size_t i = 0; i < 3; i++)
		sigaction(signals[i], ignore ? &action : &old[i], ignore ? &old[i] : NULL);
}

/* The thread that holds the process, and whether it is to let go: for signal handlers. */
static volatile pid_t holder;
static volatile sig_atomic_t giving_up;

/* Who sends this signal from outside means nothing. */
static void end_thread(int signal)
{
	(void)signal;
	if (giving_up && gettid() == holder)
		syscall(SYS_exit, EXIT_FAILURE);
}

/*
 * When a thread ends, the kernel lets go of what it traces. When a program ends, the kernel
 * may first free the file, which takes a second for some gigabytes. A thread that takes no
 * signal, as it waits for a page, ends with the program.
 */
void let_go(void)
{
	int ret;

	giving_up = 1;
	ret = holder ? syscall(SYS_tgkill, getpid(), holder, END_HOLDER) : -1;
	for (int i = 0; !ret && i < 100; i++) {
		poll(NULL, 0, 1);
		ret = syscall(SYS_tgkill, getpid(), holder, 0);
	}
}

/* First of all, the process has to be let go: no message may block that. */
static void __attribute__((noreturn)) run_out_of_time(void)
{
	static const char text[] = "pvmdump: not done before the --timeout: the process goes on\n";
	struct pollfd pollfd = { .fd = STDERR_FILENO, .events = POLLOUT };

	let_go();
	/* If that fails, there is nobody to tell. */
	if (poll(&pollfd, 1, 0) == 1)
		(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	output_abandon();
	_exit(EXIT_FAILURE);
}

static void hold(struct dump *d)
{
	ignore_stops(true);
	d->held = now();
	if (hold_process(&d->threads, d->pid, d->stop))
		d->no_registers = core_add_threads(&d->core, d->pid, &d->threads);
	else
		d->no_registers = 1;
	d->nr_threads = d->threads.nr;
}

static void release(struct dump *d)
{
	release_process(&d->threads);
	ignore_stops(false);
	d->held = now() - d->held;
}

/* A message must not wait for a reader, who may be the process that is held. */
static void unblock_messages(void)
{
	struct stat st;
	int fd;

	if (fstat(STDERR_FILENO, &st) || !(S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)))
		return;
	/* O_NONBLOCK of the same file would be that of others, too. */
	fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd >= 0) {
		dup2(fd, STDERR_FILENO);
		close(fd);
	}
}

/* Some ways to wait for the process that is held do not end with pvmdump. */
static void check_stop(const struct dump *d)
{
	long tracer = read_status(getpid(), "\nTracerPid:");

	if (tracer > 0 && read_status(tracer, "\nTgid:") == d->pid)
		errx(EXIT_FAILURE, "process %d traces this one, and would wait for itself: leave out --stop",
		     d->pid);
	if (grants_access(d->tid))
		errx(EXIT_FAILURE, "process %d may have to grant that files are opened (fanotify), and would wait for itself: leave out --stop",
		     d->pid);
	/* To close a file waits for its server. */
	if ((is_fuse(d->out.fd) || is_fuse(STDOUT_FILENO) || is_fuse(STDERR_FILENO)) &&
	    serves_fuse(d->tid))
		errx(EXIT_FAILURE, "process %d may serve the file system that the core file is to be on, and would wait for itself: choose another one, or leave out --stop",
		     d->pid);
}

/* One that can't end: some kernels give what is not readable only by that of a tracee. */
static void open_held(struct dump *d)
{
	int mem;

	close_thread(d);
	open_thread(d, d->threads.nr ? d->threads.tid[0] : find_thread(d->pid));
	check_same(d);
	mem = open_memory(d->tid);
	if (mem >= 0) {
		close(d->mem);
		d->mem = mem;
	}
}

/* One is waited for, and one comes when a thread wants it. */
static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, HOLD_TICK);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static void find_memory(struct dump *d)
{
	while (memmap_read(&d->map, d->tid, d->all) || !d->map.nr)
		open_another(d);
	d->tries = 0;
}

static void write_core(struct dump *d)
{
	check_same(d);
	find_memory(d);
	while (!core_add_process(&d->core, d->pid, d->tid, &d->map))
		open_another(d);
	core_lay_out(&d->core, &d->map);
	output_write(&d->out, d->core.header.data, d->core.header.len);
	output_zeroes(&d->out, ZERO_BLOCK);
	move_content(d);
	check_same(d);
	show_copy(d, true);
	output_finish(&d->out);
}

static void *do_held(void *arg)
{
	struct dump *d = arg;
	sigset_t set;

	/* All that ends the program is for the other thread. */
	sigfillset(&set);
	sigdelset(&set, END_HOLDER);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	holder = gettid();
	hold(d);
	if (d->stop) {
		open_held(d);
		write_core(d);
	}
	release(d);
	close(d->going[1]);
	return NULL;
}

/*
 * By a thread: when it ends, threads of the process that have not stopped are let go as
 * well; and while it waits for a page, it could not watch the time.
 */
static void hold_in_time(struct dump *d)
{
	double deadline = now() + d->timeout;
	struct pollfd pollfd;
	struct sigaction action = { .sa_handler = end_thread };
	pthread_attr_t attr;
	pthread_t thread;
	int ret;

	/* However large RLIMIT_STACK is. */
	if (pthread_attr_init(&attr) || pthread_attr_setstacksize(&attr, 1 << 20))
		errx(EXIT_FAILURE, "no attributes for a thread");
	if (pipe2(d->going, O_CLOEXEC))
		err(EXIT_FAILURE, "pipe");
	sigaction(END_HOLDER, &action, NULL);
	errno = pthread_create(&thread, &attr, do_held, d);
	if (errno)
		err(EXIT_FAILURE, "can't start a thread");
	pollfd.fd = d->going[0];
	/* Until it is closed; a signal that does nothing ends poll(). */
	do {
		double left = d->timeout ? deadline - now() : 1000;

		ret = left > 0 ? poll(&pollfd, 1, left * 1000) : 0;
		if (!ret && d->timeout)
			run_out_of_time();
	} while (ret <= 0);
	errno = pthread_join(thread, NULL);
	if (errno)
		err(EXIT_FAILURE, "can't wait for a thread");
	close(d->going[0]);
}

static void dump(struct dump *d)
{
	hold_in_time(d);
	if (!d->stop)
		write_core(d);
	output_close(&d->out);
}

static void report(const struct dump *d)
{
	static const char *const reasons[NR_FATES] = {
		[LEFT_BY_FILTER] = "by coredump_filter", [LEFT_BY_MADVISE] = "by MADV_DONTDUMP",
		[LEFT_UNREADABLE] = "as nobody can read it",
	};

	fprintf(stderr, "pvmdump: %zu mappings, %llu bytes in %zu ranges, %zu threads; held for %.3f of %.3f s\n",
		d->map.nr, d->map.bytes, d->core.content.nr, d->nr_threads, d->held,
		now() - d->started);
	fprintf(stderr, "pvmdump: %lu calls of %s(); %llu bytes by /proc/%d/mem\n", d->calls,
		d->copy ? "process_vm_readv" : "process_vmsplice", d->hidden, d->tid);
	for (enum fate fate = TAKEN + 1; fate < NR_FATES; fate++) {
		unsigned long long bytes = 0;
		size_t nr = 0;

		for (size_t i = 0; i < d->map.nr; i++) {
			const struct mapping *m = &d->map.mappings[i];

			nr += m->fate == fate;
			bytes += m->fate == fate ? m->resident : 0;
		}
		if (nr)
			fprintf(stderr, "pvmdump: left out %s: %zu mappings, %llu bytes resident\n",
				reasons[fate], nr, bytes);
	}
}

/* Returns how many mappings may have more than was found. */
static size_t report_untouched(const struct memmap *map)
{
	size_t nr = 0;

	for (size_t i = 0; i < map->nr; i++) {
		const struct mapping *m = &map->mappings[i];

		if (m->lacks && nr++ < 10)
			warnx("%llx-%llx: what the process has not touched there may be missing: %s",
			      m->range.start, m->range.end, m->lacks);
	}
	if (nr > 10)
		warnx("the same is true of %zu more mappings", nr - 10);
	return nr;
}

/* Also when it is to be quiet: what is there is not what it should be. */
static int report_lack(const struct dump *d)
{
	size_t untouched = report_untouched(&d->map);

	for (size_t i = 0; i < d->lost.nr && i < 10; i++)
		warnx("could not be read: %llx-%llx", d->lost.at[i].start, d->lost.at[i].end);
	if (d->lost.nr > 10)
		warnx("could not be read: %zu more", d->lost.nr - 10);
	if (d->lost.nr)
		warnx("there are zeroes in the core file for what could not be read");
	if (d->no_registers && d->nr_threads)
		warnx("no registers of %zu threads, %s", d->no_registers,
		      d->core.wide && sizeof(long) == 4 ?
		      "which take a 64-bit program here" :
		      "which can't be woken, or are in the mode of another width");
	return d->lost.nr || d->no_registers || untouched ? EXIT_INCOMPLETE : EXIT_SUCCESS;
}

/* Without segments, the call only says whether there is one. */
static void choose_call(struct dump *d)
{
	if (!d->copy && process_vmsplice(0, -1, NULL, 0, PROCESS_VMSPLICE_PIDFD)) {
		d->copy = true;
		if (!d->quiet)
			warnx("this kernel has no process_vmsplice(): copying with process_vm_readv()");
	}
	if (d->copy)
		return;
	if (pipe2(d->pipe, O_CLOEXEC))
		err(EXIT_FAILURE, "pipe");
	/* If that is not allowed, it just takes more calls. */
	fcntl(d->pipe[1], F_SETPIPE_SZ, PIPE_BYTES);
}

static int usage(FILE *f, int status)
{
	fputs("Usage: pvmdump [OPTION]... PID FILE|-|HOST:PORT\n"
	      "\n"
	      "Writes a core file of a live process, which goes on.\n"
	      "  -s, --stop             hold it until the core file has been taken by whom it\n"
	      "                         goes to, so that it is consistent\n"
	      "  -t, --timeout=SECONDS  let it go after so long, and fail\n"
	      "  -a, --all              all that can be read, not only what coredump_filter\n"
	      "                         and MADV_DONTDUMP leave\n"
	      "  -c, --copy             use process_vm_readv(), as without process_vmsplice()\n"
	      "  -q, --quiet            no summary and no progress\n"
	      "  -h, --help             this text\n"
	      "Exit status: 0, 1 without a core file, 2 if used wrongly, 3 if it lacks something\n", f);
	return status;
}

static unsigned int parse_seconds(const char *text)
{
	int seconds = parse_pid(text);

	if (!seconds || seconds > INT_MAX / 1000)
		errx(2, "not a number of seconds, or too large: %s", text);
	return seconds;
}

/* Returns -1, or the status to end with. */
static int parse_options(struct dump *d, int argc, char **argv)
{
	static const struct option options[] = {
		{ "stop", no_argument, NULL, 's' },
		{ "timeout", required_argument, NULL, 't' },
		{ "all", no_argument, NULL, 'a' },
		{ "copy", no_argument, NULL, 'c' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "st:acqh", options, NULL)) != -1) {
		switch (opt) {
		case 's':
			d->stop = true;
			break;
		case 't':
			d->timeout = parse_seconds(optarg);
			break;
		case 'a':
			d->all = true;
			break;
		case 'c':
			d->copy = true;
			break;
		case 'q':
			d->quiet = true;
			break;
		case 'h':
			return usage(stdout, 0);
		default:
			return usage(stderr, 2);
		}
	}
	return argc - optind == 2 ? -1 : usage(stderr, 2);
}

/*
 * A file that is opened must not get the number of one of the standard ones; and what can't
 * be opened because there are no more numbers would look like a process that has ended.
 */
static void reserve_descriptors(void)
{
	struct rlimit limit;
	int fd[16];

	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	for (size_t i = 0; i < 16; i++) {
		fd[i] = open("/", O_PATH | O_CLOEXEC);
		if (fd[i] < 0)
			err(EXIT_FAILURE, "16 files can't be opened");
	}
	for (size_t i = 0; i < 16; i++)
		if (fd[i] > STDERR_FILENO)
			close(fd[i]);
}

int main(int argc, char **argv)
{
	struct dump d = { .map.progress = show_search };
	int status = parse_options(&d, argc, argv);

	if (status >= 0)
		return status;
	reserve_descriptors();
	d.pid = parse_pid(argv[optind]);
	if (!d.pid)
		errx(2, "not a process id: %s", argv[optind]);
	d.started = now();
	check_process(d.pid);
	open_target(&d);
	choose_call(&d);
	block_signals();
	output_open(&d.out, argv[optind + 1]);
	if (d.stop) {
		check_stop(&d);
		unblock_messages();
	}
	if (!d.quiet && isatty(STDERR_FILENO))
		shown = 0;
	dump(&d);
	if (!d.quiet)
		report(&d);
	return report_lack(&d);
}
