// SPDX-License-Identifier: GPL-2.0
/*
 * How fast process_vmsplice() and splice() are, next to the other ways to take the
 * memory of a process somewhere, and next to what a process can do with its own.
 *
 * The target is a process with stamped pages. Dumpers, processes too, take a set of
 * its pages (the shape) to a sink by each of the methods in turn, so that whatever
 * else the machine does hits all of them alike; and that several times. Each
 * measurement is a line of CSV. Before, each method is run once and what arrived is
 * compared, byte by byte, with what the target has.
 */
#define _GNU_SOURCE
#include <err.h>
#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <time.h>

#include "pvm_test.h"

static ssize_t process_vmsplice(pid_t pid, int fd, const struct iovec *iov,
				unsigned long nr_segs, unsigned int flags)
{
	return syscall(__NR_process_vmsplice, pid, fd, iov, nr_segs, flags);
}

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define MAX_DUMPERS	16
#define MAX_RANGES	1024
#define MAX_CPUS	64
#define SMALL_BUF	(256 << 10)	/* stays in the cache */
#define LARGE_BUF	(4 << 20)
#define WORDS		(page_size / sizeof(uint64_t))

static struct {
	unsigned int methods, sinks, shapes, sources;
	size_t size, chunk, pipe_size;
	long dumpers, repetitions;
	const char *dir;
} opt = {
	.size = 256 << 20,
	.chunk = 4 << 20,
	.pipe_size = 4 << 20,
	.dumpers = 1,
	.repetitions = 5,
};

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/*
 * Markers for count-copies.c, a plugin of QEMU, which counts between the first two, and
 * writes the sum at the third.
 */
#ifdef __x86_64__
#define MARK(number) ({ asm volatile("nopl %c0(%%rax)" : : "i" (number)); })
#else
#define MARK(number) ((void)(number))
#endif
#define MARK_START 0x316d7670
#define MARK_END 0x306d7670
#define MARK_SUM 0x3d6d7670

static bool is_counted;

static void count_from_here(void)
{
	if (is_counted)
		MARK(MARK_START);
}

static void count_to_here(void)
{
	if (is_counted)
		MARK(MARK_END);
}

/* Cycles of each CPU that are not idle, for whoever may count them, where they are counted. */
static int cycle_counter[MAX_CPUS];

static void open_cycle_counters(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_HW_CPU_CYCLES,
	};

	for (int cpu = 0; cpu < MAX_CPUS; cpu++)
		cycle_counter[cpu] = syscall(SYS_perf_event_open, &attr, -1, cpu, -1,
					     PERF_FLAG_FD_CLOEXEC);
}

static uint64_t cycles(void)
{
	uint64_t sum = 0, count;

	for (int cpu = 0; cpu < MAX_CPUS; cpu++)
		if (cycle_counter[cpu] >= 0 &&
		    read(cycle_counter[cpu], &count, sizeof(count)) == sizeof(count))
			sum += count;
	return sum;
}

