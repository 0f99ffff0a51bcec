/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of process_vmsplice() share: the call, patterns, a target that
 * takes commands, a caller that can be seen blocked. No test waits for time to
 * pass: to see a thread blocked, it waits until /proc says that it sleeps.
 */
#ifndef PVM_TEST_H
#define PVM_TEST_H

#include <limits.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdint.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "pvm_host.h"

#ifndef __NR_process_vmsplice
#ifdef __alpha__
#define __NR_process_vmsplice 583
#elif defined(__mips__) && _MIPS_SIM == _MIPS_SIM_ABI32
#define __NR_process_vmsplice (4000 + 473)
#elif defined(__mips__) && _MIPS_SIM == _MIPS_SIM_ABI64
#define __NR_process_vmsplice (5000 + 473)
#elif defined(__mips__)
#define __NR_process_vmsplice (6000 + 473)
#elif defined(__x86_64__) && defined(__ILP32__)
#define __NR_process_vmsplice (0x40000000 + 473)
#else
#define __NR_process_vmsplice 473
#endif
#endif

#ifndef PROCESS_VMSPLICE_PIDFD
#define PROCESS_VMSPLICE_PIDFD 0x10000U
#endif
#ifndef O_NOTIFICATION_PIPE
#define O_NOTIFICATION_PIPE O_EXCL
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

/* Under TCG with a debug kernel, the harness's 30 s are few. */
#define TIMEOUT 240

#define NR_PAGES 320
#define NOBODY 65534
/* Above the limit of pids: no process has it. */
#define NO_PID 0x7ffffff0
/* In the first page, which no program has; the stack may be near the last. */
#define BAD_PTR ((void *)16)

static size_t page_size;

/* The result, or -errno: one value to compare. */
static inline ssize_t pvm(pid_t pid, int fd, const struct iovec *iov,
			  unsigned long nr_segs, unsigned int flags)
{
	ssize_t ret;

	/* A negative result without an error must not look like one. */
	errno = 0;
	ret = syscall(__NR_process_vmsplice, pid, fd, iov, nr_segs, flags);
	return ret < 0 ? -errno : ret;
}

static inline ssize_t readv_from(pid_t pid, const void *addr, void *buf,
				 size_t len)
{
	struct iovec local = { buf, len }, remote = { (void *)addr, len };
	ssize_t ret = process_vm_readv(pid, &local, 1, &remote, 1, 0);

	return ret < 0 ? -errno : ret;
}

/* The seed of a pattern says who wrote a byte. */
enum { OLD_BYTES, NEW_BYTES, OTHER_BYTES, FILE_BYTES };

/* No two words of a pattern are alike, so that shifted or lost bytes show. */
static inline uint64_t pattern_word(size_t nr, unsigned char seed)
{
	/* Odd, so that the products differ. */
	return (nr + 1) * 0x9e3779b97f4a7c15ULL ^ seed * 0x0101010101010101ULL;
}

static inline void set_pattern(unsigned char *mem, size_t from, size_t to,
			       unsigned char seed)
{
	while (from < to) {
		uint64_t word = pattern_word(from / sizeof(word), seed);
		size_t at = from % sizeof(word);

		if (!at && to - from >= sizeof(word)) {
			memcpy(mem + from, &word, sizeof(word));
			from += sizeof(word);
		} else {
			mem[from++] = ((unsigned char *)&word)[at];
		}
	}
}

/* The first of the bytes from..from+len that is not as in buf, or len. */
static inline size_t differs(const unsigned char *buf, size_t from, size_t len,
			     unsigned char seed)
{
	size_t done = 0;

	while (done < len) {
		size_t pos = from + done, at = pos % sizeof(uint64_t);
		uint64_t is, word = pattern_word(pos / sizeof(word), seed);

		if (!at && len - done >= sizeof(word)) {
			memcpy(&is, buf + done, sizeof(is));
			if (is == word) {
				done += sizeof(word);
				continue;
			}
		}
		if (buf[done] != ((unsigned char *)&word)[at])
			break;
		done++;
	}
	return done;
}

