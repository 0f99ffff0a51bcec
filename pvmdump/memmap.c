// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <ctype.h>
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "memmap.h"

/* Documentation/admin-guide/mm/pagemap.rst; older headers lack some of it. */
#define PM_UFFD_WP	(1ULL << 57)
#define PM_SWAP		(1ULL << 62)
#define PM_PRESENT	(1ULL << 63)

#define IS_WRITTEN	(1 << 1)
#define IS_PRESENT	(1 << 3)
#define IS_SWAPPED	(1 << 4)
#define IS_ZERO		(1 << 5)
#define IS_GUARD	(1 << 8)

struct scan_region {
	uint64_t start, end, categories;
};

struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t inverted, all_of, any_of, returned;
};

#define SCAN _IOWR('f', 16, struct scan)

/* The bits of /proc/PID/coredump_filter, core(5). */
#define ANON_PRIVATE	(1 << 0)
#define ANON_SHARED	(1 << 1)
#define FILE_PRIVATE	(1 << 2)
#define FILE_SHARED	(1 << 3)
#define ELF_HEADERS	(1 << 4)
#define HUGE_PRIVATE	(1 << 5)
#define HUGE_SHARED	(1 << 6)
#define DEFAULT_FILTER	(ANON_PRIVATE | ANON_SHARED | ELF_HEADERS | HUGE_PRIVATE)

/**
 * struct source - where memmap_read() looks
 * @tid: a thread that has not ended
 * @mem: its /proc/TID/mem
 * @pagemap: its /proc/TID/pagemap, or -1
 * @all: take what coredump_filter and MADV_DONTDUMP leave out
 * @filter: coredump_filter
 * @page: the size of a page
 */
struct source {
	pid_t tid;
	int mem, pagemap;
	bool all;
	unsigned long filter;
	unsigned long long page;
};

void *grow(void *array, size_t nr, size_t size)
{
	if (nr & (nr - 1))
		return array;
	array = reallocarray(array, nr ? 2 * nr : 1, size);
	if (!array)
		err(EXIT_FAILURE, "out of memory");
	return array;
}

void ranges_add(struct ranges *list, unsigned long long start, unsigned long long end)
{
	if (list->nr && list->at[list->nr - 1].end == start) {
		list->at[list->nr - 1].end = end;
		return;
	}
	list->at = grow(list->at, list->nr, sizeof(*list->at));
	list->at[list->nr++] = (struct range){ start, end };
}

bool is_fuse(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) && fs.f_type == FUSE_SUPER_MAGIC;
}

