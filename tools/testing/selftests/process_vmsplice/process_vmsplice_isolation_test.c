// SPDX-License-Identifier: GPL-2.0
/*
 * What process_vmsplice() has put into a pipe is isolated: whatever happens to the
 * memory before the pipe is read, the reader sees the bytes of the time of the call or,
 * where the page is shared with the target, what the target itself wrote there since.
 * Never another process's later bytes, never the page cache's, never freed memory.
 *
 * One table says so for each kind of memory and each event; each cell is a test. Two
 * processes play: A, a child of the test, and B, forked from A by those kinds of memory
 * that have a second owner. One of them is the target, the other is "the other".
 */
#define _GNU_SOURCE
#include "pvm_swap.h"
#include "pvm_test.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_HWPOISON
#define MADV_HWPOISON 100
#endif
#ifndef MADV_FREE
#define MADV_FREE 8
#endif

/* As many pages are looked at, from the start of the memory on. */
#define SPAN_PAGES 8
#define SPAN (SPAN_PAGES * page_size)
/* In the middle of them: the one that is poisoned. */
#define POISONED 4
/* At the start of them: those that are not merged, for they are in the pipe. */
#define IN_PIPE 4

/* Who wrote a byte, by the seed of its pattern. */
enum { OLD_BYTES, TARGET_BYTES, OTHER_BYTES, FILE_BYTES };

/*
 * What is known of a page: flags of /proc/kpageflags, whose numbers are ABI, and those
 * of /proc/pid/pagemap in place of the bits above.
 */
#define FLAG(n) (1ULL << (n))
#define KPF_MMAP FLAG(11)
#define KPF_ANON FLAG(12)
#define KPF_SWAPBACKED FLAG(14)
#define KPF_HUGE FLAG(17)
#define KPF_HWPOISON FLAG(19)
#define KPF_KSM FLAG(21)
#define KPF_THP FLAG(22)
#define KPF_ZERO_PAGE FLAG(24)
#define PM_ALONE FLAG(56)
#define PM_SWAP FLAG(62)
#define PM_PRESENT FLAG(63)
#define PM_FLAGS (PM_ALONE | PM_SWAP | PM_PRESENT)
#define PM_PFN ((1ULL << 55) - 1)

enum mapping { SMALL, HUGE, MEDIUM, HUGETLB, SHMEM, MEMFD, PRIVATE_FILE };

enum pmd { ANY, BY_PMD, BY_PTES };

/* A kind of memory: how it is made, and how to know that it is what it should be. */
struct backing {
	enum mapping mapping;
	const char *steps;	/* of A; see do_step() */
	const char *other_steps; /* of B, after that */
	bool target_is_b;
	bool zeros;
	unsigned char file_seed;
	unsigned long long set, clear;
	enum pmd pmd;
};

static const struct backing anon = {
	.mapping = SMALL, .steps = "i",
	.set = KPF_ANON | PM_ALONE, .clear = KPF_THP,
};

static const struct backing thp = {
	.mapping = HUGE, .steps = "hi", .set = KPF_ANON | KPF_THP, .pmd = BY_PMD,
};

/* A huge page whose PMD is split: by a change of protection, or by losing a half. */
static const struct backing thp_split = {
	.mapping = HUGE, .steps = "hiq", .set = KPF_ANON | KPF_THP, .pmd = BY_PTES,
};

static const struct backing thp_part = {
	.mapping = HUGE, .steps = "hiv", .set = KPF_ANON | KPF_THP, .pmd = BY_PTES,
};

/* A large folio that is always mapped by PTEs. */
static const struct backing mthp = {
	.mapping = MEDIUM, .steps = "hi", .set = KPF_ANON | KPF_THP, .pmd = BY_PTES,
};

static const struct backing hugetlb = {
	.mapping = HUGETLB, .steps = "i", .set = KPF_HUGE,
};

static const struct backing shmem = {
	.mapping = SHMEM, .steps = "iF",
	.set = KPF_SWAPBACKED | PM_PRESENT, .clear = KPF_ANON,
};

static const struct backing memfd = {
	.mapping = MEMFD, .steps = "iF",
	.set = KPF_SWAPBACKED | PM_PRESENT, .clear = KPF_ANON,
};

static const struct backing file_clean = {
	.mapping = PRIVATE_FILE, .steps = "rF", .file_seed = OLD_BYTES,
	.set = KPF_MMAP | PM_PRESENT, .clear = KPF_ANON,
};

/* A page of its own, in a process that forked before it came to be. */
static const struct backing file_dirty = {
	.mapping = PRIVATE_FILE, .steps = "Fi", .file_seed = FILE_BYTES,
	.set = KPF_ANON | PM_ALONE,
};

/*
 * A and B have each written the same. (Some kernels say KPF_KSM of all that is anonymous:
 * that neither has its page alone any more is what tells.)
 */
static const struct backing ksm = {
	.mapping = SMALL, .steps = "Fgi", .other_steps = "gi",
	.set = KPF_KSM, .clear = PM_ALONE,
};

static const struct backing zero_page = {
	.mapping = SMALL, .steps = "r", .set = KPF_ZERO_PAGE, .zeros = true,
};

static const struct backing huge_zero = {
	.mapping = HUGE, .steps = "hr", .set = KPF_ZERO_PAGE | KPF_THP, .zeros = true,
};

static const struct backing cow_parent = {
	.mapping = SMALL, .steps = "iF", .set = KPF_ANON, .clear = PM_ALONE,
};

static const struct backing cow_child = {
	.mapping = SMALL, .steps = "iF", .set = KPF_ANON, .clear = PM_ALONE,
	.target_is_b = true,
};

static const struct backing thp_cow_parent = {
	.mapping = HUGE, .steps = "hiF", .set = KPF_ANON | KPF_THP, .clear = PM_ALONE,
	.pmd = BY_PMD,
};