static inline bool is_filled(const unsigned char *buf, size_t len,
			     unsigned char byte)
{
	return !len || (buf[0] == byte && !memcmp(buf, buf + 1, len - 1));
}

/* Read len bytes, fewer only at the end of the file or if none are there now. */
static inline ssize_t read_all(int fd, void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = read(fd, (char *)buf + done, len - done);

		if (n <= 0)
			break;
		done += n;
	}
	return done;
}

static inline int in_pipe(int fd)
{
	int n;

	return ioctl(fd, FIONREAD, &n) ? -1 : n;
}

/* How many pages a pipe takes. */
static inline int pipe_slots(int fd)
{
	return fcntl(fd, F_GETPIPE_SZ) / page_size;
}

/* With so many slots; 0 for as many as pipes have. */
static inline bool open_pipe(int *rd, int *wr, int slots)
{
	int p[2];

	if (pipe(p))
		return false;
	*rd = p[0];
	*wr = p[1];
	return !slots || (fcntl(*wr, F_SETPIPE_SZ, slots * page_size) >= 0 &&
			  pipe_slots(*wr) >= slots);
}

static inline bool fill_pipe(int fd)
{
	char *page = calloc(1, page_size);
	int left = pipe_slots(fd);

	while (left && write(fd, page, page_size) == (ssize_t)page_size)
		left--;
	free(page);
	return !left;
}

static inline bool drain(int fd, size_t len)
{
	char *buf = malloc(len);
	bool ok = read_all(fd, buf, len) == (ssize_t)len;

	free(buf);
	return ok;
}

static inline unsigned char *map_anon(size_t size)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);

	return mem == MAP_FAILED ? NULL : mem;
}

/* Small pages, also where huge ones are the default. */
static inline unsigned char *map_small(size_t size)
{
	unsigned char *mem = map_anon(size);

	madvise(mem, size, MADV_NOHUGEPAGE);
	return mem;
}

static inline unsigned char *map_aligned(size_t size, size_t align)
{
	uintptr_t mem = (uintptr_t)map_anon(size + align);

	return mem ? (unsigned char *)((mem + align - 1) & -align) : NULL;
}

/* A file of so many bytes, with a pattern. */
static inline int pattern_file(size_t size, unsigned char seed)
{
	int fd = memfd_create("file", 0);
	unsigned char *p = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, size))
		p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -1;
	set_pattern(p, 0, size, seed);
	munmap(p, size);
	return fd;
}

/*
 * A program of its own: this one, executed anew, with a page of known bytes at
 * an address that all know. It reports that, and stays until nobody listens.
 */
#define IMAGE ((unsigned char *)0x60000000UL)
#define IMAGE_ENV "PVM_IMAGE"

