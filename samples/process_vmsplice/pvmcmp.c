// SPDX-License-Identifier: GPL-2.0
/*
 * pvmcmp - compare an image that pvmdump made with the memory of the process
 *
 * Reads the memory by way of /proc/PID/mem, which has nothing in common with
 * process_vmsplice(), and checks that no page is missing that the process has touched.
 * The process must not have run since the dump.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memmap.h"

#define TRAILER "pvmdump-index %016llx"
#define TRAILER_LEN 31
#define CHUNK 1048576

static void seek_index(FILE *image)
{
	char line[TRAILER_LEN + 1] = "";
	unsigned long long offset;

	if (fseeko(image, -TRAILER_LEN, SEEK_END) ||
	    fread(line, 1, TRAILER_LEN, image) != TRAILER_LEN ||
	    sscanf(line, TRAILER, &offset) != 1 || fseeko(image, offset, SEEK_SET))
		errx(2, "the image has no index: it is not complete");
}

static void read_fully(int fd, char *buf, size_t len, unsigned long long at,
		       const char *what)
{
	while (len) {
		ssize_t n = pread(fd, buf, len, at);

		if (n < 0)
			err(2, "%s at %llx", what, at);
		if (!n)
			errx(2, "%s ends at %llx", what, at);
		buf += n;
		len -= n;
		at += n;
	}
}

/* Ends the program at the first address that differs. */
static void compare(int image, int mem, struct range r, unsigned long long offset)
{
	static char a[CHUNK], b[CHUNK];

	while (r.start < r.end) {
		size_t len = r.end - r.start < CHUNK ? r.end - r.start : CHUNK;

		read_fully(image, a, len, offset, "the image");
		read_fully(mem, b, len, r.start, "the memory");
		for (size_t i = 0; memcmp(a, b, len) && i < len; i++)
			if (a[i] != b[i])
				errx(1, "DIFFERENT: first at address %llx: image %02x, memory %02x",
				     r.start + i, a[i] & 0xff, b[i] & 0xff);
		r.start += len;
		offset += len;
	}
}

/* Ends the program if a touched page is in none of the ranges, which are in order. */
static void check_complete(pid_t pid, const struct ranges *covered)
{
	struct memmap map;
	size_t c = 0;

	if (memmap_read(&map, pid) || !map.has_pagemap)
		errx(2, "can't read the maps of process %d", pid);
	for (size_t i = 0; i < map.touched.nr; i++) {
		unsigned long long at = map.touched.at[i].start;

		while (at < map.touched.at[i].end) {
			while (c < covered->nr && covered->at[c].end <= at)
				c++;
			if (c == covered->nr || covered->at[c].start > at)
				errx(1, "MISSING: address %llx is not in the image",
				     at);
			at = covered->at[c].end;
		}
	}
	memmap_free(&map);
}

int main(int argc, char **argv)
{
	char path[64], *line = NULL;
	struct ranges covered = {};
	unsigned long long bytes = 0;
	size_t size = 0;
	FILE *image;
	pid_t pid;
	int mem;

	pid = argc == 3 ? parse_pid(argv[1]) : 0;
	if (!pid)
		errx(2, "usage: pvmcmp PID IMAGE");
	image = fopen(argv[2], "r");
	if (!image)
		err(2, "%s", argv[2]);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	mem = open(path, O_RDONLY);
	if (mem < 0)
		err(2, "%s", path);

	seek_index(image);
	while (getline(&line, &size, image) > 0) {
		unsigned long long offset;
		struct range r;

		if (line[0] == 'X')
			errx(1, "NOT READ when it was dumped: %s", line + 2);
		if (sscanf(line, "D %llx %llx %llx", &r.start,
			   &r.end, &offset) != 3)
			continue;
		compare(fileno(image), mem, r, offset);
		ranges_add(&covered, r.start, r.end);
		bytes += r.end - r.start;
	}
	check_complete(pid, &covered);
	printf("identical: %llu bytes in %zu ranges\n", bytes, covered.nr);
	return 0;
}