static const struct backing thp_cow_child = {
	.mapping = HUGE, .steps = "hiF", .set = KPF_ANON | KPF_THP, .clear = PM_ALONE,
	.pmd = BY_PMD, .target_is_b = true,
};

static const struct backing hugetlb_parent = {
	.mapping = HUGETLB, .steps = "iF", .set = KPF_HUGE,
};

static const struct backing hugetlb_child = {
	.mapping = HUGETLB, .steps = "iF", .set = KPF_HUGE, .target_is_b = true,
};

static const struct backing swapped = {
	.mapping = SMALL, .steps = "is", .set = PM_SWAP, .clear = PM_PRESENT,
};

static const struct backing swapped_cow = {
	.mapping = SMALL, .steps = "isF", .set = PM_SWAP, .clear = PM_PRESENT,
};

/* The events: the steps that follow the call; 'o' is of the other, 'M' of the test. */
static const char writes[] = "w";
static const char other_writes[] = "o";
static const char unmaps_other_writes[] = "uo";
static const char exits[] = "zo";
static const char execs[] = "xo";
static const char forks_and_writes[] = "fw";
static const char forks_child_writes[] = "k";
static const char forks_unmaps_child_writes[] = "K";
static const char truncates[] = "t";
static const char discards_and_writes[] = "dw";
static const char pages_out[] = "p";
static const char protects[] = "n";
static const char is_migrated[] = "M";

/* The memory, at the same address in all processes, and who they are. */
struct world {
	const struct backing *backing;
	unsigned char *mem;
	unsigned char *others;	/* where the other writes */
	size_t size;
	int file;
	pid_t a, b;
	int ctl_a[2], ctl_b[2];	/* [0] is the test's end */
	int rd, wr;
};

static bool has_other(const struct world *w)
{
	return strchr(w->backing->steps, 'F');
}

static pid_t target_pid(const struct world *w)
{
	return w->backing->target_is_b ? w->b : w->a;
}

static int target_ctl(const struct world *w)
{
	return w->backing->target_is_b ? w->ctl_b[0] : w->ctl_a[0];
}

static int other_ctl(const struct world *w)
{
	return w->backing->target_is_b ? w->ctl_a[0] : w->ctl_b[0];
}

/* Settings of the kernel, made once and undone when the program ends. */

#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"
#define MEDIUM_DIR THP_DIR "hugepages-64kB/"
#define MEDIUM_SIZE 65536

static const char * const settings[][2] = {
	{ THP_DIR "enabled", "madvise" },
	{ THP_DIR "use_zero_page", "1" },
	{ MEDIUM_DIR "enabled", "madvise" },
};

/* Why it can't be had, or NULL. */
static const char *no_ksm;

static bool is_zero(const unsigned char *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i])
			return false;
	return true;
}

static void make_settings(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		change_setting(settings[i][0], settings[i][1]);
	reserve_huge_pages(8);
	no_ksm = start_ksm("1000", "1");
	if (!has_swap())
		add_swap();
}

/* After execve(), the target does nothing but say so, and stay until the end. */
#define EXEC_VARIABLE "PROCESS_VMSPLICE_TEST_CTL"

static void __attribute__((constructor)) before_the_tests(void)
{
	const char *ctl = getenv(EXEC_VARIABLE);
	char c;

	if (ctl) {
		if (write(atoi(ctl), "", 1) == 1)
			while (read(atoi(ctl), &c, 1) > 0)
				;
		_exit(0);
	}
}

/* The 8 bytes of a file of /proc that are about one page; 0 if they can't be seen. */
static unsigned long long page_entry(int fd, unsigned long long nr)
{
	unsigned long long entry;

	if (pread(fd, &entry, sizeof(entry), nr * sizeof(entry)) != sizeof(entry))
		return 0;
	return entry;
}

static unsigned long long page_flags(int pagemap, int kpageflags, const void *addr)
{
	unsigned long long entry = page_entry(pagemap, (uintptr_t)addr / page_size);
	unsigned long long flags = entry & PM_FLAGS;

	if (entry & PM_PRESENT)
		flags |= page_entry(kpageflags, entry & PM_PFN) & PM_PFN;
	return flags;
}

/* The first of the pages of the span without all flags of set, or with one of clear. */
static size_t first_other_page(pid_t pid, const unsigned char *mem, unsigned long long set,
			       unsigned long long clear)
{
	int pagemap, kpageflags = open("/proc/kpageflags", O_RDONLY);
	unsigned long long flags;
	char path[64];
	size_t i;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	pagemap = open(path, O_RDONLY);
	for (i = 0; i < SPAN_PAGES; i++) {
		flags = page_flags(pagemap, kpageflags, mem + i * page_size);
		if ((flags & set) != set || (flags & clear))
			break;
	}
	close(pagemap);
	close(kpageflags);
	return i;
}

static bool pages_are(pid_t pid, const unsigned char *mem, unsigned long long set,
		      unsigned long long clear)
{
	return first_other_page(pid, mem, set, clear) == SPAN_PAGES;
}

static void wait_for_pages(pid_t pid, const struct world *w)
{
	while (!pages_are(pid, w->mem, w->backing->set, w->backing->clear)) {
		if (strchr("ZX", thread_state(pid)))
			give_up("who has the memory has ended");
		sched_yield();
	}
}

/* What A and B do. */

static void serve(struct world *w, int ctl);

static bool fork_b(struct world *w)
{
	w->b = fork();
	if (!w->b) {
		close(w->ctl_a[1]);
		serve(w, w->ctl_b[1]);
	}
	close(w->ctl_b[1]);
	return w->b > 0;
}

static bool read_pages(const unsigned char *mem)
{
	for (size_t i = 0; i < SPAN; i += page_size)
		(void)*(volatile const unsigned char *)(mem + i);
	return true;
}