static inline bool fill_image(unsigned char seed)
{
	if (mmap(IMAGE, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		 MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != IMAGE)
		return false;
	set_pattern(IMAGE, 0, page_size, seed);
	return true;
}

static inline int exec_image(const char *path, int ctl)
{
	char fd[16];

	snprintf(fd, sizeof(fd), "%d", ctl);
	setenv(IMAGE_ENV, fd, 1);
	return execl(path, "image", NULL);
}

static inline void image_main(int ctl)
{
	int answer = 0, n = sizeof(answer);
	char c;

	if (fill_image(NEW_BYTES) && write(ctl, &answer, n) == n)
		while (read(ctl, &c, 1) > 0)
			;
	_exit(0);
}

/*
 * The target: a child with a region of memory, which obeys commands: it does
 * something to a range of the region, or has children that obey commands, too.
 */
enum op {
	WRITE_OLD, WRITE_NEW, WRITE_OTHER, READ,
	READ_ONLY, READ_WRITE, WRITE_ONLY, NO_ACCESS,
	HUGE_PAGES, SMALL_PAGES, MERGE, FREE, DISCARD, REMOVE, PAGE_OUT, POISON,
	GUARD, KEEP_FROM_FORK, GIVE_TO_FORK, UNMAP, MAP_ANEW, EXCHANGE_ENDS,
	VMSPLICE,	/* to the descriptor "from", the first "to" bytes */
	FORK, FORK_ONCE, EXEC, BE_UNDUMPABLE, EXIT,
};

/* The ops that are a madvise(). */
static const int advices[] = {
	[HUGE_PAGES] = MADV_HUGEPAGE, [SMALL_PAGES] = MADV_NOHUGEPAGE,
	[MERGE] = MADV_MERGEABLE, [FREE] = MADV_FREE, [DISCARD] = MADV_DONTNEED,
	[REMOVE] = MADV_REMOVE, [PAGE_OUT] = MADV_PAGEOUT,
	[POISON] = MADV_HWPOISON, [GUARD] = MADV_GUARD_INSTALL,
	[KEEP_FROM_FORK] = MADV_DONTFORK, [GIVE_TO_FORK] = MADV_DOFORK,
};

struct command {
	enum op op;
	size_t from, to;
};

static inline bool move_page(void *from, void *to)
{
	return mremap(from, page_size, page_size,
		      MREMAP_MAYMOVE | MREMAP_FIXED, to) == to;
}

static inline int exchange_ends(unsigned char *start, size_t len)
{
	unsigned char *last = start + len - page_size;
	void *spare = map_anon(page_size);

	return move_page(start, spare) && move_page(last, start) &&
	       move_page(spare, last) ? 0 : -1;
}

static inline int fork_once(void)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	return waitpid(child, NULL, 0) == child ? 0 : -1;
}

/* The target and its descendants, in the order in which they were forked. */
#define MAX_SERVERS 3

struct servers {
	int ctl[MAX_SERVERS];
	int me, last;
};

static inline void serve(unsigned char *mem, struct servers *s);

static inline int fork_server(unsigned char *mem, struct servers *s)
{
	pid_t child;

	/* It stays until the test is over. */
	may_outlive = true;
	child = fork();
	may_outlive = false;
	s->last++;
	/* Nobody else must keep a server's end open when it exits. */
	close(s->ctl[child ? s->last : s->me]);
	if (child)
		return child;
	s->me = s->last;
	serve(mem, s);
	return 0;
}

static inline int vmsplice_own(unsigned char *mem, int fd, size_t len)
{
	struct iovec iov = { mem, len };

	return vmsplice(fd, &iov, 1, 0) == (ssize_t)len ? 0 : -1;
}

static inline void read_pages(const unsigned char *mem, size_t len)
{
	for (size_t i = 0; i < len; i += page_size)
		(void)*(volatile const unsigned char *)(mem + i);
}

/* 0 or the pid of a child; -1 if the command failed. */
static inline int do_command(unsigned char *mem, const struct command *cmd,
			     struct servers *s)
{
	unsigned char *start = mem + cmd->from;
	size_t len = cmd->to - cmd->from;

	switch (cmd->op) {
	case WRITE_OLD:
	case WRITE_NEW:
	case WRITE_OTHER:
		set_pattern(mem, cmd->from, cmd->to,
			    cmd->op - WRITE_OLD + OLD_BYTES);
		return 0;
	case READ:
		read_pages(start, len);
		return 0;
	case READ_ONLY:
		return mprotect(start, len, PROT_READ);
	case READ_WRITE:
		return mprotect(start, len, PROT_READ | PROT_WRITE);
	case WRITE_ONLY:
		return mprotect(start, len, PROT_WRITE);
	case NO_ACCESS:
		return mprotect(start, len, PROT_NONE);
	case UNMAP:
		return munmap(start, len);
	case MAP_ANEW:
		return mmap(start, len, PROT_READ | PROT_WRITE, MAP_PRIVATE |
			    MAP_ANONYMOUS | MAP_FIXED, -1, 0) == start ? 0 : -1;
	case EXCHANGE_ENDS:
		return exchange_ends(start, len);
	case VMSPLICE:
		return vmsplice_own(mem, cmd->from, cmd->to);
	case FORK:
		return fork_server(mem, s);
	case FORK_ONCE:
		return fork_once();
	case EXEC:
		return exec_image("/proc/self/exe", s->ctl[s->me]);
	case BE_UNDUMPABLE:
		return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	case EXIT:
		_exit(0);
	default:
		return madvise(start, len, advices[cmd->op]);
	}
}

