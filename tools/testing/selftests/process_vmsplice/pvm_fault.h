/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For tests that hold up the faults of a target, by userfaultfd: they decide
 * when to resolve them, and get a message when a caller has met one.
 */
#ifndef PVM_FAULT_H
#define PVM_FAULT_H

#include <linux/userfaultfd.h>
#include <sys/utsname.h>
#include "pvm_test.h"

/* The region's first pages are present. The others fault until resolved. */
#define PRESENT 2
#define REGION_PAGES 8
#define REGION_SIZE (REGION_PAGES * page_size)
#define THERE (PRESENT * page_size)

static inline int watch_faults(void *mem, size_t size, int flags)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { (uintptr_t)mem, size },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	/* With UFFD_USER_MODE_ONLY, faults of the kernel would not be held up. */
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);

	if (fd < 0)
		return -1;
	if (!ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &reg))
		return fd;
	close(fd);
	return -1;
}

/* The thread or process that made the last call. */
static pid_t last_caller;

/* False if there is none, as the call has returned. */
static inline bool next_fault(int uffd)
{
	struct pollfd pfd = { .fd = uffd, .events = POLLIN };
	struct uffd_msg msg;

	while (!poll(&pfd, 1, 100))
		if (last_caller && strchr("ZX", thread_state(last_caller)))
			return false;
	return read(uffd, &msg, sizeof(msg)) == sizeof(msg) &&
	       msg.event == UFFD_EVENT_PAGEFAULT;
}

static inline bool no_fault_so_far(int uffd)
{
	return poll(&(struct pollfd){ uffd, POLLIN, 0 }, 1, 0) == 0;
}

static inline bool resolve_page(int uffd, unsigned char *mem, size_t page)
{
	unsigned char *src = malloc((page + 1) * page_size);
	struct uffdio_copy copy = {
		.dst = (uintptr_t)mem + page * page_size,
		.src = (uintptr_t)src + page * page_size,
		.len = page_size,
	};
	bool ok;

	set_pattern(src, page * page_size, (page + 1) * page_size, OLD_BYTES);
	ok = !ioctl(uffd, UFFDIO_COPY, &copy);
	free(src);
	return ok;
}

/* Resolve all faults, the first one last: then the caller finds all pages. */
static inline bool resolve(int uffd, unsigned char *mem)
{
	bool ok = true;

	for (size_t page = REGION_PAGES; page-- > PRESENT;)
		ok = resolve_page(uffd, mem, page) && ok;
	return ok;
}

static inline int make_region(unsigned char *mem)
{
	set_pattern(mem, 0, THERE, OLD_BYTES);
	return watch_faults(mem, REGION_SIZE, 0);
}

/* A child whose region faults. *uffd is a copy of its descriptor, or -1. */
static inline pid_t start_faulting_target(unsigned char *mem, int *uffd)
{
	int p[2], theirs = -1, pidfd;
	pid_t pid;

	if (pipe(p))
		return -1;
	pid = fork();
	if (!pid) {
		let_all_call();
		theirs = make_region(mem);
		if (write(p[1], &theirs, sizeof(theirs)) != sizeof(theirs))
			_exit(1);
		for (;;)
			pause();
	}
	close(p[1]);
	read_all(p[0], &theirs, sizeof(theirs));
	close(p[0]);
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	*uffd = syscall(SYS_pidfd_getfd, pidfd, theirs, 0);
	close(pidfd);
	return pid;
}

/* Since Linux 6.2, any signal ends the wait for userfaultfd. */
static inline bool signals_end_faults(void)
{
	struct utsname uts;
	int major, minor;

	return uname(&uts) ||
	       sscanf(uts.release, "%d.%d", &major, &minor) != 2 ||
	       major > 6 || (major == 6 && minor >= 2);
}

/* The state of a caller in a fault: D where only a fatal signal ends that. */
static inline char state_in_fault(pid_t tid)
{
	/* Others pass through D, too, for locks on PREEMPT_RT. */
	char state = wait_for_states(tid, signals_end_faults() ? "S" : "SD");

	if (state == 'Z' || state == 'X')
		give_up("the caller has ended in its fault: %c", state);
	return state;
}

