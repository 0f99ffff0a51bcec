// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <ctype.h>
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/major.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pvmdump.h"

#define KERNEL_THREAD 0x200000		/* PF_KTHREAD */
#define FUSE_MINOR 229			/* of /dev/fuse */
/* How long a thread may take to stop before its state is looked at, in seconds. */
#define PATIENCE 1.0

double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static bool read_text(pid_t tid, const char *name, char *text, size_t size)
{
	int fd = open_proc(tid, name);
	ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	return n > 0;
}

bool read_task(pid_t tid, struct task *t)
{
	char text[1024], name[32], *end;

	*t = (struct task){};
	/* That of the thread: /proc/TID/stat sums what all threads of the process have used. */
	snprintf(name, sizeof(name), "task/%d/stat", tid);
	if (!read_text(tid, name, text, sizeof(text)))
		return false;
	/* The name can have anything in it. */
	end = strrchr(text, ')');
	if (!end)
		return false;
	*end = 0;
	snprintf(t->comm, sizeof(t->comm), "%s", strchr(text, '(') + 1);
	/* It is shown on terminals. */
	for (char *c = t->comm; *c; c++)
		if (iscntrl((unsigned char)*c))
			*c = '?';
	return sscanf(end + 1, " %c %d %d %d %*d %*d %lu %*u %*u %*u %*u %llu %llu %llu %llu %*d %d",
		      &t->state, &t->ppid, &t->pgrp, &t->sid, &t->flags, &t->utime, &t->stime,
		      &t->cutime, &t->cstime, &t->nice) == 10;
}

/* A line of it can be long: there may be 65536 groups. */
static const char *find_status(pid_t tid, const char *field)
{
	static char text[1 << 20];
	char *at = read_text(tid, "status", text, sizeof(text)) ? strstr(text, field) : NULL;

	return at ? at + strlen(field) : NULL;
}

long read_status(pid_t tid, const char *field)
{
	const char *text = find_status(tid, field);

	return text ? strtol(text, NULL, 10) : -1;
}

unsigned long long read_signals(pid_t tid, const char *field)
{
	const char *text = find_status(tid, field);

	return text ? strtoull(text, NULL, 16) : 0;
}

bool has_ended(pid_t tid)
{
	struct task task;

	return !read_task(tid, &task) || strchr("ZX", task.state);
}

int open_memory(pid_t tid)
{
	int mem = open_proc(tid, "mem");
	char byte;

	if (mem >= 0 && !pread(mem, &byte, 1, 0)) {
		close(mem);
		mem = -1;
		errno = ESRCH;
	}
	if (mem < 0 && errno == ENOENT)
		errno = ESRCH;
	return mem;
}

static DIR *open_folder(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	return opendir(path);
}

bool serves_fuse(pid_t tid)
{
	DIR *dir = open_folder(tid, "fd");
	struct dirent *entry;
	bool found = false;
	struct stat st;

	while (dir && !found && (entry = readdir(dir)))
		found = !fstatat(dirfd(dir), entry->d_name, &st, 0) && S_ISCHR(st.st_mode) &&
			st.st_rdev == makedev(MISC_MAJOR, FUSE_MINOR);
	if (dir)
		closedir(dir);
	return found;
}

bool grants_access(pid_t tid)
{
	DIR *dir = open_folder(tid, "fdinfo");
	struct dirent *entry;
	bool found = false;
	char name[300], text[4096];
	unsigned int flags;
	const char *at;

	while (dir && !found && (entry = readdir(dir))) {
		snprintf(name, sizeof(name), "fdinfo/%s", entry->d_name);
		at = read_text(tid, name, text, sizeof(text)) ?
		     strstr(text, "fanotify flags:") : NULL;
		found = at && sscanf(at, "fanotify flags:%x", &flags) == 1 &&
			(flags & (FAN_CLASS_CONTENT | FAN_CLASS_PRE_CONTENT));
	}
	if (dir)
		closedir(dir);
	return found;
}

/* Each call gives another thread, 0 after the last one. */
static pid_t next_thread(DIR *dir)
{
	struct dirent *entry;
	pid_t tid = 0;

	while (dir && !tid && (entry = readdir(dir)))
		tid = parse_pid(entry->d_name);
	return tid;
}

/* Of those that are listed now; *others says whether there is more than the first one. */
static pid_t look_for_thread(pid_t pid, bool *others)
{
	DIR *dir = open_folder(pid, "task");
	pid_t tid;

	/* The list may be cut short. */
	*others = read_status(pid, "\nThreads:") > 1;
	while ((tid = next_thread(dir)) && has_ended(tid))
		*others |= tid != pid;
	if (dir)
		closedir(dir);
	return tid;
}

pid_t find_thread(pid_t pid)
{
	bool others = true;
	pid_t tid = 0;

	/* All may have ended since they were listed, and have left new ones. */
	for (int tries = 0; !tid && others && tries < 1000; tries++)
		tid = look_for_thread(pid, &others);
	return tid;
}

