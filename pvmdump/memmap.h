/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What memory a process has, as /proc tells it.
 */
#ifndef MEMMAP_H
#define MEMMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Of an entry of /proc/PID/pagemap: a guard, which can't be read. */
#define PM_GUARD	(1ULL << 58)

/* Addresses from start up to, but not including, end. */
struct range {
	unsigned long long start, end;
};

/**
 * struct ranges - a list that grows
 * @at: the ranges
 * @nr: how many
 */
struct ranges {
	struct range *at;
	size_t nr;
};

/* What is done with a mapping, and why. */
enum fate {
	TAKEN,
	LEFT_BY_FILTER,		/* /proc/PID/coredump_filter */
	LEFT_BY_MADVISE,	/* MADV_DONTDUMP */
	LEFT_UNREADABLE,	/* devices, memfd_secret(), [vvar] */
	NR_FATES
};

/**
 * struct mapping - a line of /proc/PID/smaps, and what is to be found there
 * @range: its addresses
 * @offset: where it starts in its file
 * @inode: of the file; SysV shared memory can have 0
 * @device: where that is; 0 without a file
 * @resident: bytes in memory or in swap
 * @anon: how many of these are the process's own
 * @swap: bytes in swap
 * @perms: rwxp
 * @flags: VmFlags, with a blank before each
 * @name: of the file, or what it is
 * @fate: whether it is taken
 * @content: the parts that have data
 * @zero_end: up to there, all that is not in @content reads as zeroes; behind it,
 *	nothing is known
 * @lacks: why it may have data, anywhere in it, that is not in @content, or NULL
 */
struct mapping {
	struct range range;
	unsigned long long offset, inode, resident, anon, swap;
	dev_t device;
	char perms[5];
	char *flags, *name;
	enum fate fate;
	struct ranges content;
	unsigned long long zero_end;
	const char *lacks;
};

/**
 * struct memmap - the memory of a process
 * @mappings: in order of their addresses
 * @nr: how many
 * @bytes: the sum of all content
 * @progress: called for each mapping that has been looked at, if set
 */
struct memmap {
	struct mapping *mappings;
	size_t nr;
	unsigned long long bytes;
	void (*progress)(const struct memmap *map, size_t done);
};

/* All of these end the program with a message if memory runs out. */

/*
 * Find the content of what goes into a core file; with @all, of all that can be read.
 * @tid is a thread of the process that has not ended. Returns 0 or -errno.
 */
int memmap_read(struct memmap *map, pid_t tid, bool all);

/* Open a file of /proc/TID; returns -1 and errno. */
int open_proc(pid_t tid, const char *name);

/* Whether a process serves its file system. */
bool is_fuse(int fd);

/* Append a range; one that continues the last becomes part of it. */
void ranges_add(struct ranges *list, unsigned long long start, unsigned long long end);

/* Double an array when it is full, which is when nr is 0 or a power of 2. */
void *grow(void *array, size_t nr, size_t size);

/* A process id, or 0 if the text is none. */
pid_t parse_pid(const char *text);

#endif