static inline void serve(unsigned char *mem, struct servers *s)
{
	int ctl = s->ctl[s->me];
	struct command cmd;

	while (read(ctl, &cmd, sizeof(cmd)) == sizeof(cmd)) {
		int answer = do_command(mem, &cmd, s);

		if (write(ctl, &answer, sizeof(answer)) != sizeof(answer))
			break;
	}
	_exit(0);
}

/* Without it, Yama may allow nobody but ancestors. */
static inline void let_all_call(void)
{
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
}

static inline void ignore_signal(int sig)
{
}

static volatile sig_atomic_t nr_signals;

static inline void count_signal(int sig)
{
	__atomic_add_fetch(&nr_signals, 1, __ATOMIC_RELAXED);
}

static inline void handle_signal(int sig, void (*handler)(int sig), int flags)
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = flags };

	sigaction(sig, &sa, NULL);
}

/* The child inherits untouched memory, and so owns what it writes there. */
static inline pid_t start_target(unsigned char *mem, int *ctl)
{
	struct servers s = {};
	int sv[2];
	pid_t pid;

	for (int i = 0; i < MAX_SERVERS; i++) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv))
			return -1;
		ctl[i] = sv[0];
		s.ctl[i] = sv[1];
	}
	pid = fork();
	for (int i = 0; i < MAX_SERVERS; i++)
		close(pid ? s.ctl[i] : ctl[i]);
	if (pid)
		return pid;
	let_all_call();
	/* Poison sends it. */
	handle_signal(SIGBUS, ignore_signal, 0);
	serve(mem, &s);
	return 0;
}

/* The answer to a command, or -1 if the child did not live to give it. */
static inline int ask(int ctl, enum op op, size_t from, size_t to)
{
	struct command cmd = { op, from, to };
	int answer;

	if (write(ctl, &cmd, sizeof(cmd)) != sizeof(cmd) ||
	    read(ctl, &answer, sizeof(answer)) != sizeof(answer))
		return -1;
	return answer;
}

static inline bool command(int ctl, enum op op, size_t from, size_t to)
{
	return ask(ctl, op, from, to) >= 0;
}

/* The state of a thread, as the letter in /proc. */
static inline char thread_state(pid_t tid)
{
	char path[64], buf[512] = "", *paren;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	fd = open(path, O_RDONLY);
	if (fd >= 0 && read(fd, buf, sizeof(buf) - 1) < 0)
		buf[0] = 0;
	close(fd);
	paren = strrchr(buf, ')');
	return paren ? paren[2] : 'X';
}

/* Wait for one of the states; or for Z or X, if none can come any more. */
static inline char wait_for_states(pid_t tid, const char *states)
{
	char state;

	while (state = thread_state(tid),
	       !strchr(states, state) && !strchr("ZX", state))
		sched_yield();
	return state;
}

/* The test can't go on. The program still undoes what it has changed. */
#define give_up(format, ...) do {					\
	fprintf(TH_LOG_STREAM, "# " format "\n", ##__VA_ARGS__);	\
	fflush(TH_LOG_STREAM);						\
	_exit(KSFT_FAIL);						\
} while (0)

static inline void wait_for_state(pid_t tid, char state)
{
	const char states[] = { state, 0 };
	char is = wait_for_states(tid, states);

	if (is != state)
		give_up("%d is %c, and never %c again", tid, is, state);
}