static int compare_times(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* What two looks at the clock are apart with nothing in between, as a rule. */
static uint64_t clock_cost;

static void measure_clock(void)
{
	uint64_t cost[1001];

	for (unsigned int i = 0; i < ARRAY_SIZE(cost); i++) {
		uint64_t start = now();

		cost[i] = now() - start;
	}
	qsort(cost, ARRAY_SIZE(cost), sizeof(cost[0]), compare_times);
	clock_cost = cost[ARRAY_SIZE(cost) / 2];
}

static uint64_t since(uint64_t start)
{
	uint64_t ns = now() - start;

	return ns > clock_cost ? ns - clock_cost : 0;
}

/* Stamps: no two pages are alike, nor two words of a page. */

static uint64_t stamp(size_t page, size_t word)
{
	return (page + 1) * 0x9e3779b97f4a7c15ULL + word;
}

static void stamp_pages(void *mem, size_t first, size_t nr_pages)
{
	uint64_t *p = mem;

	for (size_t page = first; page < first + nr_pages; page++)
		for (size_t word = 0; word < WORDS; word++)
			*p++ = stamp(page, word);
}

static bool page_is(const void *mem, size_t page)
{
	const uint64_t *p = mem;

	for (size_t word = 0; word < WORDS; word++)
		if (p[word] != stamp(page, word))
			return false;
	return true;
}

/*
 * A shape says which pages of a dumper's part of the memory are taken, in which order
 * and how much at a time. All that depends on nothing else, so that who receives can
 * know what to expect.
 */

struct range {
	size_t off, len;
};

struct plan {
	size_t nr_pages, nr_ranges;
	size_t *page;
	struct range *range;
	size_t chunk;		/* bytes at a time */
};

struct shape {
	const char *name;
	unsigned int one_in;	/* so many pages of the memory */
	bool in_order, one_at_a_time;
	bool fill;		/* with one call, a pipe of the default size */
};

static const struct shape shapes[] = {
	{ "bulk",	.one_in = 1,	.in_order = true },
	{ "scattered",	.one_in = 4 },
	{ "sparse",	.one_in = 8,	.in_order = true },
	{ "single",	.one_in = 16,	.one_at_a_time = true },
	{ "fill",	.one_in = 1,	.in_order = true,	.fill = true },
};

static void shuffle(size_t *a, size_t n)
{
	uint64_t seed = 1;

	for (size_t i = n; i > 1; i--) {
		size_t j, t;

		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		j = (seed >> 33) % i;
		t = a[i - 1];
		a[i - 1] = a[j];
		a[j] = t;
	}
}

static void add_page(struct plan *plan, size_t page)
{
	struct range *last = plan->range + plan->nr_ranges - 1;
	size_t off = page * page_size;

	plan->page[plan->nr_pages++] = page;
	if (plan->nr_ranges && last->off + last->len == off &&
	    last->len < plan->chunk) {
		last->len += page_size;
		return;
	}
	plan->range[plan->nr_ranges++] = (struct range) { off, page_size };
}

static void make_plan(struct plan *plan, const struct shape *shape, size_t nr_pages)
{
	size_t nr = nr_pages / shape->one_in;
	size_t *order = calloc(nr_pages, sizeof(*order));

	plan->page = calloc(nr, sizeof(*plan->page));
	plan->range = calloc(nr, sizeof(*plan->range));
	if (!order || !plan->page || !plan->range)
		err(1, "calloc");
	plan->nr_pages = 0;
	plan->nr_ranges = 0;
	plan->chunk = shape->one_at_a_time ? page_size : opt.chunk;

	for (size_t i = 0; i < nr_pages; i++)
		order[i] = shape->in_order ? i * shape->one_in % nr_pages : i;
	if (!shape->in_order)
		shuffle(order, nr_pages);
	for (size_t i = 0; i < nr; i++)
		add_page(plan, order[i]);
	free(order);
}

static void free_plan(struct plan *plan)
{
	free(plan->page);
	free(plan->range);
}

/* How many of the ranges from i on make up the next chunk; *len, its bytes. */
static size_t next_chunk(const struct plan *plan, size_t i, size_t *len)
{
	size_t nr = 0;

	for (*len = 0; i + nr < plan->nr_ranges && nr < MAX_RANGES; nr++) {
		if (*len + plan->range[i + nr].len > plan->chunk)
			break;
		*len += plan->range[i + nr].len;
	}
	return nr;
}

/* Sources: kinds of memory. */

static void *map(size_t size, int prot, int flags, int fd)
{
	void *mem = mmap(NULL, size, prot, flags, fd, 0);

	if (mem == MAP_FAILED)
		err(1, "mmap");
	return mem;
}

static void *map_base_pages(size_t size)
{
	void *mem = map(size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1);

	madvise(mem, size, MADV_NOHUGEPAGE);
	return mem;
}

static void *make_anon(size_t size, size_t first)
{
	void *mem = map_base_pages(size);

	stamp_pages(mem, first, size / page_size);
	return mem;
}

static void *make_thp(size_t size, size_t first)
{
	size_t align = thp_size();
	uintptr_t mem;

	if (!align)
		errx(1, "no transparent huge pages here");
	mem = (uintptr_t)map(size + align, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	mem = (mem + align - 1) / align * align;
	if (madvise((void *)mem, size, MADV_HUGEPAGE))
		err(1, "MADV_HUGEPAGE");
	stamp_pages((void *)mem, first, size / page_size);
	if (!huge_bytes(getpid(), (void *)mem, size))
		errx(1, "no huge page to be had");
	return (void *)mem;
}

/* All pages are also those of a child, which never writes. */
static void share_with_child(void *mem)
{
	static pid_t child;

	if (child) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	child = fork();
	if (child < 0)
		err(1, "fork");
	if (child)
		return;
	die_with_parent();
	/* With nothing but its memory: no end of a pipe or of a socket. */
	for (int fd = 0; fd < 64; fd++)
		close(fd);
	for (;;)
		pause();
}

static void *make_cow(size_t size, size_t first)
{
	void *mem = make_anon(size, first);

	share_with_child(mem);
	return mem;
}

static void *make_shmem(size_t size, size_t first)
{
	void *mem = map(size, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1);

	stamp_pages(mem, first, size / page_size);
	return mem;
}

static int open_in_dir(const char *what, int flags)
{
	char path[PATH_MAX];
	int fd;

	if (!opt.dir)
		errx(2, "%s: needs a directory, -d", what);
	snprintf(path, sizeof(path), "%s/bench-%d", opt.dir, getpid());
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | flags, 0600);
	if (fd < 0)
		err(1, "%s", path);
	unlink(path);
	return fd;
}

static void *make_file(size_t size, size_t first)
{
	int fd = open_in_dir("file", 0);
	void *mem;

	if (ftruncate(fd, size))
		err(1, "ftruncate");
	mem = map(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	stamp_pages(mem, first, size / page_size);
	munmap(mem, size);
	/* Or writeback goes on while something is measured. */
	if (fsync(fd))
		err(1, "fsync");
	mem = map(size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd);
	close(fd);
	return mem;
}

/* The pages stay where they are, but the target does not map them any more. */
static void unmap_pages(void *mem)
{
	if (madvise(mem, opt.size, MADV_DONTNEED))
		err(1, "MADV_DONTNEED");
}

static void page_out(void *mem)
{
	unsigned char *in_core = malloc(opt.size / page_size);
	size_t left;

	/* A page that is not on its list yet is passed over. */
	do {
		if (madvise(mem, opt.size, MADV_PAGEOUT) ||
		    mincore(mem, opt.size, in_core))
			err(1, "MADV_PAGEOUT");
		left = 0;
		for (size_t i = 0; i < opt.size / page_size; i++)
			left += in_core[i] & 1;
	} while (left > opt.size / page_size / 100);
	free(in_core);
}

/*
 * Some need to be restored before each run: process_vm_readv() pins pages, and that
 * makes the target copy what it shares with a child; and what was not mapped is.
 */
static const struct source {
	const char *name;
	void *(*make)(size_t size, size_t first);
	void (*restore)(void *mem);
} sources[] = {
	{ "anon",	make_anon,	NULL },
	{ "cow",	make_cow,	share_with_child },
	{ "shmem",	make_shmem,	NULL },
	{ "file",	make_file,	NULL },
	{ "thp",	make_thp,	NULL },
	{ "cold_shmem",	make_shmem,	unmap_pages },
	{ "cold_file",	make_file,	unmap_pages },
	{ "swapped",	make_anon,	page_out },
};

/* Sinks. A socket has a process at its other end. */

static int open_null(size_t size)
{
	return open("/dev/null", O_WRONLY);
}

/* A file of the kernel's own tmpfs, wherever one is mounted. */
static int open_tmpfs(size_t size)
{
	return memfd_create("bench", MFD_CLOEXEC);
}

/* With all its blocks: what is measured is the writing of data. */
static int open_direct(size_t size)
{
	int fd = open_in_dir("direct", O_DIRECT);
	void *buf = map_base_pages(opt.chunk);

	for (size_t done = 0; done < size; done += opt.chunk)
		if (write(fd, buf, opt.chunk) != (ssize_t)opt.chunk)
			err(1, "%s", opt.dir);
	munmap(buf, opt.chunk);
	return fd;
}

static int open_unix(int *other)
{
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv))
		err(1, "socketpair");
	*other = sv[1];
	return sv[0];
}

