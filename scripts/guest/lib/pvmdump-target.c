// SPDX-License-Identifier: GPL-2.0
/*
 * states KIND - a process in a state that makes dumping hard, for scripts/guest/lib/pvmdump-guest
 *
 * Says "ready PID", of the process that is to be dumped, and sleeps until it is killed;
 * PID is 0 if the kernel lacks what it takes.
 * Each page of what belongs into a core file has the text "in-NAME"; of what does not,
 * "out-NAME".
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

#define PAGE 4096UL
#define LEN (16 * PAGE)
#define HUGE (2UL << 20)
#define RW (PROT_READ | PROT_WRITE)

static void ready(pid_t pid)
{
	printf("ready %d\n", pid);
	fflush(stdout);
}

static void idle(void)
{
	for (;;)
		pause();
}

static char *map(size_t len, int flags, int fd)
{
	char *p = mmap(NULL, len, RW, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

static void mark(char *p, size_t len, const char *text)
{
	for (size_t i = 0; i < len; i += PAGE)
		strcpy(p + i, text);
}

static void advise(char *p, size_t len, int advice)
{
	if (madvise(p, len, advice))
		err(1, "madvise %d", advice);
}

/* Guards in each kind of memory that can have them, among what has been touched. */
static void guards(void)
{
	int fd = memfd_create("guards", 0);
	char *p[] = {
		map(LEN, MAP_PRIVATE, -1), map(LEN, MAP_SHARED, -1), map(LEN, MAP_PRIVATE, fd),
	};

	if (ftruncate(fd, LEN))
		err(1, "ftruncate");
	for (int i = 0; i < 3; i++) {
		mark(p[i], LEN, "in-guards");
		if (madvise(p[i] + 4 * PAGE, 3 * PAGE, MADV_GUARD_INSTALL) ||
		    madvise(p[i] + LEN - PAGE, PAGE, MADV_GUARD_INSTALL))
			ready(0);
	}
}

/* What a child inherits, and has not touched: its page tables have nothing of it. */
static void untouched(void)
{
	char name[] = "/tmp/deleted-XXXXXX";
	int fd = mkstemp(name), memfd = memfd_create("untouched", 0);

	mark(map(LEN, MAP_SHARED, -1), LEN, "in-anonymous");
	if (ftruncate(memfd, LEN) || ftruncate(fd, LEN) || unlink(name))
		err(1, "ftruncate");
	mark(map(LEN, MAP_SHARED, memfd), LEN, "in-memfd");
	mark(map(LEN, MAP_SHARED, fd), LEN, "in-deleted");
	if (!fork()) {
		map(LEN, MAP_PRIVATE, fd);
		ready(getpid());
	}
	idle();
}

/* A file of huge pages: all of the first is there, nothing of the second. */
static void huge(void)
{
	int fd = memfd_create("huge", MFD_HUGETLB);
	char *p;

	if (ftruncate(fd, 3 * HUGE))
		err(1, "ftruncate");
	p = map(3 * HUGE, MAP_SHARED, fd);
	mark(p, HUGE, "in-huge");
	strcpy(p + 2 * HUGE, "in-huge");
	if (!fork()) {
		map(3 * HUGE, MAP_PRIVATE | MAP_NORESERVE, fd);
		close(fd);
		ready(getpid());
	}
	idle();
}

static void swapped(void)
{
	char *p = map(LEN, MAP_SHARED, -1), *q = map(LEN, MAP_PRIVATE, -1);

	mark(p, LEN, "in-swapped-shmem");
	mark(q, LEN, "in-swapped");
	advise(p, LEN, MADV_PAGEOUT);
	advise(q, LEN, MADV_PAGEOUT);
}

/* Data that the process itself may not read now. */
static void protected(void)
{
	static const int prots[] = { PROT_NONE, PROT_WRITE, PROT_EXEC };

	for (int i = 0; i < 3; i++) {
		char *p = map(LEN, MAP_PRIVATE, -1);

		mark(p, LEN, "in-protected");
		mprotect(p, LEN, prots[i]);
	}
}

