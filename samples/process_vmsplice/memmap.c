// SPDX-License-Identifier: GPL-2.0
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memmap.h"

/* Documentation/admin-guide/mm/pagemap.rst */
#define PM_MMAP_EXCLUSIVE	0x0100000000000000ULL
#define PM_FILE			0x2000000000000000ULL
#define PM_SWAP			0x4000000000000000ULL
#define PM_PRESENT		0x8000000000000000ULL

/* Double an array when it is full, which is when nr is a power of 2. */
static void *grow(void *array, size_t nr, size_t size)
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

/* The kernel's own mappings, which no one can read through their page tables. */
static bool is_special(const char *name)
{
	return !strncmp(name, "[vvar", 5) || !strcmp(name, "[vsyscall]");
}

static void add_mapping(struct memmap *map, char *line)
{
	struct mapping m = {};
	int name = 0;

	if (sscanf(line, "%llx-%llx %4s %*s %*s %*s %n",
		   &m.range.start, &m.range.end, m.perms, &name) < 3 || !name)
		errx(EXIT_FAILURE, "can't parse this line of maps: %s", line);
	line[strcspn(line, "\n")] = 0;
	if (m.perms[0] != 'r' || is_special(line + name))
		return;
	m.name = strdup(line + name);
	if (!m.name)
		err(EXIT_FAILURE, "out of memory");
	map->mappings = grow(map->mappings, map->nr_mappings, sizeof(m));
	map->mappings[map->nr_mappings++] = m;
}

static int read_mappings(struct memmap *map, pid_t pid)
{
	char path[64], *line = NULL;
	size_t size = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "r");
	if (!f)
		return -errno;
	errno = 0;
	while (getline(&line, &size, f) > 0)
		add_mapping(map, line);
	free(line);
	/* The permission is checked at the first read. */
	size = ferror(f) ? errno : 0;
	fclose(f);
	return -(int)size;
}

static void add_pages(struct memmap *map, unsigned long long start,
		      const unsigned long long *entries, size_t nr, size_t page)
{
	for (size_t i = 0; i < nr; i++, start += page) {
		if (!(entries[i] & (PM_PRESENT | PM_SWAP)))
			continue;
		ranges_add(&map->touched, start, start + page);
		map->bytes += page;
		if ((entries[i] & PM_MMAP_EXCLUSIVE) && !(entries[i] & PM_FILE))
			map->exclusive += page;
	}
}

/* False if pagemap ends early: the process is gone, or hides it. */
static bool add_touched(struct memmap *map, const struct range *r, int pagemap)
{
	static unsigned long long entries[65536];
	size_t page = sysconf(_SC_PAGESIZE);
	unsigned long long at = r->start;

	while (at < r->end) {
		size_t want = (r->end - at) / page;
		ssize_t n;

		if (want > sizeof(entries) / sizeof(*entries))
			want = sizeof(entries) / sizeof(*entries);
		n = pread(pagemap, entries, want * sizeof(*entries),
			  at / page * sizeof(*entries));
		if (n < (ssize_t)sizeof(*entries))
			return false;
		n /= sizeof(*entries);
		add_pages(map, at, entries, n, page);
		at += n * page;
	}
	return true;
}

/* Without pagemap, all that is mapped counts as touched. */
static void add_all(struct memmap *map)
{
	map->touched.nr = 0;
	map->bytes = 0;
	map->exclusive = 0;
	for (size_t i = 0; i < map->nr_mappings; i++) {
		const struct range *r = &map->mappings[i].range;

		ranges_add(&map->touched, r->start, r->end);
		map->bytes += r->end - r->start;
	}
}

int memmap_read(struct memmap *map, pid_t pid)
{
	char path[64];
	int pagemap, ret;

	*map = (struct memmap){};
	ret = read_mappings(map, pid);
	if (ret)
		return ret;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	map->has_pagemap = pagemap >= 0;
	for (size_t i = 0; i < map->nr_mappings && map->has_pagemap; i++)
		map->has_pagemap = add_touched(map, &map->mappings[i].range,
					       pagemap);
	if (!map->has_pagemap)
		add_all(map);
	if (pagemap >= 0)
		close(pagemap);
	return 0;
}

void memmap_free(struct memmap *map)
{
	for (size_t i = 0; i < map->nr_mappings; i++)
		free(map->mappings[i].name);
	free(map->mappings);
	free(map->touched.at);
	*map = (struct memmap){};
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