int open_proc(pid_t tid, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "/proc/%d/%s", tid, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Parsing smaps. */

static char *copy(const char *text)
{
	char *new = strdup(text);

	if (!new)
		err(EXIT_FAILURE, "out of memory");
	return new;
}

/* A newline in a name is \012 in maps; but a name may have just that in it. */
static char *file_name(char *text, unsigned long long inode)
{
	struct stat st;
	char *nl;

	text[strcspn(text, "\n")] = 0;
	if (strstr(text, "\\012") && !stat(text, &st) && st.st_ino == inode)
		return copy(text);
	for (nl = text; (nl = strstr(nl, "\\012")); nl++) {
		*nl = '\n';
		memmove(nl + 1, nl + 4, strlen(nl + 4) + 1);
	}
	return copy(text);
}

static void add_mapping(struct memmap *map, char *line)
{
	struct mapping m = { .flags = "" };
	unsigned int major, minor;
	int name = 0;

	if (sscanf(line, "%llx-%llx %4s %llx %x:%x %llu %n", &m.range.start, &m.range.end,
		   m.perms, &m.offset, &major, &minor, &m.inode, &name) < 7 || !name)
		errx(EXIT_FAILURE, "can't parse this line of maps: %s", line);
	m.device = makedev(major, minor);
	m.name = file_name(line + name, m.inode);
	/* What changes while it is read may be listed again, from an earlier address on. */
	while (map->nr && map->mappings[map->nr - 1].range.end > m.range.start) {
		struct range *last = &map->mappings[map->nr - 1].range;

		last->end = m.range.start;
		map->nr -= last->start >= last->end;
	}
	map->mappings = grow(map->mappings, map->nr, sizeof(m));
	map->mappings[map->nr++] = m;
}

static void add_field(struct mapping *m, const char *line)
{
	const char *value = strchr(line, ':');

	if (value && (!strncmp(line, "Rss:", 4) || !strncmp(line, "Swap:", 5) ||
		      strstr(line, "_Hugetlb:")))
		m->resident += strtoull(value + 1, NULL, 10) * 1024;
	if (!strncmp(line, "Swap:", 5))
		m->swap += strtoull(value + 1, NULL, 10) * 1024;
	if (!strncmp(line, "Swap:", 5) || !strncmp(line, "Anonymous:", 10))
		m->anon += strtoull(value + 1, NULL, 10) * 1024;
	if (!strncmp(line, "VmFlags:", 8))
		m->flags = copy(line + 8);
}

/* Without CONFIG_PROC_PAGE_MONITOR there is maps, but not smaps. */
static int read_mappings(struct memmap *map, pid_t tid)
{
	int fd = open_proc(tid, "smaps"), ret;
	char *line = NULL;
	size_t size = 0;
	FILE *f;

	if (fd < 0 && errno == ENOENT)
		fd = open_proc(tid, "maps");
	f = fd < 0 ? NULL : fdopen(fd, "r");
	if (!f)
		return -errno;
	while (getline(&line, &size, f) > 0) {
		if (!isupper(line[0]))
			add_mapping(map, line);
		else if (map->nr)
			add_field(&map->mappings[map->nr - 1], line);
	}
	ret = ferror(f) ? -EIO : 0;
	free(line);
	fclose(f);
	return ret;
}

/* What goes into a core file: as vma_dump_size() in fs/coredump.c has it. */

static bool has_flag(const struct mapping *m, const char *flag)
{
	return strstr(m->flags, flag);
}

static bool is_shared(const struct mapping *m)
{
	return m->perms[3] == 's';
}

/* Nobody can get it back from the file by its name. */
static bool is_deleted(const struct mapping *m)
{
	static const char suffix[] = " (deleted)";
	size_t len = strlen(m->name);

	return len >= strlen(suffix) && !strcmp(m->name + len - strlen(suffix), suffix);
}

/* What memfd_secret() keeps from everybody; a file may have that name, too. */
static bool is_secret(const struct source *s, const struct mapping *m)
{
	char byte;

	return !strcmp(m->name, "/secretmem (deleted)") &&
	       pread(s->mem, &byte, 1, m->range.start) != 1;
}

/* Also the kernel's own, and devices. */
static bool is_unreadable(const struct source *s, const struct mapping *m)
{
	return has_flag(m, " io") || has_flag(m, " pf") || !strncmp(m->name, "[vvar", 5) ||
	       !strcmp(m->name, "[vsyscall]") || is_secret(s, m);
}

/* Has a private mapping of a file been written to? Without smaps, it may have been. */
static bool is_written(const struct mapping *m)
{
	return m->anon || (!m->flags[0] && m->perms[1] == 'w');
}

/* The bits of which one has to be set. One that has lost a name may have another. */
static unsigned long filter_bits(const struct mapping *m)
{
	if (has_flag(m, " ht"))
		return is_shared(m) ? HUGE_SHARED : HUGE_PRIVATE;
	if (is_shared(m))
		return FILE_SHARED | (is_deleted(m) ? ANON_SHARED : 0);
	if (!m->device)
		return ANON_PRIVATE;
	return FILE_PRIVATE | (is_written(m) || is_deleted(m) ? ANON_PRIVATE : 0);
}

static enum fate decide(const struct source *s, const struct mapping *m)
{
	if (is_unreadable(s, m))
		return LEFT_UNREADABLE;
	if (s->all || !strcmp(m->name, "[vdso]"))
		return TAKEN;
	if (has_flag(m, " dd"))
		return LEFT_BY_MADVISE;
	return s->filter & filter_bits(m) ? TAKEN : LEFT_BY_FILTER;
}

static bool starts_elf_file(const struct source *s, const struct mapping *m)
{
	char magic[4];

	return m->device && !m->offset && !is_shared(m) && m->perms[0] == 'r' &&
	       !has_flag(m, " ht") &&
	       pread(s->mem, magic, 4, m->range.start) == 4 && !memcmp(magic, "\177ELF", 4);
}

/* Finding the content. */

static void add_whole(struct mapping *m)
{
	if (m->zero_end > m->range.start)
		ranges_add(&m->content, m->range.start, m->zero_end);
}

/*
 * What page tables call swapped may be a mark by which userfaultfd protects a page that is
 * not there; to read that would bring one, or wait. Of shared memory, what is in swap is
 * found by the file, and the rest of what is called so can't be read.
 */
enum swapped { NOT, BUT_FOR_MARKS, ALL };

static enum swapped wanted_swap(const struct mapping *m)
{
	if (is_shared(m))
		return NOT;
	return has_flag(m, " uw") && !m->swap ? BUT_FOR_MARKS : ALL;
}

/* Add what is in all categories of @with, in one of @any, and in none of @without. */
static int scan_tables(int pagemap, struct mapping *m, uint64_t without, uint64_t with,
		       uint64_t any)
{
	static struct scan_region regions[1024];
	struct scan scan = {
		.size = sizeof(scan), .start = m->range.start, .end = m->range.end,
		.vec = (uintptr_t)regions, .vec_len = 1024, .inverted = without,
		.all_of = without | with, .any_of = any, .returned = IS_PRESENT,
	};

	while (scan.start < scan.end) {
		int n = ioctl(pagemap, SCAN, &scan);

		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++)
			ranges_add(&m->content, regions[i].start, regions[i].end);
		/* Up to 7.3 at least, walk_end may be before the last that was found. */
		scan.start = scan.walk_end;
		if (n && scan.start < regions[n - 1].end)
			scan.start = regions[n - 1].end;
	}
	return 0;
}

