/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests change of their host, and restore, however they end.
 *
 * A change starts with a note of how to undo it, in memory that all processes
 * of the program share. At the end, the program does what the notes say; if
 * somebody kills it, a process in a session of its own does, which waits for
 * nothing else.
 */
#ifndef PVM_HOST_H
#define PVM_HOST_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kselftest_harness.h"

/* Is it vmtest.sh's guest, which has what the tests need and is thrown away? */
static inline bool host_is_ours(void)
{
	return getenv("VMTEST_GUEST");
}

/* Any host may lack something for a while. If our own does, that is wrong. */
#define ASSERT_OR_SKIP(ok, statement, ...) do {				\
	bool _ok = (ok);						\
									\
	if (!_ok && !host_is_ours())					\
		SKIP(statement, __VA_ARGS__);				\
	ASSERT_TRUE(_ok) {						\
		TH_LOG(__VA_ARGS__);					\
	}								\
} while (0)

static inline bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok;
}

/* The sum of the numbers that a file like /proc/meminfo has beside name. */
static inline long read_number(const char *path, const char *name)
{
	char line[256], found[64];
	FILE *f = fopen(path, "r");
	long sum = 0, n;

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " %63[^: ]%*[: ]%ld", found, &n) == 2 &&
		    !strcmp(found, name))
			sum += n;
	fclose(f);
	return sum;
}

#define MAX_CHANGES 64

struct change;
typedef void undo_fn(const struct change *change);

static struct change {
	undo_fn *undo;
	char what[128], was[64];
} *changes;

static inline struct change *find_change(undo_fn *undo, const char *what)
{
	for (struct change *c = changes; c < changes + MAX_CHANGES; c++)
		if (c->undo == undo && (!undo || !strcmp(c->what, what)))
			return c;
	return NULL;
}

/* Before the change. A note that is there stays: what it says is older. */
static inline void note_change(undo_fn *undo, const char *what, const char *was)
{
	struct change *c;

	if (find_change(undo, what))
		return;
	c = find_change(NULL, NULL);
	if (!c) {
		fprintf(stderr, "# too many changes of the host\n");
		_exit(KSFT_FAIL);
	}
	snprintf(c->what, sizeof(c->what), "%s", what);
	snprintf(c->was, sizeof(c->was), "%s", was);
	/* Last, as this makes the note count. */
	__atomic_store_n(&c->undo, undo, __ATOMIC_RELEASE);
}

static inline void undo_one(struct change *c)
{
	if (c && c->undo)
		c->undo(c);
	if (c)
		c->undo = NULL;
}

static inline void undo_change(undo_fn *undo, const char *what)
{
	undo_one(find_change(undo, what));
}

static inline void undo_all_changes(void)
{
	for (int i = MAX_CHANGES; i-- > 0;)
		undo_one(&changes[i]);
}

/* A file, or a directory that is empty by then. */
static inline void undo_create(const struct change *c)
{
	if (remove(c->what) && errno != ENOENT)
		perror(c->what);
}

/* The path of a file in /tmp that goes at the end of the program. */
static inline const char *scratch_path(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "/tmp/process_vmsplice.%d.%s", getpid(),
		 name);
	note_change(undo_create, path, "");
	return path;
}

/* What the file says; of "always [madvise] never", the word in brackets. */
static inline bool read_setting(const char *path, char *value, size_t size)
{
	char buf[128] = "", *word = buf;
	int fd = open(path, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n > 0 && strchr(buf, '['))
		word = strchr(buf, '[') + 1;
	word[strcspn(word, "]\n")] = 0;
	return n > 0 && snprintf(value, size, "%s", word) < (int)size;
}

static inline bool setting_is(const char *path, const char *value)
{
	char now[64];

	return read_setting(path, now, sizeof(now)) && !strcmp(now, value);
}

static inline void undo_setting(const struct change *c)
{
	if (!setting_is(c->what, c->was) && !write_file(c->what, c->was))
		perror(c->what);
}