static bool write_pages(unsigned char *mem, unsigned char seed)
{
	set_pattern(mem, 0, SPAN, seed);
	return true;
}

/* Reclaim may pass over a page that is not on its list yet. */
static bool swap_out(struct world *w)
{
	while (!pages_are(getpid(), w->mem, PM_SWAP, PM_PRESENT))
		if (madvise(w->mem, SPAN, MADV_PAGEOUT))
			return false;
	return true;
}

/* A child that does nothing, or writes when all else is done; it stays until the end. */
static bool fork_child(struct world *w, bool unmap, bool child_writes)
{
	int go[2], done[2];
	char c;

	if (pipe(go) || pipe(done))
		return false;
	if (!fork()) {
		close(go[1]);
		if (read(go[0], &c, 1) == 1 && child_writes)
			write_pages(w->mem, OTHER_BYTES);
		if (write(done[1], "", 1) == 1)
			while (read(go[0], &c, 1) > 0)
				;
		_exit(0);
	}
	/* Without the child, there is an end of file to read, not a byte. */
	close(done[1]);
	if (unmap && munmap(w->mem, w->size))
		return false;
	return write(go[1], "", 1) == 1 && read(done[0], &c, 1) == 1;
}

static bool exec_itself(int ctl)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", ctl);
	return !setenv(EXEC_VARIABLE, number, 1) &&
	       !execl("/proc/self/exe", "target", NULL);
}

/* There are no holes to be made in what has no file but by advice. */
static bool truncate_file(struct world *w)
{
	if (w->backing->mapping == SHMEM)
		return !madvise(w->mem, w->size, MADV_REMOVE);
	return !ftruncate(w->file, 0);
}

/* For the poison to be taken away again, even if the test is killed. */
static void note_poison(const void *addr)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	char pfn[32];

	snprintf(pfn, sizeof(pfn), "%#llx",
		 page_entry(pagemap, (uintptr_t)addr / page_size) & PM_PFN);
	close(pagemap);
	note_change(undo_poison, pfn, "");
}

/*
 * Losing a page by poison comes with a signal. The advice fails if the kernel
 * can't get rid of the page, as while it is in a pipe; but then it is poisoned.
 */
static bool poison_page(struct world *w)
{
	handle_signal(SIGBUS, 0);
	note_poison(w->mem + POISONED * page_size);
	madvise(w->mem + POISONED * page_size, page_size, MADV_HWPOISON);
	return true;
}

/* The end of a pipe that the test has, and tells of by its number. */
static bool vmsplice_pages(struct world *w, int ctl)
{
	struct iovec iov = { w->mem, IN_PIPE * page_size };
	char path[64];
	int fd;

	if (read(ctl, &fd, sizeof(fd)) != sizeof(fd))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", getppid(), fd);
	fd = open(path, O_WRONLY);
	return fd >= 0 && vmsplice(fd, &iov, 1, 0) == (ssize_t)iov.iov_len &&
	       !close(fd);
}

static bool do_step(struct world *w, int ctl, char step)
{
	size_t half = w->size / 2;

	switch (step) {
	/* To make the memory. */
	case 'i':
		return write_pages(w->mem, OLD_BYTES);
	case 'r':
		return read_pages(w->mem);
	case 'h':
		return !madvise(w->mem, w->size, MADV_HUGEPAGE);
	case 'g':
		return !madvise(w->mem, w->size, MADV_MERGEABLE);
	case 'l':
		return !madvise(w->mem, w->size, MADV_FREE);
	case 's':
		return swap_out(w);
	case 'q':
		return !mprotect(w->mem + w->size - page_size, page_size, PROT_READ);
	case 'v':
		w->size = half;
		return !munmap(w->mem + half, half);
	case 'F':
		return fork_b(w);
	/* To try and break it. */
	case 'w':
		return write_pages(w->mem, TARGET_BYTES);
	case 'o':
		return write_pages(w->others, OTHER_BYTES);
	case 'u':
		return !munmap(w->mem, w->size);
	case 'x':
		return exec_itself(ctl);
	case 'f':
		return fork_child(w, false, false);
	case 'k':
		return fork_child(w, false, true);
	case 'K':
		return fork_child(w, true, true);
	case 't':
		return truncate_file(w);
	case 'd':
		return !madvise(w->mem, w->size, MADV_DONTNEED);
	case 'p':
		return !madvise(w->mem, SPAN, MADV_PAGEOUT);
	case 'n':
		return !mprotect(w->mem, w->size, PROT_NONE);
	case 'b':
		return poison_page(w);
	case 'V':
		return vmsplice_pages(w, ctl);
	default:
		_exit(0);
	}
}

static void serve(struct world *w, int ctl)
{
	char step, failed;

	while (read(ctl, &step, 1) == 1) {
		failed = !do_step(w, ctl, step);
		/* The test must know B, which A has made. */
		if (write(ctl, step == 'F' ? (void *)&w->b : &failed,
			  step == 'F' ? sizeof(w->b) : 1) < 0)
			break;
	}
	_exit(0);
}

/* What the test does. */

static bool step_of(int ctl, char step)
{
	char failed;

	return write(ctl, &step, 1) == 1 && read(ctl, &failed, 1) == 1 && !failed;
}

static bool make_b(struct world *w)
{
	return write(w->ctl_a[0], "F", 1) == 1 &&
	       read(w->ctl_a[0], &w->b, sizeof(w->b)) == sizeof(w->b) && w->b > 0;
}

static bool make_memory(struct world *w)
{
	const char *step;

	for (step = w->backing->steps; *step; step++)
		if (!(*step == 'F' ? make_b(w) : step_of(w->ctl_a[0], *step)))
			return false;
	for (step = w->backing->other_steps; step && *step; step++)
		if (!step_of(w->ctl_b[0], *step))
			return false;
	return true;
}

