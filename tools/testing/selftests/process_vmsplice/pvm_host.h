/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests change of their host, and that it is put back, however they end.
 *
 * Before the tests start, the program becomes three processes:
 *   the first one, which waits, and ends as the second one does;
 *   the supervisor, in a session of its own;
 *   its child, the runner, which is the harness.
 * Whoever changes something notes first how it is undone, in memory that all share.
 * When the runner ends in whatever way, or somebody kills the first process, the
 * supervisor kills what is left of the tests and undoes what is noted. If it is the
 * supervisor that is killed, the first process undoes it.
 */
#ifndef PVM_HOST_H
#define PVM_HOST_H

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kselftest_harness.h"

/*
 * Is it the guest of vmtest.sh? It is thrown away afterwards, so that it may be changed
 * for good; nothing else runs there; and what the tests need is there.
 */
static inline bool host_is_ours(void)
{
	return getenv("VMTEST_GUEST");
}

/* Any host may lack something for a while; if our own does, something is wrong. */
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

struct change {
	void (*undo)(const struct change *change);
	char what[128], was[64];
};

static struct host {
	char scratch[64];	/* a directory for the tests' files */
	struct change changes[MAX_CHANGES];
} *host;

static inline struct change *find_change(void (*undo)(const struct change *change),
					 const char *what)
{
	for (size_t i = 0; i < MAX_CHANGES; i++) {
		struct change *c = &host->changes[i];

		if (c->undo == undo && (!undo || !strcmp(c->what, what)))
			return c;
	}
	return NULL;
}

/* Before the change. What is noted already stays: it is older. */
static inline void note_change(void (*undo)(const struct change *change), const char *what,
			       const char *was)
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
	/* Last: from now on, it is undone. */
	__atomic_store_n(&c->undo, undo, __ATOMIC_RELEASE);
}

static inline void undo_change(void (*undo)(const struct change *change), const char *what)
{
	struct change *c = find_change(undo, what);

	if (!c)
		return;
	c->undo(c);
	c->undo = NULL;
}

static inline void undo_all_changes(void)
{
	for (size_t i = MAX_CHANGES; i-- > 0;) {
		struct change *c = &host->changes[i];

		if (c->undo)
			c->undo(c);
		c->undo = NULL;
	}
}

/* Settings: what the file says or, of "always [madvise] never", the word in brackets. */
static inline bool read_setting(const char *path, char *value, size_t size)
{
	int fd = open(path, O_RDONLY);
	char buf[128], *word = buf;
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return false;
	buf[n] = 0;
	if (strchr(buf, '['))
		word = strchr(buf, '[') + 1;
	word[strcspn(word, "]\n")] = 0;
	return snprintf(value, size, "%s", word) < (int)size;
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

/*
 * Until restore_setting() or the end of the program. Where it is so already, nothing is
 * written, as the file may be read-only.
 */
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

static inline void restore_setting(const char *path)
{
	undo_change(undo_setting, path);
}

static inline long missing_huge_pages(long wanted)
{
	return wanted - read_number("/proc/meminfo", "HugePages_Free") +
	       read_number("/proc/meminfo", "HugePages_Rsvd");
}

/* So many that nobody else has asked for. The pool only ever grows. */
static inline bool reserve_huge_pages(long wanted)
{
	static const char path[] = "/proc/sys/vm/nr_hugepages";
	long missing = missing_huge_pages(wanted);
	char text[32];

	if (missing <= 0)
		return true;
	if (!read_setting(path, text, sizeof(text)))
		return false;
	snprintf(text, sizeof(text), "%ld", atol(text) + missing);
	return change_setting(path, text) && missing_huge_pages(wanted) <= 0;
}

#define KSM_DIR "/sys/kernel/mm/ksm/"

/* Why it can't be had, or NULL. If it runs, it is somebody's, and busy with other pages. */
static inline const char *start_ksm(const char *pages_to_scan, const char *sleep_millisecs)
{
	if (access(KSM_DIR, F_OK))
		return "no KSM";
	/* Those that were changed before are as we want them. */
	if (!find_change(undo_setting, KSM_DIR "run") && !setting_is(KSM_DIR "run", "0"))
		return "KSM is in use by others";
	/* Or pages that are skipped in turns never meet. Not in Linux before 6.7. */
	change_setting(KSM_DIR "smart_scan", "0");
	if (!change_setting(KSM_DIR "pages_to_scan", pages_to_scan) ||
	    !change_setting(KSM_DIR "sleep_millisecs", sleep_millisecs) ||
	    !change_setting(KSM_DIR "run", "1"))
		return "may not start KSM";
	return NULL;
}

static inline void stop_ksm(void)
{
	restore_setting(KSM_DIR "run");
	restore_setting(KSM_DIR "sleep_millisecs");
	restore_setting(KSM_DIR "pages_to_scan");
	restore_setting(KSM_DIR "smart_scan");
}

/* A poisoned page is lost to the host until this file is told its frame. */
#define UNPOISON "/sys/kernel/debug/hwpoison/unpoison-pfn"

static inline void undo_poison(const struct change *c)
{
	if (!access(UNPOISON, W_OK) && !write_file(UNPOISON, c->what))
		fprintf(stderr, "# page %s stays poisoned: %s\n", c->what, strerror(errno));
}

/* A file of the directory that is removed in the end with all that is in it. */
static inline char *scratch_path(char *path, size_t size, const char *name)
{
	if (snprintf(path, size, "%s/%s", host->scratch, name) >= (int)size)
		path[0] = 0;
	return path;
}

static inline void remove_scratch(void)
{
	DIR *dir = opendir(host->scratch);
	struct dirent *entry;
	char path[512];

	while (dir && (entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		scratch_path(path, sizeof(path), entry->d_name);
		if (unlink(path))
			rmdir(path);
	}
	if (dir)
		closedir(dir);
	if (host->scratch[0] && rmdir(host->scratch) && errno != ENOENT)
		perror(host->scratch);
}

static inline void undo_mkdir(const struct change *c)
{
	if (rmdir(c->what) && errno != ENOENT)
		perror(c->what);
}

static inline void undo_mount(const struct change *c)
{
	/* It may not have come to that. */
	if (umount2(c->what, MNT_DETACH) && errno != EINVAL && errno != EPERM)
		perror(c->what);
	rmdir(c->what);
}

/*
 * Who waits for a FUSE server that has been killed can't be killed itself, if both are
 * threads of a process: it has the device open. The mount is in the process's namespace.
 */
static inline void undo_fuse(const struct change *c)
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

static inline void note_fuse(const char *path)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", getpid());
	note_change(undo_fuse, path, pid);
}

static inline void undo_all_fuse(void)
{
	for (size_t i = 0; i < MAX_CHANGES; i++)
		if (host->changes[i].undo == undo_fuse)
			undo_fuse(&host->changes[i]);
}

/* The parent that /proc says a process has, or -1. */
static inline pid_t parent_of(const char *pid)
{
	char path[300], line[512], *paren = NULL;
	int parent = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%s/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return -1;
	if (fgets(line, sizeof(line), f))
		paren = strrchr(line, ')');
	if (!paren || sscanf(paren, ") %*c %d", &parent) != 1)
		parent = -1;
	fclose(f);
	return parent;
}

static inline void kill_children(void)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (isdigit(entry->d_name[0]) && parent_of(entry->d_name) == getpid())
			kill(atoi(entry->d_name), SIGKILL);
	if (dir)
		closedir(dir);
}