static void left_out(void)
{
	char *p = map(LEN, MAP_PRIVATE, -1);
	int fd = open("/tmp/named", O_RDWR | O_CREAT, 0600);

	mark(p, LEN, "out-dontdump");
	advise(p, LEN, MADV_DONTDUMP);
	if (ftruncate(fd, LEN))
		err(1, "ftruncate");
	mark(map(LEN, MAP_SHARED, fd), LEN, "out-named-shared");
	p = map(LEN, MAP_PRIVATE, fd);
	strcpy(p, "in-written-private");
}

/* Much that nobody has written to: read only, reserved, of the zero page. */
static void empty(void)
{
	char *p = map(32UL << 20, MAP_PRIVATE | MAP_NORESERVE, -1);
	volatile char sum = 0;

	for (size_t i = 0; i < 32UL << 20; i += PAGE)
		sum += p[i];
	if (sizeof(long) == 8)
		p = map((size_t)(1ULL << 40), MAP_PRIVATE | MAP_NORESERVE, -1);
	map(64UL << 20, MAP_SHARED | MAP_NORESERVE, -1);
	strcpy(p, "in-empty");
}

/* More segments than ELF's header can count: every other page has data, and some are mappings. */
static void many(void)
{
	size_t nr = 66000;
	char *p = map(nr * PAGE, MAP_PRIVATE | MAP_NORESERVE, -1);

	advise(p, nr * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < nr; i += 2)
		p[i * PAGE] = 1;
	for (size_t i = 0; i < 1000; i += 2)
		if (mprotect(p + i * PAGE, PAGE, PROT_READ))
			err(1, "mprotect");
}

static void *wait_for_end_of_leader(void *arg)
{
	char path[64], text[256];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", getpid());
	do {
		usleep(1000);
		memset(text, 0, sizeof(text));
		fd = open(path, O_RDONLY);
		if (read(fd, text, sizeof(text) - 1) < 0)
			err(1, "stat");
		close(fd);
	} while (!strstr(text, ") Z "));
	ready(getpid());
	idle();
	return arg;
}

static void leader_ends(void)
{
	pthread_t t;

	mark(map(LEN, MAP_PRIVATE, -1), LEN, "in-leader-ends");
	pthread_create(&t, NULL, wait_for_end_of_leader, NULL);
	pthread_exit(NULL);
}

static void *nothing(void *arg)
{
	return arg;
}

static void *churn_threads(void *arg)
{
	pthread_t t;

	for (;;)
		if (!pthread_create(&t, NULL, nothing, NULL))
			pthread_join(t, NULL);
	return arg;
}

static void churn(void)
{
	pthread_t t;

	for (int i = 0; i < 4; i++)
		pthread_create(&t, NULL, churn_threads, NULL);
}

/* Each starts the next one, and ends. */
static void *start_next(void *arg)
{
	pthread_t t;

	usleep(200);
	while (pthread_create(&t, NULL, start_next, NULL))
		usleep(100);
	pthread_detach(t);
	return arg;
}

/* No thread stays, and the main one has ended. */
static void relay(void)
{
	for (int i = 0; i < 8; i++)
		start_next(NULL);
	ready(getpid());
	pthread_exit(NULL);
}

/* A file that only its owner finds by its name, and of which one page is its own. */
static void unreachable(void)
{
	char *p, page[PAGE] = "in-unreachable";
	int fd, memfd = memfd_create("short", 0);

	if (mkdir("/tmp/closed", 0700) || chdir("/tmp/closed"))
		err(1, "/tmp/closed");
	fd = open("file", O_RDWR | O_CREAT, 0600);
	for (unsigned long i = 0; i < LEN; i += PAGE)
		if (write(fd, page, PAGE) != (ssize_t)PAGE)
			err(1, "write");
	memset(page, 0, PAGE);
	p = map(LEN, MAP_PRIVATE, fd);
	strcpy(p, "in-written");
	if (ftruncate(memfd, PAGE))
		err(1, "ftruncate");
	strcpy(map(LEN, MAP_SHARED, memfd), "in-short");
	if (chmod("/tmp/closed", 0))
		err(1, "chmod");
}

/* Waits for its child in an uninterruptible sleep. */
static void vforks(void)
{
	pid_t pid;

	mark(map(LEN, MAP_PRIVATE, -1), LEN, "in-vforks");
	ready(getpid());
	pid = vfork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
		_exit(0);
	}
}

static void become(int signal)
{
	(void)signal;
	execl("/proc/self/exe", "states", "second", NULL);
}