/* From one node to another, or back; false if there are not two. */
static bool migrate(pid_t pid, unsigned char *mem)
{
	int nodes[SPAN_PAGES], status[SPAN_PAGES];
	void *pages[SPAN_PAGES];

	for (size_t i = 0; i < SPAN_PAGES; i++)
		pages[i] = mem + i * page_size;
	if (syscall(SYS_move_pages, pid, SPAN_PAGES, pages, NULL, status, 0))
		return false;
	for (size_t i = 0; i < SPAN_PAGES; i++)
		nodes[i] = !status[i];
	/* How many were moved depends on who else holds them: none has to be. */
	return syscall(SYS_move_pages, pid, SPAN_PAGES, pages, nodes, status,
		       MPOL_MF_MOVE_ALL) >= 0;
}

static bool exit_target(struct world *w)
{
	if (write(target_ctl(w), "z", 1) != 1)
		return false;
	wait_for_state(target_pid(w), 'Z');
	return true;
}

static bool do_event_step(struct world *w, char step)
{
	switch (step) {
	case 'o':
		return !has_other(w) || step_of(other_ctl(w), 'o');
	case 'z':
		return exit_target(w);
	case 'M':
		return migrate(target_pid(w), w->mem);
	default:
		return step_of(target_ctl(w), step);
	}
}

/* All run on one CPU: what is freed there is what is allocated there next. */
static void stay_on_one_cpu(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* If the pipe had a page that was freed, it would now have these bytes. */
static void reuse_freed_pages(void)
{
	size_t len = 128 * page_size;
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return;
	madvise(p, len, MADV_NOHUGEPAGE);
	memset(p, 0xaa, len);
	munmap(p, len);
}

static unsigned char *map_aligned(size_t size)
{
	uintptr_t p = (uintptr_t)mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == (uintptr_t)MAP_FAILED)
		return MAP_FAILED;
	return (unsigned char *)((p + size - 1) & -size);
}

static unsigned char *map_small(size_t size)
{
	unsigned char *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem != MAP_FAILED)
		madvise(mem, size, MADV_NOHUGEPAGE);
	return mem;
}

static int make_file(const struct world *w)
{
	unsigned char *content = malloc(w->size);
	int fd = memfd_create("backing", 0);

	set_pattern(content, 0, w->size, w->backing->file_seed);
	if (write(fd, content, w->size) != (ssize_t)w->size) {
		close(fd);
		fd = -1;
	}
	free(content);
	return fd;
}

static size_t mapping_size(enum mapping mapping)
{
	switch (mapping) {
	case HUGE:
		return thp_size();
	case HUGETLB:
		return hugetlb_size();
	case MEDIUM:
		/* Not a size that this kernel has, or that has a span in it. */
		if (access(MEDIUM_DIR, F_OK) || MEDIUM_SIZE < SPAN)
			return 0;
		return MEDIUM_SIZE;
	default:
		return 2 * SPAN;
	}
}

static unsigned char *map_memory(struct world *w)
{
	int prot = PROT_READ | PROT_WRITE;

	switch (w->backing->mapping) {
	case HUGE:
	case MEDIUM:
		return map_aligned(w->size);
	case HUGETLB:
		return mmap(NULL, w->size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	case SHMEM:
		return mmap(NULL, w->size, prot, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	case MEMFD:
		return mmap(NULL, w->size, prot, MAP_SHARED, w->file, 0);
	case PRIVATE_FILE:
		return mmap(NULL, w->size, prot, MAP_PRIVATE, w->file, 0);
	default:
		return map_small(w->size);
	}
}

/* Untouched in the test, so that A is its only owner. False if there is none to be had. */
static bool map_world(struct world *w)
{
	w->size = mapping_size(w->backing->mapping);
	if (!w->size)
		return false;
	if (w->backing->mapping == MEMFD || w->backing->mapping == PRIVATE_FILE)
		w->file = make_file(w);
	w->mem = map_memory(w);
	w->others = w->mem;
	/* Who writes to the file does not do so by a mapping that is private. */
	if (w->backing->mapping == PRIVATE_FILE)
		w->others = mmap(NULL, w->size, PROT_READ | PROT_WRITE, MAP_SHARED, w->file, 0);
	return w->mem != MAP_FAILED && w->others != MAP_FAILED;
}

/* A and B end when the test does: each then reads the end of its socket. */
static bool start_a(struct world *w)
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, w->ctl_a) ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, w->ctl_b))
		return false;
	w->a = fork();
	if (!w->a) {
		close(w->ctl_a[0]);
		close(w->ctl_b[0]);
		serve(w, w->ctl_a[1]);
	}
	close(w->ctl_a[1]);
	close(w->ctl_b[1]);
	return w->a > 0;
}

static bool open_pipe(struct world *w)
{
	int p[2];

	if (pipe(p))
		return false;
	w->rd = p[0];
	w->wr = p[1];
	return true;
}

/* Is the memory what the name of the test says? */
static bool is_as_it_should(const struct world *w)
{
	const struct backing *b = w->backing;
	pid_t pid = target_pid(w);

	if (b->set & KPF_KSM) {
		wait_for_pages(w->a, w);
		wait_for_pages(w->b, w);
	}
	if (!pages_are(pid, w->mem, b->set, b->clear))
		return false;
	return b->pmd == ANY || has_huge_page(pid, w->mem) == (b->pmd == BY_PMD);
}

/* A huge page that the kernel has not got is nobody's fault, but on our own host. */
static bool may_be_short(const struct world *w)
{
	return w->backing->set & KPF_THP && !host_is_ours() && !is_as_it_should(w);
}