static bool is_there(uint64_t entry, enum swapped swapped)
{
	if (entry & PM_GUARD)
		return false;
	return (entry & PM_PRESENT) ||
	       ((entry & PM_SWAP) && (swapped == ALL || (swapped == BUT_FOR_MARKS &&
							 !(entry & PM_UFFD_WP))));
}

/* The same before Linux 6.7, which does not tell zero pages. */
static int read_pagemap(const struct source *s, struct mapping *m)
{
	static uint64_t entries[65536];
	unsigned long long at = m->range.start;

	while (at < m->range.end) {
		unsigned long long want = (m->range.end - at) / s->page * sizeof(*entries);
		ssize_t n;

		if (want > sizeof(entries))
			want = sizeof(entries);
		n = pread(s->pagemap, entries, want, at / s->page * sizeof(*entries));
		if (n < (ssize_t)sizeof(*entries))
			return -ESRCH;
		for (size_t i = 0; i < n / sizeof(*entries); i++, at += s->page)
			if (is_there(entries[i], wanted_swap(m)))
				ranges_add(&m->content, at, at + s->page);
	}
	return 0;
}

static int compare_ranges(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

/* Two lists have become one. */
static void sort_ranges(struct ranges *list)
{
	size_t nr = 0;

	qsort(list->at, list->nr, sizeof(*list->at), compare_ranges);
	for (size_t i = 0; i < list->nr; i++) {
		struct range *last = nr ? &list->at[nr - 1] : NULL;

		if (!last || list->at[i].start > last->end)
			list->at[nr++] = list->at[i];
		else if (list->at[i].end > last->end)
			last->end = list->at[i].end;
	}
	list->nr = nr;
}

/* Takes no time where there are no page tables. */
static int scan(const struct source *s, struct mapping *m, uint64_t without)
{
	enum swapped swapped = wanted_swap(m);
	int ret = scan_tables(s->pagemap, m, without, 0,
			      IS_PRESENT | (swapped == ALL ? IS_SWAPPED : 0));

	/* What is protected does not count as written. */
	if (!ret && swapped == BUT_FOR_MARKS)
		ret = scan_tables(s->pagemap, m, without, IS_SWAPPED | IS_WRITTEN, 0);
	return ret;
}

/* Adds what page tables have. Returns 0 or -errno. */
static int add_touched(const struct source *s, struct mapping *m)
{
	size_t before = m->content.nr;
	int ret = 0;

	if (s->pagemap < 0) {
		add_whole(m);
	} else if (scan(s, m, IS_ZERO | IS_GUARD)) {
		/* Linux before 6.15 does not tell guards. */
		m->content.nr = before;
		ret = scan(s, m, IS_ZERO);
		if (ret) {
			m->content.nr = before;
			ret = read_pagemap(s, m);
		}
	}
	sort_ranges(&m->content);
	return ret;
}

/* Where some of the leases may be of processes that this namespace does not have. */
static bool hides_leases(void)
{
	struct stat st;

	/* PID_NS_INIT_INO of linux/nsfs.h, which older headers lack. */
	return stat("/proc/self/ns/pid", &st) || st.st_ino != 0xeffffffc;
}

/* By any of its names: of some file systems, it has another device there. */
static bool has_lease(const struct mapping *m)
{
	FILE *f = fopen("/proc/locks", "re");
	unsigned long long inode;
	bool found = !is_deleted(m) && hides_leases();
	char line[256];

	while (f && !found && fgets(line, sizeof(line), f))
		found = (strstr(line, "LEASE") || strstr(line, "DELEG")) &&
			sscanf(strrchr(line, ':') ?: "", ":%llu", &inode) == 1 &&
			inode == m->inode;
	if (f)
		fclose(f);
	return found;
}

/* A memfd that is still open: whoever may trace the process gets it from there. */
static bool find_open(const struct source *s, const struct mapping *m, char *path,
		      struct stat *st)
{
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, PATH_MAX, "/proc/%d/fd", s->tid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		snprintf(path, PATH_MAX, "/proc/%d/fd/%s", s->tid, entry->d_name);
		found = !stat(path, st) && st->st_ino == m->inode && st->st_dev == m->device;
	}
	if (dir)
		closedir(dir);
	return found;
}