/* Start the call, and return its state when it has met a fault. */
static inline char caller_start_faulting(struct caller *c, int uffd)
{
	caller_start(c);
	last_caller = c->tid;
	if (!next_fault(uffd))
		give_up("no message of a fault");
	return state_in_fault(last_caller);
}

/* A process that makes one call, and exits with 0 if that inserts all. */
static inline pid_t fork_caller(pid_t pid, int fd, void *addr, size_t len)
{
	struct iovec iov = { addr, len };
	pid_t caller = fork();
	ssize_t ret;

	last_caller = caller;
	if (caller)
		return caller;
	ret = pvm(pid, fd, &iov, 1, 0);
	if (ret != (ssize_t)len)
		give_up("the call has returned %zd", ret);
	_exit(0);
}

static inline int exit_status(pid_t pid)
{
	int status;

	return waitpid(pid, &status, 0) == pid ? status : -1;
}

/* A target, or a caller, that the test pauses in one way or another. */
#define CGROUP "/sys/fs/cgroup/process_vmsplice_test"

static inline bool write_pid(const char *path, pid_t pid)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", pid);
	return write_file(path, text);
}

/* The kernel notifies us of it. */
static inline bool wait_until_frozen(void)
{
	struct pollfd fd = {
		.fd = open(CGROUP "/cgroup.events", O_RDONLY),
		.events = POLLPRI,
	};
	char text[128] = "";

	while (!strstr(text, "frozen 1")) {
		ssize_t n = pread(fd.fd, text, sizeof(text) - 1, 0);

		if (n <= 0)
			break;
		text[n] = 0;
		if (strstr(text, "frozen 0"))
			poll(&fd, 1, -1);
	}
	close(fd.fd);
	return strstr(text, "frozen 1");
}

static inline bool pause_by_freezer(pid_t pid)
{
	return write_pid(CGROUP "/cgroup.procs", pid) &&
	       write_file(CGROUP "/cgroup.freeze", "1") && wait_until_frozen();
}

static inline bool resume_by_freezer(pid_t pid)
{
	return write_file(CGROUP "/cgroup.freeze", "0");
}

static inline bool pause_by_signal(pid_t pid)
{
	int status;

	return !kill(pid, SIGSTOP) && waitpid(pid, &status, WUNTRACED) == pid &&
	       WIFSTOPPED(status);
}

static inline bool resume_by_signal(pid_t pid)
{
	return !kill(pid, SIGCONT);
}

static inline bool pause_by_ptrace(pid_t pid)
{
	int status;

	return !ptrace(PTRACE_SEIZE, pid, NULL, NULL) &&
	       !ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) &&
	       waitpid(pid, &status, 0) == pid && WIFSTOPPED(status);
}

static inline bool resume_by_ptrace(pid_t pid)
{
	return !ptrace(PTRACE_DETACH, pid, NULL, NULL);
}

FIXTURE(paused) {
	TARGET_MEMBERS;
	int uffd;
	unsigned char *fresh;
};

FIXTURE_VARIANT(paused) {
	bool (*pause)(pid_t pid);
	bool (*resume)(pid_t pid);
};

FIXTURE_VARIANT_ADD(paused, stopped) { pause_by_signal, resume_by_signal };
FIXTURE_VARIANT_ADD(paused, ptrace_stopped) { pause_by_ptrace, resume_by_ptrace };
FIXTURE_VARIANT_ADD(paused, frozen) { pause_by_freezer, resume_by_freezer };

FIXTURE_SETUP(paused)
{
	if (variant->pause == pause_by_freezer) {
		if (access("/sys/fs/cgroup/cgroup.procs", W_OK))
			SKIP(return, "no cgroup v2, or none for us");
		note_change(undo_create, CGROUP, "");
		if (mkdir(CGROUP, 0700))
			SKIP(return, "no new cgroup for us");
	}
	self->size = REGION_SIZE;
	self->mem = map_small(self->size);
	self->fresh = map_small(self->size);
	self->pid = start_faulting_target(self->mem, &self->uffd);
	ASSERT_LT(0, self->pid);
	OPEN_PIPE();
}

FIXTURE_TEARDOWN(paused)
{
	kill(self->pid, SIGKILL);
	waitpid(self->pid, NULL, 0);
	undo_change(undo_create, CGROUP);
}

#endif