static void end_world(struct world *w)
{
	close(w->ctl_a[0]);
	close(w->ctl_b[0]);
	/* All of them, as a subreaper: their memory must be free for the next test. */
	while (wait(NULL) > 0)
		;
}

/* Why there can't be such memory, or NULL. Maps it. */
static const char *begin_world(struct world *w, const struct backing *backing)
{
	w->backing = backing;
	if (geteuid())
		return "needs root, to make such memory and to see what it is";
	if (strchr(backing->steps, 's') && !can_swap())
		return "no swap, or none for us";
	if (backing->set & KPF_KSM && no_ksm)
		return no_ksm;
	if (!map_world(w))
		return "the kernel has no such memory";
	return NULL;
}

static bool fill_world(struct world *w)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	stay_on_one_cpu();
	return start_a(w) && open_pipe(w) && make_memory(w);
}

/* Whose are the bytes of a page? For the report of a failure. */
static const char *whose(const unsigned char *buf, size_t from)
{
	static const char * const names[] = {
		[OLD_BYTES] = "the old ones",
		[TARGET_BYTES] = "written by the target since",
		[OTHER_BYTES] = "written by another process since",
		[FILE_BYTES] = "the file's",
	};

	for (size_t seed = 0; seed < ARRAY_SIZE(names); seed++)
		if (differs(buf, from, page_size, seed) == page_size)
			return names[seed];
	if (is_zero(buf, page_size))
		return "zeros";
	return buf[0] == 0xaa && !memcmp(buf, buf + 1, page_size - 1) ?
	       "freed memory's" : "a mixture";
}

FIXTURE(cell)
{
	struct world w;
};

FIXTURE_VARIANT(cell)
{
	const struct backing *backing;
	const char *event;
	bool live;
};

FIXTURE_SETUP(cell)
{
	const char *missing = begin_world(&self->w, variant->backing);

	if (!missing && variant->event == is_migrated && !has_two_nodes())
		missing = "no second NUMA node";
	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(fill_world(&self->w));
	if (may_be_short(&self->w))
		SKIP(return, "no huge page is to be had now");
	ASSERT_TRUE(is_as_it_should(&self->w)) {
		TH_LOG("from page %zu on, the memory is not of this kind",
		       first_other_page(target_pid(&self->w), self->w.mem,
					variant->backing->set, variant->backing->clear));
	}
}

FIXTURE_TEARDOWN(cell)
{
	end_world(&self->w);
}

static bool page_is_right(const struct world *w, const unsigned char *page, size_t from, bool live)
{
	if (live)
		return differs(page, from, page_size, TARGET_BYTES) == page_size;
	if (w->backing->zeros)
		return is_zero(page, page_size);
	return differs(page, from, page_size, OLD_BYTES) == page_size;
}

TEST_F_TIMEOUT(cell, reader_sees, TIMEOUT)
{
	struct world *w = &self->w;
	struct iovec iov = { w->mem, SPAN };
	unsigned char *buf = malloc(SPAN);

	ASSERT_EQ((ssize_t)SPAN, pvm(target_pid(w), w->wr, &iov, 1, 0));
	for (const char *step = variant->event; *step; step++) {
		ASSERT_TRUE(do_event_step(w, *step)) {
			TH_LOG("the event's step '%c'", *step);
		}
	}
	reuse_freed_pages();
	ASSERT_EQ((int)SPAN, in_pipe(w->rd));
	ASSERT_EQ((ssize_t)SPAN, read_all(w->rd, buf, SPAN));
	for (size_t i = 0; i < SPAN; i += page_size) {
		EXPECT_TRUE(page_is_right(w, buf + i, i, variant->live)) {
			TH_LOG("the bytes of page %zu are %s", i / page_size, whose(buf + i, i));
		}
	}
}

/*
 * The table. A cell says what the reader sees:
 *   OLD      the bytes of the time of the call
 *   LIVE     what the target wrote since: the page is shared, and its own
 * or why there is nothing to see:
 *   ALONE    no other process has the memory
 *   NO_FILE  nor has it a file to be truncated
 *   FIXED    pages of the kind are neither paged out nor migrated
 */
#define CELL_OLD(b, e)		CELL_TEST(b, e, false)
#define CELL_LIVE(b, e)		CELL_TEST(b, e, true)
#define CELL_ALONE(b, e)
#define CELL_NO_FILE(b, e)
#define CELL_FIXED(b, e)

#define CELL_TEST(b, e, is_live)							\
	FIXTURE_VARIANT_ADD(cell, b##_##e) {						\
		.backing = &(b), .event = e, .live = is_live,				\
	};										\
	struct cell_##b##_##e

/* One column a line; the last takes the semicolon. */
#define ROW(b, w, o, uo, z, x, fw, k, fk, t, d, p, n, m)				\
	CELL_##w(b, writes);								\
	CELL_##o(b, other_writes);							\
	CELL_##uo(b, unmaps_other_writes);						\
	CELL_##z(b, exits);								\
	CELL_##x(b, execs);								\
	CELL_##fw(b, forks_and_writes);							\
	CELL_##k(b, forks_child_writes);						\
	CELL_##fk(b, forks_unmaps_child_writes);					\
	CELL_##t(b, truncates);								\
	CELL_##d(b, discards_and_writes);						\
	CELL_##p(b, pages_out);								\
	CELL_##n(b, protects);								\
	CELL_##m(b, is_migrated);							\
	struct row_##b