/*
 * The file of a mapping, also if it is deleted or has no name: only the privileged get
 * it from map_files. By its name, it can be that of another mount namespace.
 */
static bool find_file(const struct source *s, const struct mapping *m, char *path,
		      struct stat *st)
{
	snprintf(path, PATH_MAX, "/proc/%d/map_files/%llx-%llx", s->tid,
		 m->range.start, m->range.end);
	if (!stat(path, st) || find_open(s, m, path, st))
		return true;
	return snprintf(path, PATH_MAX, "%s", m->name) < PATH_MAX && !stat(path, st) &&
	       st->st_ino == m->inode && st->st_dev == m->device;
}

/* Opening it must not end a lease: the holder may be the process itself, which that kills. */
static int open_file(const struct mapping *m, const char *path)
{
	struct stat st;
	int fd;

	if (has_lease(m))
		return -1;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	/* What the process has put there since it was looked at is not its memory. */
	if (fd >= 0 && (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_ino != m->inode)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* Behind the end of the file, there is no memory. */
static void end_with_file(const struct source *s, struct mapping *m, off_t size)
{
	unsigned long long len = m->range.end - m->range.start, to_end = 0;

	size = (size + s->page - 1) & -s->page;
	if (size > (off_t)m->offset)
		to_end = size - m->offset;
	m->zero_end = m->range.start + (len < to_end ? len : to_end);
}

/* Or a guard, which does not say whether there would be something. */
static bool is_readable(const struct source *s, unsigned long long at)
{
	uint64_t entry = 0;
	char byte;

	return pread(s->mem, &byte, 1, at) == 1 ||
	       (pread(s->pagemap, &entry, sizeof(entry), at / s->page * sizeof(entry)) ==
		sizeof(entry) && (entry & PM_GUARD));
}

/* The same without the file. If not even the start can be read, it is not for that. */
static void find_end(const struct source *s, struct mapping *m)
{
	unsigned long long good = m->range.start, bad = m->range.end;

	if (is_readable(s, bad - s->page) || !is_readable(s, good))
		return;
	while (bad - good > s->page) {
		unsigned long long middle = good + (bad - good) / s->page / 2 * s->page;

		if (is_readable(s, middle))
			good = middle;
		else
			bad = middle;
	}
	m->zero_end = bad;
}

/* Of a file, all that is not a hole; also what is in swap, or what this process has not touched. */
static void add_file(const struct source *s, struct mapping *m, int fd)
{
	off_t data = m->offset, hole;
	unsigned long long len;

	while ((data = lseek(fd, data, SEEK_DATA)) >= 0) {
		unsigned long long start = m->range.start + (data & -s->page) - m->offset;

		hole = lseek(fd, data, SEEK_HOLE);
		/* It may have been punched just now; or that is not known. */
		if (hole <= data) {
			errno = hole < 0 ? errno : EIO;
			break;
		}
		if (start >= m->zero_end)
			return;
		len = m->range.start + ((hole + s->page - 1) & -s->page) - m->offset;
		ranges_add(&m->content, start, len < m->zero_end ? len : m->zero_end);
		data = hole;
	}
	/* That means that there is no more data; all else, that this is not known. */
	if (errno != ENXIO) {
		m->content.nr = 0;
		add_whole(m);
	}
}

/* What is not zeroes in a part of the file: hugetlbfs does not tell what holes it has. */
static void find_nonzero(const struct source *s, const struct mapping *m, int fd,
			 struct range part, struct ranges *found)
{
	static const char zeroes[65536];
	static char block[sizeof(zeroes)];
	off_t shift = m->offset - m->range.start;

	while (part.start < part.end) {
		off_t data = lseek(fd, part.start + shift, SEEK_DATA);
		unsigned long long len;
		ssize_t n;

		if (data < 0 && errno == ENXIO)
			return;
		if (data > 0)
			part.start = (data - shift) & -s->page;
		if (part.start >= part.end)
			return;
		len = part.end - part.start;
		n = pread(fd, block, len < sizeof(block) ? len : sizeof(block), part.start + shift);
		if (!n)
			return;
		/* What can't be read is found to be so when it is dumped. */
		len = n < 0 ? s->page : (n + s->page - 1) & -s->page;
		if (n < 0 || memcmp(block, zeroes, n))
			ranges_add(found, part.start, part.start + len);
		part.start += len;
	}
}

/* MAP_ANONYMOUS | MAP_PRIVATE: nothing ever is in the file. */
static bool is_anonymous(const struct mapping *m)
{
	return !is_shared(m) && !strcmp(m->name, "/anon_hugepage (deleted)");
}

/*
 * What is in the file, and not in this process's page tables. To read it there does no more
 * than map it; but with userfaultfd for minor faults, that takes an answer from who watches.
 */
static void add_untouched(const struct source *s, struct mapping *m)
{
	struct range gap = { .start = m->range.start };
	struct ranges found = {};
	char path[PATH_MAX];
	struct stat st;
	int fd = find_file(s, m, path, &st) ? open_file(m, path) : -1;

	for (size_t i = 0; i <= m->content.nr; i++) {
		gap.end = i < m->content.nr ? m->content.at[i].start : m->range.end;
		if (fd >= 0)
			find_nonzero(s, m, fd, gap, &found);
		else if (gap.start < gap.end && !is_anonymous(m))
			m->lacks = "the file can't be opened";
		if (i < m->content.nr)
			gap.start = m->content.at[i].end;
	}
	if (fd >= 0)
		close(fd);
	if (found.nr && has_flag(m, " ui"))
		m->lacks = "to read them, its userfaultfd has to answer";
	else
		for (size_t i = 0; i < found.nr; i++)
			ranges_add(&m->content, found.at[i].start, found.at[i].end);
	if (found.nr)
		sort_ranges(&m->content);
	free(found.at);
}

/*
 * Page tables know what is a process's own. They don't show all that a file has, nor is
 * all of it there that they call swapped: userfaultfd leaves marks. But to read a page
 * of hugetlbfs, or one that userfaultfd waits for, has effects, if it is not there.
 */
static int find_content(const struct source *s, struct mapping *m)
{
	char path[PATH_MAX];
	struct stat st;
	bool found;
	int fd, ret;

	m->zero_end = m->range.end;
	if (!strcmp(m->name, "[vdso]")) {
		add_whole(m);
		return 0;
	}
	if (!m->device)
		return add_touched(s, m);
	if (has_flag(m, " ht") || has_flag(m, " ui")) {
		ret = add_touched(s, m);
		if (!ret)
			add_untouched(s, m);
		return ret;
	}
	found = find_file(s, m, path, &st);
	/* A device, where open() may do more than open, or what never was in a directory. */
	if (found ? !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode) : m->name[0] != '/')
		return add_touched(s, m);
	fd = found && S_ISREG(st.st_mode) ? open_file(m, path) : -1;
	if (found && S_ISREG(st.st_mode))
		end_with_file(s, m, st.st_size);
	else
		find_end(s, m);
	/*
	 * What has not been touched is as the file has it; a FUSE server may not know yet
	 * what was written.
	 */
	if (fd < 0 || is_fuse(fd))
		add_whole(m);
	else
		add_file(s, m, fd);
	if (fd >= 0)
		close(fd);
	return add_touched(s, m);
}

/* As much as tells which file it is. */
static void find_header(const struct source *s, struct mapping *m)
{
	m->zero_end = m->range.start;
	if ((s->filter & ELF_HEADERS) && m->fate == LEFT_BY_FILTER && starts_elf_file(s, m)) {
		m->zero_end += s->page;
		ranges_add(&m->content, m->range.start, m->zero_end);
	}
}

static unsigned long read_filter(pid_t tid)
{
	int fd = open_proc(tid, "coredump_filter");
	char text[32] = "";
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	close(fd);
	return n > 0 ? strtoul(text, NULL, 16) : DEFAULT_FILTER;
}

int memmap_read(struct memmap *map, pid_t tid, bool all)
{
	struct source s = {
		.tid = tid, .mem = open_proc(tid, "mem"), .pagemap = open_proc(tid, "pagemap"),
		.all = all, .filter = read_filter(tid), .page = sysconf(_SC_PAGESIZE),
	};
	char byte;
	int ret;

	map->nr = 0;
	map->bytes = 0;
	ret = read_mappings(map, tid);
	/* Without memory, the thread is ending. */
	if (s.mem >= 0 && !pread(s.mem, &byte, 1, 0))
		ret = -ESRCH;
	for (size_t i = 0; i < map->nr && !ret; i++) {
		struct mapping *m = &map->mappings[i];

		m->fate = decide(&s, m);
		if (m->fate == TAKEN)
			ret = find_content(&s, m);
		else
			find_header(&s, m);
		for (size_t j = 0; j < m->content.nr; j++)
			map->bytes += m->content.at[j].end - m->content.at[j].start;
		if (map->progress)
			map->progress(map, i + 1);
	}
	close(s.mem);
	close(s.pagemap);
	return ret;
}

pid_t parse_pid(const char *text)
{
	char *end;
	long pid;

	errno = 0;
	pid = strtol(text, &end, 10);
	if (errno || *end || end == text || pid <= 0 || pid > INT_MAX)
		return 0;
	return pid;
}