/* Why the right to trace a process is missing, as far as one can tell. */
static void __attribute__((noreturn)) die_of_permission(pid_t pid)
{
	char yama[8] = "0";
	FILE *f = fopen("/proc/sys/kernel/yama/ptrace_scope", "r");
	long uid = read_status(pid, "\nUid:");

	if (f && !fgets(yama, sizeof(yama), f))
		yama[0] = '0';
	if (uid >= 0 && uid != (long)geteuid())
		errx(EXIT_FAILURE, "process %d: not permitted: that takes the right to trace it, ptrace(2), and it is user %ld's: become that user, or root",
		     pid, uid);
	if (yama[0] != '0')
		errx(EXIT_FAILURE, "process %d: not permitted: that takes the right to trace it, which kernel.yama.ptrace_scope=%c restricts: become root, or set it to 0",
		     pid, yama[0]);
	errx(EXIT_FAILURE, "process %d: not permitted: that takes the right to trace it, ptrace(2), which it, its capabilities or a security module don't give",
	     pid);
}

/* Why there is nothing to be read of it in /proc. */
static void __attribute__((noreturn)) die_of_absence(pid_t pid)
{
	bool missing = errno == ENOENT || errno == ESRCH;

	if (!missing && errno != EPERM && errno != EACCES)
		err(EXIT_FAILURE, "/proc/%d", pid);
	if (!missing || !kill(pid, 0) || errno == EPERM)
		errx(EXIT_FAILURE, "process %d is hidden, by /proc's option hidepid or a security module: become its user, or root",
		     pid);
	errx(EXIT_FAILURE, "process %d: no such process", pid);
}

pid_t check_process(pid_t pid)
{
	char self[16] = "";
	struct task task;
	int mem, tries = 0;
	pid_t tid;

	if (readlink("/proc/self", self, sizeof(self) - 1) < 0 || atoi(self) != getpid())
		errx(EXIT_FAILURE, "/proc is not there, or of another pid namespace: mount one, or use nsenter -p -m");
	if (!read_task(pid, &task))
		die_of_absence(pid);
	if (read_status(pid, "\nTgid:") != pid)
		errx(EXIT_FAILURE, "%d is a thread of process %ld: dump that", pid,
		     read_status(pid, "\nTgid:"));
	if (task.flags & KERNEL_THREAD)
		errx(EXIT_FAILURE, "process %d (%s) is a kernel thread: it has no memory of its own",
		     pid, task.comm);
	do {
		tid = find_thread(pid);
		if (!tid)
			errx(EXIT_FAILURE, "process %d (%s) is a zombie: it has ended, and its parent %d has not waited for it",
			     pid, task.comm, task.ppid);
		mem = open_memory(tid);
	} while (mem < 0 && errno == ESRCH && ++tries < 1000);
	if (mem < 0 && (errno == EACCES || errno == EPERM))
		die_of_permission(pid);
	/* One that is about to end, or to begin, has none. */
	if (mem < 0)
		errx(EXIT_FAILURE, "process %d (%s) has no memory: it is ending", pid, task.comm);
	close(mem);
	return tid;
}

/* Holding it. */

static bool is_known(const struct threads *threads, pid_t tid)
{
	for (size_t i = 0; i < threads->nr; i++)
		if (threads->tid[i] == tid)
			return true;
	return false;
}

static void add_thread(struct threads *threads, pid_t tid)
{
	threads->tid = grow(threads->tid, threads->nr, sizeof(*threads->tid));
	threads->stopped = grow(threads->stopped, threads->nr, sizeof(*threads->stopped));
	threads->tid[threads->nr] = tid;
	threads->stopped[threads->nr++] = false;
}

/* Why PTRACE_SEIZE failed: not because of the thread's end, which only looks so. */
static void explain_seize(pid_t pid, pid_t tid, bool must)
{
	long tracer = read_status(tid, "\nTracerPid:");
	void (*say)(const char *format, ...) = warnx;
	struct task task;

	/* Another pvmdump does so by a thread. */
	if (tracer > 0)
		tracer = read_status(tracer, "\nTgid:");
	if (tracer > 0 && read_task(tracer, &task))
		say("process %d can't be held: process %ld (%s) traces it: let that detach%s",
		    pid, tracer, task.comm, must ? ", or leave out --stop" : "; its registers are left out");
	else if (tid == getpid() || pid == getpid())
		say("a process can't hold itself%s", must ? "" : ": its registers are left out");
	else
		say("process %d can't be held: thread %d: %s%s", pid, tid, strerror(EPERM),
		    must ? "" : ": its registers are left out");
}

/* An exec gives the main thread's id to a thread that is held already. */
static bool is_ours(pid_t tid)
{
	return errno == EPERM && read_status(tid, "\nTracerPid:") == gettid();
}

enum wait { STOPPED, GONE, RUNNING };

/* That a main thread has ended before others is only to be seen. */
static enum wait look_at(pid_t tid, enum wait before, bool quiet)
{
	int status;
	pid_t ret = waitpid(tid, &status, __WALL | WNOHANG);