static int open_tcp(int *other)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	int one = 1;

	if (listener < 0 || fd < 0 ||
	    bind(listener, (struct sockaddr *)&addr, len) ||
	    listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&addr, &len) ||
	    connect(fd, (struct sockaddr *)&addr, len))
		err(1, "TCP on loopback");
	*other = accept(listener, NULL, NULL);
	if (*other < 0)
		err(1, "accept");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one));
	close(listener);
	return fd;
}

static const struct sink {
	const char *name;
	int (*open_file)(size_t size);
	int (*open_socket)(int *other);
	size_t receive;		/* the receiver's buffer; 0: it discards what comes */
	bool copies;		/* splice() to it copies, see alternatives.patch */
} sinks[] = {
	{ "null",	.open_file = open_null },
	{ "tmpfs",	.open_file = open_tmpfs },
	{ "direct",	.open_file = open_direct },
	{ "unix",	.open_socket = open_unix,	.receive = SMALL_BUF },
	{ "tcp",	.open_socket = open_tcp,	.receive = SMALL_BUF },
	{ "unixlarge",	.open_socket = open_unix,	.receive = LARGE_BUF },
	{ "tcplarge",	.open_socket = open_tcp,	.receive = LARGE_BUF },
	{ "tcpdiscard",	.open_socket = open_tcp },
	{ "unixcopies",	.open_socket = open_unix,	.receive = SMALL_BUF,	.copies = true },
	{ "tcpcopies",	.open_socket = open_tcp,	.receive = SMALL_BUF,	.copies = true },
};

enum { SINK_NULL, SINK_TMPFS };

/* What the main process wants of a dumper, and a dumper of a receiver. */
struct job {
	unsigned int shape, sink, method;
	bool check;
};

struct answer {
	uint64_t start, end;
	uint64_t first_cycle, last_cycle;
	size_t bytes, calls;
	bool ok;
};

struct opened_sink {
	int fd;
	int receiver;		/* to talk to it, if there is one */
};

struct dumper {
	unsigned int index;
	size_t first, nr_pages;	/* its part of the target's memory */
	int ctl;
	struct opened_sink sinks[ARRAY_SIZE(sinks)];

	pid_t target;
	int target_mem;		/* /proc/PID/mem */
	char *theirs, *own;	/* the part there, and its like here */
	char *buf;
	int pipe[2];

	/* of the run that goes on */
	const struct method *method;
	struct opened_sink *sink;
	struct iovec iov[MAX_RANGES];
	size_t calls;
};

/* Does buf have what the plan has from its page i on? */
static bool pages_are(const struct dumper *d, const struct plan *plan, size_t i,
		      const char *buf, size_t len)
{
	for (size_t off = 0; off < len; off += page_size, i++)
		if (!page_is(buf + off, d->first + plan->page[i]))
			return false;
	return true;
}

/* Receive len bytes, which begin with page i of the plan; compare them if asked to. */
static bool receive(const struct dumper *d, int fd, const struct plan *plan,
		    size_t i, size_t len, char *buf, bool check)
{
	if (read_all(fd, buf, len) != (ssize_t)len)
		err(1, "receiver");
	return !check || pages_are(d, plan, i, buf, len);
}

static bool discard(int fd, size_t len)
{
	while (len) {
		ssize_t n = recv(fd, NULL, len, MSG_TRUNC);

		if (n <= 0)
			err(1, "receiver");
		len -= n;
	}
	return true;
}

static void run_on_cpu(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % sysconf(_SC_NPROCESSORS_ONLN), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		err(1, "sched_setaffinity");
}