/* A thread that makes one call. */
struct caller {
	pthread_t thread;
	pid_t pid;
	int fd;
	const struct iovec *iov;
	unsigned long nr_segs;
	unsigned int flags;
	pid_t tid;
	bool returned;
	ssize_t ret;
};

static inline void *caller_main(void *arg)
{
	struct caller *c = arg;

	/* After this store, the thread sleeps only in the call. */
	__atomic_store_n(&c->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	c->ret = pvm(c->pid, c->fd, c->iov, c->nr_segs, c->flags);
	__atomic_store_n(&c->returned, true, __ATOMIC_RELEASE);
	return NULL;
}

static inline void caller_start(struct caller *c)
{
	c->tid = 0;
	c->returned = false;
	if (pthread_create(&c->thread, NULL, caller_main, c))
		give_up("no thread for the call");
	while (!__atomic_load_n(&c->tid, __ATOMIC_ACQUIRE))
		sched_yield();
}

static inline void wait_until_blocked(struct caller *c)
{
	while (thread_state(c->tid) != 'S') {
		if (__atomic_load_n(&c->returned, __ATOMIC_ACQUIRE))
			give_up("the call returned %zd without a wait", c->ret);
		sched_yield();
	}
}

static inline void caller_start_blocked(struct caller *c)
{
	caller_start(c);
	wait_until_blocked(c);
}

static inline ssize_t caller_join(struct caller *c)
{
	pthread_join(c->thread, NULL);
	return c->ret;
}

/* A test should not take larger ones: 512 MiB, where a page has 64 KiB. */
#define MAX_HUGE_PAGE (32UL << 20)
#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"

/* The size of the huge pages that MADV_HUGEPAGE makes, or 0. */
static inline size_t thp_size(void)
{
	char text[64] = "0";
	size_t size;

	read_setting(THP_DIR "hpage_pmd_size", text, sizeof(text));
	size = strtoul(text, NULL, 0);
	return size <= MAX_HUGE_PAGE ? size : 0;
}

/* The size of the pages that MAP_HUGETLB takes, or 0. */
static inline size_t hugetlb_size(void)
{
	size_t kb = read_number("/proc/meminfo", "Hugepagesize");

	return kb <= MAX_HUGE_PAGE >> 10 ? kb << 10 : 0;
}

/* The bytes mapped by PMDs in all mappings that have a part of the range. */
static inline size_t huge_bytes(pid_t pid, const void *addr, size_t len)
{
	unsigned long start, end, kb, from = (unsigned long)addr;
	char path[64], line[256];
	bool in_range = false;
	size_t sum = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			in_range = start < from + len && end > from;
		else if (in_range &&
			 sscanf(line, "AnonHugePages: %lu kB", &kb) == 1)
			sum += (size_t)kb << 10;
	}
	fclose(f);
	return sum;
}

/* Bits of /proc/PID/pagemap; as those of /proc/kpageflags, they are ABI. */
#define BIT_OF(n) (1ULL << (n))
#define PM_ALONE BIT_OF(56)
#define PM_SWAP BIT_OF(62)
#define PM_PRESENT BIT_OF(63)
#define PM_PFN (BIT_OF(55) - 1)

/* What such a file says of one page; 0 if it does not say it to us. */
static inline uint64_t page_entry(const char *path, uint64_t nr)
{
	int fd = open(path, O_RDONLY), len = sizeof(uint64_t);
	uint64_t entry;

	if (pread(fd, &entry, len, nr * len) != len)
		entry = 0;
	close(fd);
	return entry;
}

static inline uint64_t pagemap_entry(pid_t pid, const void *addr)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	return page_entry(path, (uintptr_t)addr / page_size);
}

/* The page frame at addr, or 0 if it is not for us to know. */
static inline uint64_t page_frame(pid_t pid, const void *addr)
{
	uint64_t entry = pagemap_entry(pid, addr);

	return entry & PM_PRESENT ? entry & PM_PFN : 0;
}