/* Change it until that is undone; not if it is so: it may be read-only. */
static inline bool change_setting(const char *path, const char *value)
{
	char was[64];

	if (!read_setting(path, was, sizeof(was)))
		return false;
	if (!strcmp(was, value))
		return true;
	if (access(path, W_OK))
		return false;
	note_change(undo_setting, path, was);
	return write_file(path, value);
}

static inline long missing_huge_pages(long wanted)
{
	return wanted - read_number("/proc/meminfo", "HugePages_Free") +
	       read_number("/proc/meminfo", "HugePages_Rsvd");
}

/* Have so many that nobody else has asked for. The pool only ever grows. */
static inline bool reserve_huge_pages(long wanted)
{
	static const char path[] = "/proc/sys/vm/nr_hugepages";
	long missing = missing_huge_pages(wanted);
	char text[64];

	if (missing <= 0)
		return true;
	if (!read_setting(path, text, sizeof(text)))
		return false;
	snprintf(text, sizeof(text), "%ld", atol(text) + missing);
	return change_setting(path, text) && missing_huge_pages(wanted) <= 0;
}

#define KSM_DIR "/sys/kernel/mm/ksm/"

/* NULL, or why not. If KSM runs, it is busy with somebody else's pages. */
static inline const char *start_ksm(const char *pages_to_scan,
				    const char *sleep_millisecs)
{
	if (access(KSM_DIR, F_OK))
		return "no KSM";
	/* If we have changed it before, it is as we want it. */
	if (!find_change(undo_setting, KSM_DIR "run") &&
	    !setting_is(KSM_DIR "run", "0"))
		return "KSM is in use by others";
	/* KSM since 6.7 may skip pages in turns, which then never meet. */
	change_setting(KSM_DIR "smart_scan", "0");
	if (!change_setting(KSM_DIR "pages_to_scan", pages_to_scan) ||
	    !change_setting(KSM_DIR "sleep_millisecs", sleep_millisecs) ||
	    !change_setting(KSM_DIR "run", "1"))
		return "may not start KSM";
	return NULL;
}

/* Wait until the first process is gone, or somebody ends this one. */
static inline void await_the_end(pid_t first)
{
	sigset_t signals;
	int sig;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() == first)
		sigwait(&signals, &sig);
}

static pid_t first_process, restorer;

static inline void restore_at_exit(void)
{
	if (getpid() != first_process)
		return;
	undo_all_changes();
	kill(restorer, SIGKILL);
	waitpid(restorer, NULL, 0);
}

static inline void start_restorer(void)
{
	int ends[2], lock = open("/proc/sys/vm", O_RDONLY | O_DIRECTORY);

	/* Else a program takes the changes of another for the host's own. */
	if (flock(lock, LOCK_EX | LOCK_NB)) {
		ksft_print_msg("Waiting for the lock of /proc/sys/vm\n");
		flock(lock, LOCK_EX);
	}
	changes = mmap(NULL, MAX_CHANGES * sizeof(*changes),
		       PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	first_process = getpid();
	restorer = changes == MAP_FAILED || pipe(ends) ? -1 : fork();
	if (restorer < 0)
		exit(KSFT_FAIL);
	if (!restorer) {
		close(ends[1]);
		/* A kill of the group or session is not for this process. */
		setsid();
		await_the_end(first_process);
		/* Wait 3 s at most until no process has the other end. */
		poll(&(struct pollfd){ .fd = ends[0] }, 1, 3000);
		undo_all_changes();
		_exit(0);
	}
	close(ends[0]);
	atexit(restore_at_exit);
}

/* A child does not outlive its parent, unless it asks for that itself. */
static inline void die_with_parent(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static pid_t forking;
static bool may_outlive;	/* is the child to stay if the parent ends? */

static inline void before_fork(void)
{
	forking = getpid();
}

/* The parent may have been killed by now. In a new pid namespace, it is 0. */
static inline void after_fork(void)
{
	if (may_outlive)
		return;
	die_with_parent();
	if (getppid() && getppid() != forking)
		_exit(KSFT_FAIL);
}

/* In place of test_harness_run(). */
static inline int run_tests(int argc, char **argv)
{
	start_restorer();
	pthread_atfork(before_fork, NULL, after_fork);
	return test_harness_run(argc, argv);
}

#endif