/* Takes a whole plan, or a page at a time, and says after each whether it is right. */
static void receiver_main(const struct dumper *d, int fd, int ctl)
{
	char *buf = map_base_pages(LARGE_BUF);
	struct plan plan;
	struct job job;

	while (read(ctl, &job, sizeof(job)) == sizeof(job)) {
		const struct shape *shape = &shapes[job.shape];
		size_t size = sinks[job.sink].receive;
		size_t len, max = shape->one_at_a_time ? page_size : size ?: LARGE_BUF;
		bool ok = true;

		/*
		 * Left to the scheduler, it is now the dumper's CPU, now another one.
		 * To wake that up is not what the time of a page is to have in it.
		 */
		run_on_cpu(d->index + !shape->one_at_a_time);
		make_plan(&plan, shape, d->nr_pages);
		for (size_t i = 0; i < plan.nr_pages; i += len / page_size) {
			len = (plan.nr_pages - i) * page_size;
			len = len < max ? len : max;
			ok &= size || job.check ?
			      receive(d, fd, &plan, i, len, buf, job.check) : discard(fd, len);
			if (shape->one_at_a_time && write(ctl, &ok, 1) != 1)
				err(1, "receiver");
		}
		if (!shape->one_at_a_time && write(ctl, &ok, 1) != 1)
			err(1, "receiver");
		free_plan(&plan);
	}
	exit(0);
}

static pid_t fork_child(void)
{
	pid_t parent = getpid();
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	return 0;
}

static void control(int sv[2])
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv))
		err(1, "socketpair");
}

static void open_sink(struct dumper *d, unsigned int i)
{
	const struct sink *sink = &sinks[i];
	int other, sv[2];

	if (sink->open_file) {
		d->sinks[i].fd = sink->open_file(d->nr_pages * page_size);
		if (d->sinks[i].fd < 0)
			err(1, "%s", sink->name);
		return;
	}
	d->sinks[i].fd = sink->open_socket(&other);
	control(sv);
	if (!fork_child()) {
		close(d->sinks[i].fd);
		close(sv[0]);
		receiver_main(d, other, sv[1]);
	}
	close(other);
	close(sv[1]);
	d->sinks[i].receiver = sv[0];
}

static void close_sinks(struct dumper *d)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(sinks); i++) {
		if (d->sinks[i].fd >= 0)
			close(d->sinks[i].fd);
		if (d->sinks[i].receiver >= 0)
			close(d->sinks[i].receiver);
	}
}

/* Methods: each takes the ranges in d->iov, of len bytes together, to the sink. */

typedef ssize_t put_fn(pid_t target, int fd, const struct iovec *iov,
		       unsigned long nr, unsigned int flags);

struct method {
	const char *name;
	void (*move)(struct dumper *d, size_t nr, size_t len);
	put_fn *put;		/* if all it does is to put ranges into the pipe */
	bool own;		/* works on memory of the dumper's own */
	size_t step;		/* bytes that it reads at a time, if not all of a chunk */
	bool (*works)(const struct sink *sink);
};

static void advance(struct iovec **iov, size_t *nr, size_t len)
{
	while (*nr && len >= (*iov)->iov_len) {
		len -= (*iov)->iov_len;
		(*iov)++;
		(*nr)--;
	}
	if (!len)
		return;
	(*iov)->iov_base = (char *)(*iov)->iov_base + len;
	(*iov)->iov_len -= len;
}

static void write_ranges(struct dumper *d, struct iovec *iov, size_t nr)
{
	while (nr) {
		ssize_t n = writev(d->sink->fd, iov, nr);

		if (n <= 0)
			err(1, "write");
		d->calls++;
		advance(&iov, &nr, n);
	}
}

static void splice_out(struct dumper *d, size_t len)
{
	while (len) {
		ssize_t n = splice(d->pipe[0], NULL, d->sink->fd, NULL, len, 0);

		if (n <= 0)
			err(1, "splice");
		d->calls++;
		len -= n;
	}
}

static ssize_t put_own(pid_t target, int fd, const struct iovec *iov,
		       unsigned long nr, unsigned int flags)
{
	return vmsplice(fd, iov, nr, flags);
}

static void through_pipe(struct dumper *d, struct iovec *iov, size_t nr, put_fn *put)
{
	while (nr) {
		ssize_t n = put(d->target, d->pipe[1], iov, nr, 0);

		if (n <= 0)
			err(1, "%s", put == put_own ? "vmsplice" : "process_vmsplice");
		d->calls++;
		splice_out(d, n);
		advance(&iov, &nr, n);
	}
}

/* As much of the ranges as buf takes. */
static void read_into(struct dumper *d, struct iovec *buf, const struct iovec *iov, size_t nr)
{
	if (process_vm_readv(d->target, buf, 1, iov, nr, 0) != (ssize_t)buf->iov_len)
		err(1, "process_vm_readv");
	d->calls++;
}

static void move_vmsplice(struct dumper *d, size_t nr, size_t len)
{
	through_pipe(d, d->iov, nr, d->method->put);
}

static void move_readv(struct dumper *d, size_t nr, size_t len)
{
	struct iovec *iov = d->iov;

	while (len) {
		size_t step = d->method->step && d->method->step < len ? d->method->step : len;
		struct iovec buf = { d->buf, step };

		read_into(d, &buf, iov, nr);
		write_ranges(d, &buf, 1);
		advance(&iov, &nr, step);
		len -= step;
	}
}

/* How many of the sends are done with, so that their memory is the sender's again. */
static size_t reap_zerocopy(int fd)
{
	char control[128];
	struct msghdr msg = { .msg_control = control, .msg_controllen = sizeof(control) };
	struct pollfd pollfd = { .fd = fd };
	const struct sock_extended_err *e;

	while (recvmsg(fd, &msg, MSG_ERRQUEUE) < 0) {
		if (errno != EAGAIN)
			err(1, "MSG_ERRQUEUE");
		poll(&pollfd, 1, -1);
	}
	e = (void *)CMSG_DATA(CMSG_FIRSTHDR(&msg));
	return e->ee_data - e->ee_info + 1;
}