/* More than a pipe takes, at an address that the next program has as well. */
static void fill(const char *text)
{
	void *at = (void *)0x20000000UL;
	char *p = mmap(at, 16UL << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (p != at)
		err(1, "mmap");
	mark(p, 16UL << 20, text);
}

static void execs(void)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGUSR1, become);
	fill("in-first");
}

/* Its child is to be dumped, whose memory this one keeps. */
static void lends(void)
{
	execs();
	if (!vfork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		ready(getpid());
		idle();
	}
	idle();
}

static void *exec_again(void *arg)
{
	usleep(1000);
	execl("/proc/self/exe", "states", "exec_threads", NULL);
	return arg;
}

static void *idle_thread(void *arg)
{
	idle();
	return arg;
}

/* Again and again, a thread that is not the main one becomes the same program. */
static void exec_threads(void)
{
	pthread_t t;

	if (!getenv("AGAIN"))
		ready(getpid());
	setenv("AGAIN", "", 1);
	for (int i = 0; i < 8; i++)
		pthread_create(&t, NULL, idle_thread, NULL);
	pthread_create(&t, NULL, exec_again, NULL);
	idle();
}

static void second(void)
{
	fill("in-second");
}

static char *changing;

static void change(int signal)
{
	mark(changing, LEN, "in-after");
	ready(signal);
}

static void changes(void)
{
	changing = map(LEN, MAP_PRIVATE, -1);
	mark(changing, LEN, "in-before");
	signal(SIGUSR1, change);
}

/* A signal beyond the 32nd that waits for this thread. */
static void pending(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, 50);
	sigprocmask(SIG_BLOCK, &set, NULL);
	pthread_kill(pthread_self(), 50);
}

static void map_name(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT, 0600);

	if (ftruncate(fd, LEN))
		err(1, "%s", name);
	map(LEN, MAP_SHARED, fd);
}

/* A newline, and what maps has for one. */
static void names(void)
{
	map_name("/tmp/new\nline");
	map_name("/tmp/not\\012one");
}

/* A file that only the privileged can open, as nobody has it open: 2.5 GiB of nothing. */
static void large(void)
{
	int fd = memfd_create("large", 0);

	if (ftruncate64(fd, 5LL << 29))
		err(1, "ftruncate");
	strcpy(map((size_t)(5ULL << 29), MAP_SHARED | MAP_NORESERVE, fd), "in-large");
	close(fd);
}

static int watch(char *p, int features, int mode)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	struct uffdio_register range = { { (unsigned long)p, LEN }, .mode = mode };
	int uffd = syscall(SYS_userfaultfd, 0);

	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &range))
		err(1, "userfaultfd");
	return uffd;
}

/* Nobody will ever bring what is between the first page and the last. */
static void missing(void)
{
	int fd = memfd_create("missing", 0);
	char *p;

	if (ftruncate(fd, LEN))
		err(1, "ftruncate");
	p = map(LEN, MAP_SHARED, fd);
	strcpy(p, "in-missing");
	strcpy(p + LEN - PAGE, "in-missing");
	close(fd);
	watch(p, 0, UFFDIO_REGISTER_MODE_MISSING);
}

/* All is there, and nobody will ever say that it may be mapped a second time. */
static void minor(void)
{
	int fd = memfd_create("minor", 0);

	if (ftruncate(fd, LEN))
		err(1, "ftruncate");
	mark(map(LEN, MAP_SHARED, fd), LEN, "in-minor");
	watch(map(LEN, MAP_SHARED, fd), UFFD_FEATURE_MINOR_SHMEM, UFFDIO_REGISTER_MODE_MINOR);
}

/* Protected, and not there, but for the first: nobody will ever bring the others. */
static void marks(void)
{
	char *p = map(LEN, MAP_PRIVATE, -1);
	struct uffdio_writeprotect wp = {
		{ (unsigned long)p, LEN }, UFFDIO_WRITEPROTECT_MODE_WP
	};

	strcpy(p, "in-marks");
	if (ioctl(watch(p, UFFD_FEATURE_WP_UNPOPULATED,
			UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP),
		  UFFDIO_WRITEPROTECT, &wp))
		err(1, "UFFDIO_WRITEPROTECT");
}

