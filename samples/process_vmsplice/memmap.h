/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What memory a process has, as /proc tells it.
 */
#ifndef MEMMAP_H
#define MEMMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

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

struct mapping {
	struct range range;
	char perms[5];
	char *name;
};

/**
 * struct memmap - the readable memory of a process
 * @mappings: those that can be read, in order of their addresses
 * @nr_mappings: how many
 * @touched: the parts of them that have been touched; all, without pagemap
 * @bytes: the sum of @touched
 * @exclusive: how many of these bytes are anonymous and no one else's, as far
 *	as pagemap tells (what is in swap is not counted)
 * @has_pagemap: whether /proc/PID/pagemap could be read
 */
struct memmap {
	struct mapping *mappings;
	size_t nr_mappings;
	struct ranges touched;
	unsigned long long bytes, exclusive;
	bool has_pagemap;
};

/* All of these end the program with a message if memory runs out. */

/* Returns 0, or -errno if /proc/PID/maps can't be read. memmap_free() it. */
int memmap_read(struct memmap *map, pid_t pid);
void memmap_free(struct memmap *map);

/* Append a range; one that continues the last becomes part of it. */
void ranges_add(struct ranges *list, unsigned long long start, unsigned long long end);

/* A process id, or 0 if the text is none. */
pid_t parse_pid(const char *text);

#endif