static void move_readv_zerocopy(struct dumper *d, size_t nr, size_t len)
{
	struct iovec buf = { d->buf, len };
	size_t sent = 0, done = 0;

	read_into(d, &buf, d->iov, nr);
	while (len) {
		ssize_t n = send(d->sink->fd, d->buf + buf.iov_len - len, len, MSG_ZEROCOPY);

		d->calls++;
		if (n > 0) {
			len -= n;
			sent++;
		} else if (errno == ENOBUFS && done < sent) {
			done += reap_zerocopy(d->sink->fd);
		} else {
			err(1, "MSG_ZEROCOPY");
		}
	}
	while (done < sent)
		done += reap_zerocopy(d->sink->fd);
}

static bool is_tcp(const struct sink *sink)
{
	return sink->open_socket == open_tcp;
}

/* Fill the pipe before it is emptied, although a call takes one range. */
static void move_mem_splice(struct dumper *d, size_t nr, size_t len)
{
	size_t queued = 0;

	for (size_t i = 0; i < nr; i++) {
		off_t at = (uintptr_t)d->iov[i].iov_base;
		size_t left = d->iov[i].iov_len;

		while (left) {
			ssize_t n = splice(d->target_mem, &at, d->pipe[1], NULL, left,
					   SPLICE_F_NONBLOCK);

			d->calls++;
			if (n > 0) {
				queued += n;
				left -= n;
			} else if (errno == EAGAIN && queued) {
				splice_out(d, queued);
				queued = 0;
			} else {
				err(1, "splice from /proc/%d/mem", d->target);
			}
		}
	}
	splice_out(d, queued);
}

/* Only with alternatives.patch. */
static bool can_splice_mem(const struct sink *sink)
{
	off_t at = (uintptr_t)sinks & -page_size;
	int mem = open("/proc/self/mem", O_RDONLY), p[2];
	bool ok;

	if (mem < 0 || pipe(p))
		err(1, "/proc/self/mem");
	ok = splice(mem, &at, p[1], NULL, 1, 0) == 1;
	close(mem);
	close(p[0]);
	close(p[1]);
	return ok;
}

static void move_proc_mem(struct dumper *d, size_t nr, size_t len)
{
	struct iovec buf = { d->buf, len };
	char *to = d->buf;

	for (size_t i = 0; i < nr; i++) {
		ssize_t n = pread(d->target_mem, to, d->iov[i].iov_len,
				  (uintptr_t)d->iov[i].iov_base);

		if (n != (ssize_t)d->iov[i].iov_len)
			err(1, "/proc/%d/mem", d->target);
		d->calls++;
		to += n;
	}
	write_ranges(d, &buf, 1);
}

/*
 * As CRIU's pre-dump does in its read mode. A socket may still hold pages of the
 * buffer when splice() returns: there, each chunk needs new ones.
 */
static void move_readv_vmsplice(struct dumper *d, size_t nr, size_t len)
{
	struct iovec buf = { d->buf, len };

	if (d->sink->receiver >= 0 && madvise(d->buf, len, MADV_DONTNEED))
		err(1, "MADV_DONTNEED");
	read_into(d, &buf, d->iov, nr);
	through_pipe(d, &buf, 1, put_own);
}

static void move_own_write(struct dumper *d, size_t nr, size_t len)
{
	write_ranges(d, d->iov, nr);
}

static const struct method methods[] = {
	{ "process_vmsplice",	move_vmsplice,		.put = process_vmsplice },
	{ "process_vm_readv",	move_readv },
	{ "proc_mem",		move_proc_mem },
	{ "readv_vmsplice",	move_readv_vmsplice },
	{ "own_vmsplice",	move_vmsplice,		.put = put_own,		.own = true },
	{ "own_write",		move_own_write,		.own = true },
	{ "readv_64k",		move_readv,		.step = 64 << 10 },
	{ "readv_256k",		move_readv,		.step = 256 << 10 },
	{ "readv_1m",		move_readv,		.step = 1 << 20 },
	{ "readv_zerocopy",	move_readv_zerocopy,	.works = is_tcp },
	{ "mem_splice",		move_mem_splice,	.works = can_splice_mem },
};

/* The latencies of pages that are taken one at a time, of all dumpers. */
static uint64_t *latencies;

static bool wait_for_receiver(struct dumper *d)
{
	bool ok;

	if (d->sink->receiver < 0)
		return true;
	if (read(d->sink->receiver, &ok, 1) != 1)
		errx(1, "the receiver is gone");
	return ok;
}

static void set_ranges(struct dumper *d, const struct range *range, size_t nr, char *mem)
{
	for (size_t i = 0; i < nr; i++)
		d->iov[i] = (struct iovec) { mem + range[i].off, range[i].len };
}

static char *memory_of(const struct dumper *d)
{
	return d->method->own ? d->own : d->theirs;
}