#ifdef __LP64__
/* A 64-bit process in 32-bit code, which is in pause() again and again. */
static void narrow(void)
{
#ifdef __x86_64__
	static const unsigned char code[] = { 0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7 };
	char *p = mmap(NULL, PAGE, RW | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT,
		       -1, 0);
	struct { unsigned int offset; unsigned short segment; } to = { (unsigned long)p, 0x23 };

	memcpy(p, code, sizeof(code));
	strcpy(p + 16, "in-narrow");
	ready(getpid());
	asm volatile("ljmp *%0" : : "m" (to));
#endif
}
#endif

static void exits(int signal)
{
	_exit(signal);
}

static void may_exit(void)
{
	signal(SIGUSR1, exits);
	fill("in-exits");
}

/* Its child is to be dumped. */
static void trace(bool stop)
{
	pid_t pid;

	mark(map(LEN, MAP_PRIVATE, -1), LEN, "in-traced");
	pid = fork();
	if (!pid)
		idle();
	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL))
		err(1, "PTRACE_SEIZE");
	if (stop && (ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) || waitpid(pid, NULL, 0) != pid))
		err(1, "PTRACE_INTERRUPT");
	ready(pid);
	idle();
}

static void traces(void)
{
	trace(false);
}

static void stops(void)
{
	trace(true);
}

static void zombie(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	if (waitid(P_PID, pid, NULL, WEXITED | WNOWAIT))
		err(1, "waitid");
	ready(pid);
	idle();
}

static void *say_id(void *arg)
{
	ready(syscall(SYS_gettid));
	idle();
	return arg;
}

static void thread(void)
{
	pthread_t t;

	pthread_create(&t, NULL, say_id, NULL);
	idle();
}

/* For a debugger to find: threads in functions, a global, and what is on the heap. */

char global_text[] = "in-global";
char *heap;

static __attribute__((noinline)) void inner(void)
{
	idle();
}

static __attribute__((noinline)) void *outer(void *arg)
{
	inner();
	return arg;
}

static void threads(void)
{
	pthread_t t;

	if (asprintf(&heap, "in-heap-%d", getpid()) < 0)
		err(1, "asprintf");
	for (int i = 0; i < 3; i++)
		pthread_create(&t, NULL, outer, NULL);
}

static void nonblock(char **argv)
{
	fcntl(1, F_SETFL, fcntl(1, F_GETFL) | O_NONBLOCK);
	execvp(*argv, argv);
	err(1, "%s", *argv);
}

/* CALL ARGUMENT PROGRAM...: the call fails, with any third argument if that is -1. */
static void fail(char **argv)
{
	unsigned int third = atoi(argv[1]);
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned int)atoi(argv[0]), 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | (third + 1 ? BPF_JEQ : BPF_JGE) | BPF_K,
			 third + 1 ? third : 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 5 /* EIO */),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(filter) / sizeof(*filter), filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		err(1, "seccomp");
	execvp(argv[2], argv + 2);
	err(1, "%s", argv[2]);
}

static const struct {
	const char *name;
	void (*be)(void);
} kinds[] = {
	{ "guards", guards }, { "untouched", untouched }, { "swapped", swapped },
	{ "protected", protected }, { "left_out", left_out }, { "empty", empty },
	{ "many", many }, { "leader_ends", leader_ends }, { "churn", churn },
	{ "relay", relay }, { "unreachable", unreachable },
	{ "vforks", vforks }, { "execs", execs }, { "second", second },
	{ "may_exit", may_exit }, { "traces", traces }, { "zombie", zombie },
	{ "thread", thread }, { "stops", stops },
	{ "threads", threads }, { "lends", lends },
	{ "exec_threads", exec_threads }, { "changes", changes }, { "pending", pending },
	{ "names", names }, { "large", large }, { "missing", missing },
	{ "huge", huge }, { "minor", minor }, { "marks", marks },
#ifdef __LP64__
	{ "narrow", narrow },
#endif
};

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "nonblock"))
		nonblock(argv + 2);
	if (argc > 4 && !strcmp(argv[1], "fails"))
		fail(argv + 2);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds) && argc == 2; i++) {
		if (strcmp(argv[1], kinds[i].name))
			continue;
		kinds[i].be();
		ready(getpid());
		idle();
	}
	errx(2, "no kind of process: %s", argv[argc - 1]);
}