/*                  w     o      uo     z    x    fw   k    fk   t        d    p      n    m */
ROW(anon,           LIVE, ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(thp,            LIVE, ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(thp_split,      LIVE, ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(thp_part,       LIVE, ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(mthp,           LIVE, ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(hugetlb,        OLD,  ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, FIXED, OLD, OLD);
ROW(shmem,          OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, OLD,     OLD, OLD,   OLD, OLD);
ROW(memfd,          OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, OLD,     OLD, OLD,   OLD, OLD);
ROW(file_clean,     OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, OLD,     OLD, OLD,   OLD, OLD);
ROW(file_dirty,     LIVE, OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, OLD,     OLD, OLD,   OLD, OLD);
ROW(ksm,            OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(zero_page,      OLD,  ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, FIXED);
ROW(huge_zero,      OLD,  ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, FIXED);
ROW(cow_parent,     OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(cow_child,      OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(thp_cow_parent, OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(thp_cow_child,  OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(hugetlb_parent, OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, FIXED, OLD, OLD);
ROW(hugetlb_child,  OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, FIXED, OLD, OLD);
ROW(swapped,        LIVE, ALONE, ALONE, OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);
ROW(swapped_cow,    OLD,  OLD,   OLD,   OLD, OLD, OLD, OLD, OLD, NO_FILE, OLD, OLD,   OLD, OLD);

/* A page stays poisoned when it is freed, and may come back in a huge page. */
static const char *why_no_poison(void)
{
	if (access(UNPOISON, W_OK))
		return "no " UNPOISON ", to undo it";
	return NULL;
}

static bool unpoison(uint64_t frame)
{
	char text[32];

	snprintf(text, sizeof(text), "%#llx", (unsigned long long)frame);
	return write_file(UNPOISON, text);
}

static uint64_t page_frame(pid_t pid, const unsigned char *addr)
{
	char path[64];
	uint64_t frame;
	int pagemap;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	pagemap = open(path, O_RDONLY);
	frame = page_entry(pagemap, (uintptr_t)addr / page_size) & PM_PFN;
	close(pagemap);
	return frame;
}

static bool frame_has(uint64_t frame, unsigned long long flag)
{
	int kpageflags = open("/proc/kpageflags", O_RDONLY);
	bool has = page_entry(kpageflags, frame) & flag;

	close(kpageflags);
	return has;
}

/* Apart from the table: memory of the target that changes no more. */
FIXTURE(memory)
{
	struct world w;
	uint64_t poisoned;
};

FIXTURE_VARIANT(memory)
{
	const struct backing *backing;
};

FIXTURE_VARIANT_ADD(memory, anon) { .backing = &anon };
FIXTURE_VARIANT_ADD(memory, thp) { .backing = &thp };
FIXTURE_VARIANT_ADD(memory, memfd) { .backing = &memfd };

FIXTURE_SETUP(memory)
{
	const char *missing = begin_world(&self->w, variant->backing);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(fill_world(&self->w));
	if (may_be_short(&self->w))
		SKIP(return, "no huge page is to be had now");
	ASSERT_TRUE(is_as_it_should(&self->w)) {
		TH_LOG("from page %zu on, the memory is not of this kind",
		       first_other_page(target_pid(&self->w), self->w.mem,
					variant->backing->set, variant->backing->clear));
	}
}

FIXTURE_TEARDOWN(memory)
{
	end_world(&self->w);
	if (self->poisoned && !unpoison(self->poisoned))
		TH_LOG("page frame %#lx stays poisoned",
		       (unsigned long)self->poisoned);
}

/* The call places just len bytes, which are those at from. */
#define EXPECT_OLD_BYTES(from, want, len) do {						\
	struct iovec _iov = { self->w.mem + (from), want };				\
	unsigned char *_buf = malloc(len);						\
											\
	ASSERT_EQ((ssize_t)(len), pvm(self->w.a, self->w.wr, &_iov, 1, 0));		\
	EXPECT_EQ((int)(len), in_pipe(self->w.rd));					\
	ASSERT_EQ((ssize_t)(len), read_all(self->w.rd, _buf, len));			\
	EXPECT_EQ(len, differs(_buf, from, len, OLD_BYTES));				\
	free(_buf);									\
} while (0)

TEST_F_TIMEOUT(memory, poisoned, TIMEOUT)
{
	size_t hole = POISONED * page_size, behind = hole + page_size;
	struct iovec iov = { self->w.mem + hole, SPAN - hole };

	if (why_no_poison())
		SKIP(return, "%s", why_no_poison());
	self->poisoned = page_frame(self->w.a, self->w.mem + hole);
	ASSERT_TRUE(step_of(self->w.ctl_a[0], 'b'));
	/* In the middle, and from its first and last byte on. */
	EXPECT_OLD_BYTES(10, SPAN - 10, hole - 10);
	EXPECT_EQ(-EFAULT, pvm(self->w.a, self->w.wr, &iov, 1, 0));
	iov.iov_base = self->w.mem + behind - 1;
	EXPECT_EQ(-EFAULT, pvm(self->w.a, self->w.wr, &iov, 1, 0));
	EXPECT_EQ(0, in_pipe(self->w.rd));
	EXPECT_OLD_BYTES(behind, SPAN - behind, SPAN - behind);
}

/* What is written to the pipe later has a page of its own, not the rest of this one. */
TEST_F_TIMEOUT(memory, write_to_the_pipe, TIMEOUT)
{
	unsigned char *buf = malloc(SPAN);
	struct iovec iov = { self->w.mem, 100 }, all = { self->w.mem, SPAN };
	struct iovec local = { buf, SPAN };

	ASSERT_EQ(100, pvm(self->w.a, self->w.wr, &iov, 1, 0));
	memset(buf, 0x55, 50);
	ASSERT_EQ(50, write(self->w.wr, buf, 50));
	ASSERT_EQ((ssize_t)SPAN, process_vm_readv(self->w.a, &local, 1, &all, 1, 0));
	EXPECT_EQ(SPAN, differs(buf, 0, SPAN, OLD_BYTES));
	ASSERT_EQ(150, read_all(self->w.rd, buf, 150));
	EXPECT_EQ((size_t)100, differs(buf, 0, 100, OLD_BYTES));
	EXPECT_EQ(0x55, buf[100]);
	EXPECT_EQ(0, memcmp(buf + 100, buf + 101, 49));
	/* Nor is the page the pipe's to fill when the reader is done with it. */
	ASSERT_EQ((ssize_t)page_size, write(self->w.wr, memset(buf, 0x55, page_size), page_size));
	ASSERT_EQ((ssize_t)SPAN, process_vm_readv(self->w.a, &local, 1, &all, 1, 0));
	EXPECT_EQ(SPAN, differs(buf, 0, SPAN, OLD_BYTES));
}

/*
 * As poisoned, but with a page of the memory in a pipe: of a huge page, the
 * kernel then can't take the poisoned page away from the rest.
 */
TEST_F_TIMEOUT(memory, poisoned_while_another_is_held, TIMEOUT)
{
	size_t hole = POISONED * page_size, behind = hole + page_size;
	struct iovec iov = { self->w.mem, page_size };
	int held[2];

	if (why_no_poison())
		SKIP(return, "%s", why_no_poison());
	self->poisoned = page_frame(self->w.a, self->w.mem + hole);
	ASSERT_EQ(0, pipe(held));
	ASSERT_EQ((ssize_t)page_size, pvm(self->w.a, held[1], &iov, 1, 0));
	ASSERT_TRUE(step_of(self->w.ctl_a[0], 'b'));
	EXPECT_OLD_BYTES(10, SPAN - 10, hole - 10);
	iov.iov_base = self->w.mem + hole;
	EXPECT_EQ(-EFAULT, pvm(self->w.a, self->w.wr, &iov, 1, 0));
	iov = (struct iovec){ self->w.mem + behind - 1, SPAN - behind + 1 };
	EXPECT_EQ(-EFAULT, pvm(self->w.a, self->w.wr, &iov, 1, 0));
	EXPECT_EQ(0, in_pipe(self->w.rd));
	EXPECT_OLD_BYTES(behind, SPAN - behind, SPAN - behind);
	/* What is held is good. */
	EXPECT_TRUE(drain(held[0], page_size));
	close(held[0]);
	close(held[1]);
}

/* Memory that is poisoned when it is in the pipe already, and who reads it. */
enum consumer { BY_READ, BY_VMSPLICE, TO_FILE, TO_SOCKET, BY_TEE };

FIXTURE(poison)
{
	struct world w;
	int out[2];
	uint64_t poisoned;
};

FIXTURE_VARIANT(poison)
{
	const struct backing *backing;
	enum consumer consumer;
	size_t good;	/* pages that come before the error */
};

FIXTURE_VARIANT_ADD(poison, anon_read) { &anon, BY_READ, POISONED };
FIXTURE_VARIANT_ADD(poison, anon_vmsplice) { &anon, BY_VMSPLICE, POISONED };
FIXTURE_VARIANT_ADD(poison, anon_to_file) { &anon, TO_FILE, POISONED };
FIXTURE_VARIANT_ADD(poison, anon_to_socket) { &anon, TO_SOCKET, POISONED };
FIXTURE_VARIANT_ADD(poison, anon_tee) { &anon, BY_TEE, POISONED };
/* One buffer has all the pages. */
FIXTURE_VARIANT_ADD(poison, thp_read) { &thp, BY_READ, 0 };
FIXTURE_VARIANT_ADD(poison, thp_vmsplice) { &thp, BY_VMSPLICE, 0 };
FIXTURE_VARIANT_ADD(poison, thp_to_file) { &thp, TO_FILE, 0 };
FIXTURE_VARIANT_ADD(poison, thp_to_socket) { &thp, TO_SOCKET, 0 };
FIXTURE_VARIANT_ADD(poison, thp_tee) { &thp, BY_TEE, 0 };
/* These are the pipe's own. */
FIXTURE_VARIANT_ADD(poison, memfd_read) { &memfd, BY_READ, SPAN_PAGES };

FIXTURE_SETUP(poison)
{
	const char *missing = begin_world(&self->w, variant->backing);

	if (!missing)
		missing = why_no_poison();
	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(fill_world(&self->w));
	ASSERT_TRUE(is_as_it_should(&self->w));
	switch (variant->consumer) {
	case TO_FILE:
		self->out[1] = memfd_create("out", 0);
		break;
	case TO_SOCKET:
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, self->out));
		break;
	default:
		ASSERT_EQ(0, pipe2(self->out, O_NONBLOCK));
	}
	ASSERT_LE(0, self->out[1]);
	ASSERT_EQ(0, fcntl(self->w.rd, F_SETFL, O_NONBLOCK));
}

FIXTURE_TEARDOWN(poison)
{
	end_world(&self->w);
	/* It can't be undone while something holds it. */
	close(self->w.rd);
	close(self->w.wr);
	close(self->out[0]);
	close(self->out[1]);
	if (self->poisoned && !unpoison(self->poisoned))
		TH_LOG("page frame %#lx stays poisoned",
		       (unsigned long)self->poisoned);
}

/* How many bytes came, or -errno. */
static ssize_t consume(struct world *w, enum consumer who, int *out,
		       unsigned char *buf)
{
	struct iovec iov = { buf, SPAN };
	ssize_t n = -1;

	switch (who) {
	case BY_READ:
		n = read(w->rd, buf, SPAN);
		break;
	case BY_VMSPLICE:
		n = vmsplice(w->rd, &iov, 1, SPLICE_F_NONBLOCK);
		break;
	case TO_FILE:
	case TO_SOCKET:
		n = splice(w->rd, NULL, out[1], NULL, SPAN, SPLICE_F_NONBLOCK);
		break;
	case BY_TEE:
		/* Both have them, neither the bytes. */
		tee(w->rd, out[1], SPAN, SPLICE_F_NONBLOCK);
		n = read(out[0], buf, SPAN);
	}
	return n < 0 ? -errno : n;
}

TEST_F_TIMEOUT(poison, in_the_pipe_is_an_error, TIMEOUT)
{
	struct world *w = &self->w;
	struct iovec iov = { w->mem, SPAN };
	unsigned char *buf = calloc(1, SPAN);
	size_t good = variant->good * page_size, got = 0;
	ssize_t n;

	self->poisoned = page_frame(w->a, w->mem + POISONED * page_size);
	ASSERT_EQ((ssize_t)SPAN, pvm(w->a, w->wr, &iov, 1, 0));
	ASSERT_TRUE(step_of(w->ctl_a[0], 'b'));
	ASSERT_TRUE(frame_has(self->poisoned, KPF_HWPOISON));
	do {
		n = consume(w, variant->consumer, self->out, buf);
		got += n > 0 ? n : 0;
	} while (n > 0 && got < SPAN);
	EXPECT_EQ(good, got);
	if (good == SPAN) {
		EXPECT_EQ(SPAN, differs(buf, 0, SPAN, OLD_BYTES));
		return;
	}
	EXPECT_EQ(-EIO, n);
	/* It stays so. */
	EXPECT_EQ(-EIO, consume(w, variant->consumer, self->out, buf));
	free(buf);
}

/*
 * KSM must not merge a page that is in a pipe: another process, with the same
 * bytes, would map it. What the PTE says must not matter: here it is read-only
 * since a fork(), and not dirty. A has the pages in the pipe, B the same bytes.
 */
static const struct backing freed = {
	.mapping = SMALL, .steps = "Fil", .other_steps = "gi",
	.set = KPF_ANON | PM_ALONE,
};

static const struct backing swapped_in = {
	.mapping = SMALL, .steps = "Fisr", .other_steps = "gi",
	.set = KPF_ANON | PM_ALONE,
};

static const struct backing thp_freed = {
	.mapping = HUGE, .steps = "Fhil", .other_steps = "gi",
	.set = KPF_ANON | KPF_THP, .pmd = BY_PMD,
};

static const struct backing mthp_freed = {
	.mapping = MEDIUM, .steps = "Fhil", .other_steps = "gi",
	.set = KPF_ANON | KPF_THP, .pmd = BY_PTES,
};

FIXTURE(merge)
{
	struct world w;
};

FIXTURE_VARIANT(merge)
{
	const struct backing *backing;
	bool own_vmsplice;
};

FIXTURE_VARIANT_ADD(merge, freed) { &freed, false };
FIXTURE_VARIANT_ADD(merge, swapped_in) { &swapped_in, false };
FIXTURE_VARIANT_ADD(merge, thp_freed) { &thp_freed, false };
FIXTURE_VARIANT_ADD(merge, mthp_freed) { &mthp_freed, false };
FIXTURE_VARIANT_ADD(merge, freed_own_vmsplice) { &freed, true };
FIXTURE_VARIANT_ADD(merge, swapped_in_own_vmsplice) { &swapped_in, true };

FIXTURE_SETUP(merge)
{
	const char *missing = begin_world(&self->w, variant->backing);

	if (!missing && access(KSM_DIR, F_OK))
		missing = "no KSM";
	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(fill_world(&self->w));
	ASSERT_TRUE(is_as_it_should(&self->w));
}

FIXTURE_TEARDOWN(merge)
{
	end_world(&self->w);
}

static bool own_vmsplice(struct world *w)
{
	char failed;

	return write(w->ctl_a[0], "V", 1) == 1 &&
	       write(w->ctl_a[0], &w->wr, sizeof(w->wr)) == sizeof(w->wr) &&
	       read(w->ctl_a[0], &failed, 1) == 1 && !failed;
}

static long full_scans(void)
{
	FILE *f = fopen(KSM_DIR "full_scans", "r");
	long n = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%ld", &n) != 1)
		n = -1;
	fclose(f);
	return n;
}

/* KSM needs a few rounds for a page; then what can be merged is. */
static void wait_for_scans(int rounds)
{
	long end = full_scans() + rounds;

	while (full_scans() < end)
		usleep(1000);
}

TEST_F_TIMEOUT(merge, leaves_out_what_is_in_the_pipe, TIMEOUT)
{
	struct world *w = &self->w;
	struct iovec iov = { w->mem, IN_PIPE * page_size };
	uint64_t frames[IN_PIPE];
	bool tells;

	for (size_t i = 0; i < IN_PIPE; i++)
		frames[i] = page_frame(w->a, w->mem + i * page_size);
	/* Some kernels say so of all that is anonymous. */
	tells = !frame_has(frames[0], KPF_KSM);
	ASSERT_TRUE(variant->own_vmsplice ? own_vmsplice(w) :
		    pvm(w->a, w->wr, &iov, 1, 0) == (ssize_t)iov.iov_len);
	ASSERT_TRUE(step_of(w->ctl_a[0], 'f'));
	ASSERT_TRUE(step_of(w->ctl_a[0], 'g'));
	wait_for_scans(8);
	/* It is at work: of small pages, it merges those not in the pipe. */
	if (w->backing->mapping == SMALL) {
		EXPECT_EQ(page_frame(w->a, w->mem + IN_PIPE * page_size),
			  page_frame(w->b, w->mem + IN_PIPE * page_size));
	}
	for (size_t i = 0; i < IN_PIPE; i++) {
		EXPECT_FALSE(tells && frame_has(frames[i], KPF_KSM)) {
			TH_LOG("page %zu of the pipe is KSM's", i);
		}
		EXPECT_NE(frames[i], page_frame(w->b, w->mem + i * page_size)) {
			TH_LOG("B maps page %zu of the pipe", i);
		}
	}
}

int main(int argc, char **argv)
{
	return run_supervised(argc, argv, make_settings);
}