static bool move_plan(struct dumper *d, const struct plan *plan, uint64_t *latency)
{
	size_t len, nr;
	bool ok = true;

	for (size_t i = 0; i < plan->nr_ranges; i += nr) {
		uint64_t start = 0;

		nr = next_chunk(plan, i, &len);
		set_ranges(d, plan->range + i, nr, memory_of(d));
		if (!latency) {
			d->method->move(d, nr, len);
			continue;
		}
		count_from_here();
		start = now();
		d->method->move(d, nr, len);
		*latency++ = since(start);
		count_to_here();
		ok &= wait_for_receiver(d);
	}
	return latency ? ok : wait_for_receiver(d);
}

static bool file_is(struct dumper *d, const struct plan *plan)
{
	size_t len;

	if (lseek(d->sink->fd, 0, SEEK_SET))
		err(1, "lseek");
	for (size_t i = 0; i < plan->nr_pages; i += len / page_size) {
		len = (plan->nr_pages - i) * page_size;
		len = len < opt.chunk ? len : opt.chunk;
		if (read_all(d->sink->fd, d->buf, len) != (ssize_t)len ||
		    !pages_are(d, plan, i, d->buf, len))
			return false;
	}
	return true;
}

#define COPIES "/sys/module/splice/parameters/copies"

/* Whether splice() to sockets is to copy. */
static void set_copies(bool copies)
{
	static bool now_set;
	int fd;

	if (copies == now_set)
		return;
	fd = open(COPIES, O_WRONLY);
	if (fd < 0 || write(fd, copies ? "1" : "0", 1) != 1)
		err(1, COPIES);
	close(fd);
	now_set = copies;
}

static void prepare_sink(struct dumper *d, const struct job *job)
{
	set_copies(sinks[job->sink].copies);
	/* Nobody can look into /dev/null: a file stands in for it. */
	d->sink = &d->sinks[job->sink == SINK_NULL && job->check ? SINK_TMPFS : job->sink];
	if (d->sink->receiver >= 0) {
		if (write(d->sink->receiver, job, sizeof(*job)) != sizeof(*job))
			err(1, "receiver");
		return;
	}
	lseek(d->sink->fd, 0, SEEK_SET);
	/* As a dump does: the file is new. */
	if (d->sink == &d->sinks[SINK_TMPFS] && ftruncate(d->sink->fd, 0))
		err(1, "ftruncate");
}

static struct answer dump(struct dumper *d, const struct job *job,
			  const struct plan *plan)
{
	struct answer answer = { 0 };
	uint64_t *latency = NULL;

	if (shapes[job->shape].one_at_a_time)
		latency = latencies + d->index * plan->nr_pages;
	prepare_sink(d, job);
	d->calls = 0;

	answer.first_cycle = cycles();
	if (!latency)
		count_from_here();
	answer.start = now();
	answer.ok = move_plan(d, plan, latency);
	answer.end = now();
	if (!latency)
		count_to_here();
	answer.last_cycle = cycles();

	answer.calls = d->calls;
	answer.bytes = plan->nr_pages * page_size;
	if (job->check && d->sink->receiver < 0)
		answer.ok = file_is(d, plan);
	return answer;
}

/* How much one call puts into a pipe that has the default number of slots. */
static struct answer fill(struct dumper *d, const struct job *job,
			  const struct plan *plan)
{
	struct answer answer = { .ok = true, .calls = 1 };
	size_t len, nr = next_chunk(plan, 0, &len);
	ssize_t n;
	int p[2];

	if (pipe(p))
		err(1, "pipe");
	set_ranges(d, plan->range, nr, memory_of(d));
	count_from_here();
	answer.start = now();
	n = d->method->put(d->target, p[1], d->iov, nr, SPLICE_F_NONBLOCK);
	answer.end = now();
	count_to_here();
	if (n <= 0)
		err(1, "%s", d->method->name);
	answer.bytes = n;
	if (job->check)
		answer.ok = read_all(p[0], d->buf, n) == n &&
			    pages_are(d, plan, 0, d->buf, n);
	close(p[0]);
	close(p[1]);
	return answer;
}

static struct answer do_job(struct dumper *d, const struct job *job)
{
	const struct shape *shape = &shapes[job->shape];
	struct answer answer;
	struct plan plan;

	d->method = &methods[job->method];
	is_counted = !job->check;
	make_plan(&plan, shape, d->nr_pages);
	answer = (shape->fill ? fill : dump)(d, job, &plan);
	free_plan(&plan);
	if (is_counted)
		MARK(MARK_SUM);
	return answer;
}

static void open_target(struct dumper *d)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", d->target);
	d->target_mem = open(path, O_RDONLY);
	if (d->target_mem < 0)
		err(1, "%s", path);
	if (pipe(d->pipe) ||
	    fcntl(d->pipe[1], F_SETPIPE_SZ, opt.pipe_size) < 0)
		err(1, "a pipe of %zu bytes", opt.pipe_size);
}

static bool wants_own_memory(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(methods); i++)
		if (opt.methods & 1 << i && methods[i].own)
			return true;
	return false;
}

static void dumper_main(struct dumper *d, const struct source *source)
{
	struct job job;

	open_target(d);
	d->buf = map_base_pages(opt.chunk);
	memset(d->buf, 1, opt.chunk);
	if (wants_own_memory())
		d->own = source->make(d->nr_pages * page_size, d->first);
	while (read(d->ctl, &job, sizeof(job)) == sizeof(job)) {
		struct answer answer = do_job(d, &job);

		if (write(d->ctl, &answer, sizeof(answer)) != sizeof(answer))
			break;
	}
	exit(0);
}

/* The main process: starts the others, tells them what to do, prints. */

struct target {
	pid_t pid;
	int ctl;
	char *mem;
};