	if (!ret)
		return before == RUNNING && quiet && has_ended(tid) ? GONE : before;
	if (ret != tid || !WIFSTOPPED(status))
		return GONE;
	if (status >> 16 == PTRACE_EVENT_STOP)
		return STOPPED;
	/* A signal came first: the thread takes it when it goes on. */
	ptrace(PTRACE_CONT, tid, NULL, (void *)(long)WSTOPSIG(status));
	return RUNNING;
}

/* A thread that sleeps and can't be woken is as good as stopped, but for its registers. */
static bool is_asleep(pid_t tid)
{
	struct task task;

	return read_task(tid, &task) && task.state == 'D';
}

/*
 * How many may still stop; the ones that are gone are left out. Only if it is quiet, those
 * that have stopped are looked at: an exec ends them, too.
 */
static size_t look_at_threads(struct threads *threads, bool quiet, bool patient)
{
	size_t kept = 0, running = 0;

	for (size_t i = 0; i < threads->nr; i++) {
		pid_t tid = threads->tid[i];
		enum wait state = threads->stopped[i] ? STOPPED : RUNNING;

		if (quiet || state == RUNNING)
			state = look_at(tid, state, quiet);
		threads->tid[kept] = tid;
		threads->stopped[kept] = state == STOPPED;
		kept += state != GONE;
		running += state == RUNNING && (patient || !is_asleep(tid));
	}
	threads->nr = kept;
	return running;
}

/*
 * Who is in exec waits for the end of all other threads to be noticed, and PTRACE_SEIZE
 * waits for that exec: then, HOLD_TICK comes in between.
 */
static struct threads *held;

static void notice_ends(int signal)
{
	int error = errno;

	(void)signal;
	look_at_threads(held, true, true);
	errno = error;
}

/* A signal for this thread alone; SIGALRM may be what somebody ends this program with. */
static void tick(struct threads *threads, long usec)
{
	struct sigaction action = { .sa_handler = notice_ends, .sa_flags = SA_RESTART };
	struct itimerspec often = { { 0, usec * 1000 }, { 0, usec * 1000 } };
	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = HOLD_TICK,
		._sigev_un._tid = gettid(),
	};
	static timer_t timer;

	if (!held && (sigaction(HOLD_TICK, &action, NULL) ||
		      timer_create(CLOCK_MONOTONIC, &event, &timer)))
		err(EXIT_FAILURE, "can't make a timer");
	held = threads;
	timer_settime(timer, 0, &often, NULL);
}

static bool seize(pid_t tid)
{
	sigset_t set;
	bool ok;

	sigemptyset(&set);
	sigaddset(&set, HOLD_TICK);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	ok = !ptrace(PTRACE_SEIZE, tid, NULL, NULL) || is_ours(tid);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return ok;
}

/* All threads there are by now; *found says whether there were new ones. */
static bool seize_threads(struct threads *threads, pid_t pid, bool must, bool *found)
{
	DIR *dir = open_folder(pid, "task");
	bool ok = true;
	pid_t tid;

	*found = false;
	tick(threads, 10000);
	while (ok && (tid = next_thread(dir))) {
		if (is_known(threads, tid))
			continue;
		if (seize(tid)) {
			/* If that fails, it has ended, which the wait is told. */
			ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
			add_thread(threads, tid);
			*found = true;
		} else {
			/*
			 * One that has ended may have started another before; or it was the
			 * zombie of a main thread, and an exec has given its id to another.
			 */
			bool gone = errno == ESRCH || has_ended(tid);
			bool again = (tid != pid || !gone) && ++threads->refused < 300;

			*found |= again;
			ok = gone || (again && read_status(tid, "\nTracerPid:") <= 0);
			if (!ok)
				explain_seize(pid, tid, must);
		}
	}
	tick(threads, 0);
	if (dir)
		closedir(dir);
	return ok;
}

static void wait_for_threads(struct threads *threads, double started)
{
	static const struct timespec moment = { .tv_nsec = 10000000 };
	bool quiet = false;
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	while (look_at_threads(threads, quiet, now() - started < PATIENCE))
		quiet = sigtimedwait(&child, NULL, &moment) < 0;
	look_at_threads(threads, true, false);
}

/* A thread that ends while /proc lists it can end the list. */
static bool lacks_threads(const struct threads *threads, pid_t pid)
{
	long known = threads->nr + (!is_known(threads, pid) && has_ended(pid));

	return read_status(pid, "\nThreads:") > known;
}

bool hold_process(struct threads *threads, pid_t pid, bool must)
{
	double started = now();
	bool found = true, ok = true;

	/* Threads may start others until the last of them is held. */
	while (found && ok) {
		ok = seize_threads(threads, pid, must, &found);
		wait_for_threads(threads, started);
		found |= lacks_threads(threads, pid) && ++threads->refused < 300;
	}
	if (!ok && must)
		exit(EXIT_FAILURE);
	if (!ok)
		release_process(threads);
	return ok;
}

void release_process(struct threads *threads)
{
	for (size_t i = 0; i < threads->nr; i++)
		ptrace(PTRACE_DETACH, threads->tid[i], NULL, NULL);
	threads->nr = 0;
}