/* Move a page to the other node; in some tries, as others may hold it, too. */
static inline bool moves(pid_t pid, void *page, int tries)
{
	int was, is, wanted;

	if (syscall(SYS_move_pages, pid, 1, &page, NULL, &was, 0) || was < 0)
		return false;
	wanted = !was;
	while (tries--)
		if (!syscall(SYS_move_pages, pid, 1, &page, &wanted, &is,
			     MPOL_MF_MOVE_ALL) && is == wanted)
			return true;
	return false;
}

static inline bool can_move(pid_t pid, void *page)
{
	return moves(pid, page, 20);
}

/* Nodes 0 and 1, with memory that is for us. */
static inline bool has_two_nodes(void)
{
	unsigned char *page = map_small(page_size);
	bool has;

	page[0] = 1;
	has = can_move(getpid(), page);
	munmap(page, page_size);
	return has;
}

/* Caches that have aliases take shared memory only at some addresses. */
static inline bool may_not_be_shared_there(int error)
{
	return error == EINVAL && page_size < (size_t)SHMLBA;
}

/*
 * What the fixtures have in common: a target with a region of memory, at the
 * same address in the test, which does not use it; a buffer of that size, and a
 * pipe, which is newer than the target, as that must not keep an end open.
 */
#define TARGET_MEMBERS							\
	unsigned char *mem, *buf;					\
	size_t size;							\
	pid_t pid;							\
	int ctl[MAX_SERVERS], rd, wr, slots

#define OPEN_PIPE() do {						\
	self->buf = map_anon(self->size);				\
	ASSERT_FALSE(!self->buf);					\
	ASSERT_TRUE(open_pipe(&self->rd, &self->wr, 0));		\
	self->slots = pipe_slots(self->wr);				\
	ASSERT_LT(4, self->slots);					\
} while (0)

#define START_TARGET() do {						\
	self->pid = start_target(self->mem, self->ctl);		\
	ASSERT_LT(0, self->pid);					\
	OPEN_PIPE();							\
} while (0)

#define TELL(op, from, to) ASSERT_TRUE(command(self->ctl[0], op, from, to))

#define RANGE(from, len) (&(struct iovec){ self->mem + (from), len })

/* Of the target's memory. */
#define PVM(from, len, flags)						\
	pvm(self->pid, self->wr, RANGE(from, len), 1, flags)

#define CALLER(from, len) {						\
	.pid = self->pid, .fd = self->wr,				\
	.nr_segs = 1, .iov = RANGE(from, len),				\
}

/* The bytes of the pipe are just those of the region that start at from. */
#define EXPECT_PIPE(from, len, seed) do {				\
	ASSERT_EQ((int)(len), in_pipe(self->rd));			\
	ASSERT_EQ((ssize_t)(len), read_all(self->rd, self->buf, len));	\
	EXPECT_EQ((size_t)(len), differs(self->buf, from, len, seed));	\
} while (0)

/* The target has exited, and is a zombie. */
#define END_TARGET() do {						\
	ASSERT_FALSE(command(self->ctl[0], EXIT, 0, 0));		\
	wait_for_state(self->pid, 'Z');					\
} while (0)

static void __attribute__((constructor)) first_of_all(void)
{
	page_size = sysconf(_SC_PAGESIZE);
	if (getenv(IMAGE_ENV))
		image_main(atoi(getenv(IMAGE_ENV)));
	if (pvm(0, -1, NULL, 0, 0) == -ENOSYS) {
		ksft_print_header();
		ksft_exit_skip("no process_vmsplice() in this kernel\n");
	}
}

/* In place of TEST_HARNESS_MAIN. */
#define PVM_HARNESS_MAIN						\
	int main(int argc, char **argv)					\
	{								\
		exit(run_tests(argc, argv));				\
	}

#endif