/* Says where its memory is, at first and whenever it has restored it. */
static void be_target(const struct source *source, int ctl)
{
	char *mem = source->make(opt.size, 0);
	char command;

	for (;;) {
		if (write(ctl, &mem, sizeof(mem)) != sizeof(mem))
			err(1, "target");
		if (read(ctl, &command, 1) != 1)
			exit(0);
		source->restore(mem);
	}
}

static void wait_for_target(struct target *target)
{
	if (read(target->ctl, &target->mem, sizeof(target->mem)) != sizeof(target->mem))
		errx(1, "the target is gone");
}

static void restore_target(struct target *target)
{
	if (write(target->ctl, "r", 1) != 1)
		err(1, "target");
	wait_for_target(target);
}

static void fork_target(struct target *target, const struct source *source)
{
	int sv[2];

	control(sv);
	target->pid = fork_child();
	if (!target->pid) {
		close(sv[0]);
		be_target(source, sv[1]);
	}
	close(sv[1]);
	target->ctl = sv[0];
	wait_for_target(target);
}

static void start_dumper(struct dumper *d, unsigned int index,
			 const struct source *source, const struct target *target)
{
	int sv[2];

	memset(d, 0, sizeof(*d));
	d->index = index;
	d->nr_pages = opt.size / page_size / opt.dumpers;
	d->first = index * d->nr_pages;
	d->target = target->pid;
	d->theirs = target->mem + d->first * page_size;
	for (unsigned int i = 0; i < ARRAY_SIZE(sinks); i++) {
		d->sinks[i] = (struct opened_sink) { -1, -1 };
		if (opt.sinks & 1 << i || i == SINK_TMPFS)
			open_sink(d, i);
	}
	control(sv);
	d->ctl = sv[1];
	if (!fork_child()) {
		close(sv[0]);
		run_on_cpu(index);
		dumper_main(d, source);
	}
	close_sinks(d);
	close(sv[1]);
	d->ctl = sv[0];
}

/* All dumpers do the job; time and cycles are those from the first start to the last end. */
static struct answer run_job(struct dumper *dumpers, const struct job *job)
{
	struct answer all = { .start = UINT64_MAX, .first_cycle = UINT64_MAX, .ok = true };

	for (int i = 0; i < opt.dumpers; i++)
		if (write(dumpers[i].ctl, job, sizeof(*job)) != sizeof(*job))
			err(1, "dumper");
	for (int i = 0; i < opt.dumpers; i++) {
		struct answer one;

		if (read(dumpers[i].ctl, &one, sizeof(one)) != sizeof(one))
			errx(1, "a dumper is gone");
		all.start = one.start < all.start ? one.start : all.start;
		all.end = one.end > all.end ? one.end : all.end;
		if (one.first_cycle < all.first_cycle)
			all.first_cycle = one.first_cycle;
		if (one.last_cycle > all.last_cycle)
			all.last_cycle = one.last_cycle;
		all.bytes += one.bytes;
		all.calls += one.calls;
		all.ok &= one.ok;
	}
	return all;
}

static void print_percentiles(size_t nr)
{
	static const int permille[] = { 500, 900, 990, 999 };

	qsort(latencies, nr, sizeof(*latencies), compare_times);
	for (unsigned int i = 0; i < ARRAY_SIZE(permille); i++)
		printf(",%llu", (unsigned long long)
		       latencies[nr * permille[i] / 1000]);
}

static void print_answer(const struct source *source, const struct job *job,
			 int repetition, const struct answer *a)
{
	printf("%s,%s,%s,%ld,%s,%d,%zu,%zu,%llu", shapes[job->shape].name,
	       sinks[job->sink].name, source->name, opt.dumpers,
	       methods[job->method].name, repetition, a->bytes, a->calls,
	       (unsigned long long)(a->end - a->start));
	if (shapes[job->shape].one_at_a_time)
		print_percentiles(a->bytes / page_size);
	else
		printf(",,,,");
	if (a->last_cycle > a->first_cycle)
		printf(",%llu\n", (unsigned long long)(a->last_cycle - a->first_cycle));
	else
		printf(",\n");
	fflush(stdout);
}

static bool is_wanted(const struct job *job)
{
	const struct method *method = &methods[job->method];
	const struct sink *sink = &sinks[job->sink];

	if (!(opt.methods & 1 << job->method) || (shapes[job->shape].fill && !method->put))
		return false;
	if (sink->copies && access(COPIES, W_OK))
		return false;
	return !method->works || method->works(sink);
}

/* Round 0 looks at the bytes, and warms up; its time is not kept. */
static void run_round(struct dumper *dumpers, const struct source *source,
		      struct target *target, struct job *job, int round)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(methods); i++) {
		struct answer answer;

		/* Not always the same one first. */
		job->method = (i + round) % ARRAY_SIZE(methods);
		if (!is_wanted(job))
			continue;
		if (source->restore)
			restore_target(target);
		job->check = !round;
		answer = run_job(dumpers, job);
		if (!answer.ok)
			errx(1, "%s, %s, %s to %s: wrong bytes",
			     methods[job->method].name, shapes[job->shape].name,
			     source->name, sinks[job->sink].name);
		if (round)
			print_answer(source, job, round, &answer);
	}
}