/* Those of a child that dies become our own. One that does not die must not stop us. */
static inline void kill_descendants(void)
{
	for (int i = 0; i < 1000; i++) {
		pid_t pid;

		kill_children();
		if (i % 100 == 10)
			undo_all_fuse();
		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		if (pid < 0)
			return;
		usleep(10000);
	}
	fprintf(stderr, "# a process of the tests does not end\n");
}

/* As a shell says it. */
static inline int exit_code_of(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Its exit code; or that of one who was killed, if we are told to end before. */
static inline int wait_for_runner(pid_t runner, const sigset_t *signals)
{
	int sig, status;
	pid_t pid;

	while (!sigwait(signals, &sig)) {
		if (sig != SIGCHLD)
			return 128 + sig;
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			if (pid == runner)
				return exit_code_of(status);
	}
	return KSFT_FAIL;
}

/* Two programs at once would each take what the other has changed for the host's own. */
static inline int lock_out_others(pid_t parent)
{
	int fd = open("/proc/sys/vm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool said = false;

	while (flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
		if (getppid() != parent)
			_exit(KSFT_FAIL);
		if (!said)
			fprintf(stderr, "# waiting for another test to end\n");
		said = true;
		usleep(10000);
	}
	return fd;
}

/* The child of parent must not be there without it. */
static inline void die_with(pid_t parent, int sig)
{
	prctl(PR_SET_PDEATHSIG, sig);
	if (getppid() != parent)
		_exit(KSFT_FAIL);
}

/* Returns in the runner. */
static inline void supervisor_main(pid_t first)
{
	static const int reasons[] = { SIGCHLD, SIGHUP, SIGINT, SIGTERM };
	sigset_t signals, was;
	int lock, code;
	pid_t runner, self = getpid();

	sigemptyset(&signals);
	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
		sigaddset(&signals, reasons[i]);
	sigprocmask(SIG_BLOCK, &signals, &was);
	die_with(first, SIGTERM);
	/* What kills a process group is about the first process. */
	setsid();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	lock = lock_out_others(first);
	strcpy(host->scratch, "/tmp/process_vmsplice.XXXXXX");
	if (!mkdtemp(host->scratch))
		host->scratch[0] = 0;

	runner = fork();
	if (!runner) {
		close(lock);
		die_with(self, SIGKILL);
		sigprocmask(SIG_SETMASK, &was, NULL);
		return;
	}
	code = runner < 0 ? KSFT_FAIL : wait_for_runner(runner, &signals);
	kill_descendants();
	undo_all_changes();
	remove_scratch();
	_exit(code);
}

/* Returns in the runner. */
static inline void supervise(void)
{
	pid_t first = getpid(), supervisor;
	int status;

	host = mmap(NULL, sizeof(*host), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		    -1, 0);
	if (host == MAP_FAILED)
		_exit(KSFT_FAIL);
	signal(SIGCHLD, SIG_DFL);
	/* If the supervisor dies, of what it leaves. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	supervisor = fork();
	if (!supervisor) {
		supervisor_main(first);
		return;
	}
	while (waitpid(supervisor, &status, 0) != supervisor)
		if (errno != EINTR)
			_exit(KSFT_FAIL);
	if (WIFSIGNALED(status)) {
		kill_descendants();
		undo_all_changes();
		remove_scratch();
	}
	_exit(exit_code_of(status));
}

/* For main(). What prepare changes is undone, too. */
static inline int run_supervised(int argc, char **argv, void (*prepare)(void))
{
	supervise();
	if (prepare)
		prepare();
	return test_harness_run(argc, argv);
}

/* In place of TEST_HARNESS_MAIN. */
#define SUPERVISED_HARNESS_MAIN						\
	int main(int argc, char **argv)					\
	{								\
		exit(run_supervised(argc, argv, NULL));			\
	}

#endif