static void run_source(const struct source *source)
{
	struct dumper dumpers[MAX_DUMPERS];
	struct target target;
	struct job job;

	fork_target(&target, source);
	for (int i = 0; i < opt.dumpers; i++)
		start_dumper(&dumpers[i], i, source, &target);

	for (job.shape = 0; job.shape < ARRAY_SIZE(shapes); job.shape++)
		for (job.sink = 0; job.sink < ARRAY_SIZE(sinks); job.sink++)
			for (int round = 0; round <= opt.repetitions; round++)
				if (opt.shapes & 1 << job.shape &&
				    opt.sinks & 1 << job.sink)
					run_round(dumpers, source, &target, &job, round);

	for (int i = 0; i < opt.dumpers; i++)
		close(dumpers[i].ctl);
	close(target.ctl);
	kill(target.pid, SIGKILL);
	while (wait(NULL) > 0)
		;
}

/* Options. */

static const char *name_of(const void *table, size_t entry_size, size_t i)
{
	return *(const char * const *)((const char *)table + i * entry_size);
}

/* The names in a list separated by commas, as bits; tables start with the name. */
static unsigned int parse_names(char *list, const void *table, size_t entry_size,
				size_t nr)
{
	unsigned int bits = 0;

	for (char *name = strtok(list, ","); name; name = strtok(NULL, ",")) {
		size_t i = 0;

		while (i < nr && strcmp(name, name_of(table, entry_size, i)))
			i++;
		if (i == nr)
			errx(2, "not known: %s (see -h)", name);
		bits |= 1 << i;
	}
	return bits;
}

#define PARSE_NAMES(list, table) \
	parse_names(list, table, sizeof((table)[0]), ARRAY_SIZE(table))

static size_t parse_number(const char *text, size_t unit, size_t max)
{
	unsigned long n;
	char *end;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (errno || *end || end == text || *text == '-' || !n || n > max)
		errx(2, "not a number from 1 to %zu: %s", max, text);
	return n * unit;
}

static void print_names(const char *option, const void *table, size_t entry_size,
			size_t nr)
{
	fprintf(stderr, "  %s", option);
	for (size_t i = 0; i < nr; i++)
		fprintf(stderr, "%s%s", i ? "," : "", name_of(table, entry_size, i));
	fprintf(stderr, "\n");
}

#define PRINT_NAMES(option, table) \
	print_names(option, table, sizeof((table)[0]), ARRAY_SIZE(table))

static void print_help(void)
{
	fprintf(stderr, "usage: process_vmsplice_bench [options]\n");
	PRINT_NAMES("-m  methods: ", methods);
	PRINT_NAMES("-k  sinks: ", sinks);
	PRINT_NAMES("-s  shapes: ", shapes);
	PRINT_NAMES("-o  sources: ", sources);
	fprintf(stderr,
		"  -n  dumpers at a time (1)\n"
		"  -r  repetitions (5)\n"
		"  -b  memory of the target in MiB (256)\n"
		"  -c  how much is taken at a time, in KiB (4096)\n"
		"  -p  size of the pipe in KiB (4096)\n"
		"  -d  a directory on a block device: for the sink direct and the source file\n"
		"Without -m, -k, -s, -o: all methods, bulk of anon to null.\n");
}

static void parse_options(int argc, char **argv)
{
	int c;

	opt.methods = (1 << ARRAY_SIZE(methods)) - 1;
	opt.sinks = 1;
	opt.shapes = 1;
	opt.sources = 1;
	while ((c = getopt(argc, argv, "m:k:s:o:n:r:b:c:p:d:h")) != -1) {
		switch (c) {
		case 'm':
			opt.methods = PARSE_NAMES(optarg, methods);
			break;
		case 'k':
			opt.sinks = PARSE_NAMES(optarg, sinks);
			break;
		case 's':
			opt.shapes = PARSE_NAMES(optarg, shapes);
			break;
		case 'o':
			opt.sources = PARSE_NAMES(optarg, sources);
			break;
		case 'n':
			opt.dumpers = parse_number(optarg, 1, MAX_DUMPERS);
			break;
		case 'r':
			opt.repetitions = parse_number(optarg, 1, 1000);
			break;
		case 'b':
			opt.size = parse_number(optarg, 1 << 20, INT_MAX >> 20);
			break;
		case 'c':
			opt.chunk = parse_number(optarg, 1 << 10, INT_MAX >> 10);
			break;
		case 'p':
			opt.pipe_size = parse_number(optarg, 1 << 10, INT_MAX >> 10);
			break;
		case 'd':
			opt.dir = optarg;
			break;
		default:
			print_help();
			exit(c == 'h' ? 0 : 2);
		}
	}
	if (optind < argc) {
		print_help();
		exit(2);
	}
	if (opt.chunk % page_size)
		errx(2, "-c: not a multiple of the page size, %zu", page_size);
	if (opt.size / opt.dumpers % opt.chunk)
		errx(2, "-b: a dumper's part is not a multiple of what is taken at a time");
}

int main(int argc, char **argv)
{
	parse_options(argc, argv);
	/* A receiver that is gone is an error of write(). */
	signal(SIGPIPE, SIG_IGN);
	measure_clock();
	open_cycle_counters();
	latencies = map(opt.size / page_size * sizeof(*latencies),
			PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	printf("shape,sink,source,dumpers,method,repetition,bytes,calls,ns,p50,p90,p99,p999,cycles\n");
	fflush(stdout);
	for (unsigned int i = 0; i < ARRAY_SIZE(sources); i++)
		if (opt.sources & 1 << i)
			run_source(&sources[i]);
	return 0;
}
