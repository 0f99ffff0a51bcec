// SPDX-License-Identifier: GPL-2.0
/*
 * pvmcmp - compare a core file with the memory of the process
 *
 * Reads the memory by way of /proc/PID/mem, which has nothing in common with
 * process_vmsplice(), and checks that nothing is missing that belongs into a core file.
 * What the process has not touched has to be zeroes. It must not have run since the dump.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <elf.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pvmdump.h"

#define CHUNK 1048576

struct part {
	struct range range;
	unsigned long long offset;
};

/**
 * struct image - the core file
 * @fd: it
 * @wide: ELFCLASS64
 * @segments: those that have data in it
 * @nr: how many
 */
struct image {
	int fd;
	bool wide;
	struct part *segments;
	size_t nr;
};

static void read_fully(int fd, void *buf, size_t len, unsigned long long at)
{
	ssize_t n = pread(fd, buf, len, at);

	if (n < 0)
		err(2, "the core file at %llx", at);
	if (n != (ssize_t)len)
		errx(2, "the core file is not complete: it ends before %llx", at + len);
}

static void add_segment(struct image *image, unsigned long long start,
			unsigned long long offset, unsigned long long size)
{
	struct stat st;

	if (fstat(image->fd, &st) || offset + size > (unsigned long long)st.st_size)
		errx(2, "the core file is not complete: it ends before %llx", offset + size);
	if (image->nr && start < image->segments[image->nr - 1].range.end)
		errx(1, "address %llx is twice in the core file, or out of order", start);
	image->segments = grow(image->segments, image->nr, sizeof(*image->segments));
	image->segments[image->nr++] = (struct part){ { start, start + size }, offset };
}

/* A field of a header, which is of the width of the image. */
#define FIELD(image, header, field) \
	((image)->wide ? (header).wide.field : (header).narrow.field)
#define SIZE(image, header) \
	((image)->wide ? sizeof((header).wide) : sizeof((header).narrow))

static void read_segments(struct image *image)
{
	union { Elf64_Ehdr wide; Elf32_Ehdr narrow; } e;
	union { Elf64_Shdr wide; Elf32_Shdr narrow; } s;
	union { Elf64_Phdr wide; Elf32_Phdr narrow; } p;
	size_t nr;

	read_fully(image->fd, &e, SIZE(image, e), 0);
	nr = FIELD(image, e, e_phnum);
	/* More than that can count are counted in section 0. */
	if (nr == PN_XNUM) {
		read_fully(image->fd, &s, SIZE(image, s), FIELD(image, e, e_shoff));
		nr = FIELD(image, s, sh_info);
	}
	for (size_t i = 0; i < nr; i++) {
		read_fully(image->fd, &p, SIZE(image, p),
			   FIELD(image, e, e_phoff) + i * SIZE(image, p));
		if (FIELD(image, p, p_type) == PT_LOAD && FIELD(image, p, p_filesz))
			add_segment(image, FIELD(image, p, p_vaddr), FIELD(image, p, p_offset),
				    FIELD(image, p, p_filesz));
	}
}

static void read_image(struct image *image, const char *name)
{
	unsigned char ident[EI_NIDENT];

	image->fd = open(name, O_RDONLY);
	if (image->fd < 0)
		err(2, "%s", name);
	read_fully(image->fd, ident, sizeof(ident), 0);
	if (memcmp(ident, ELFMAG, SELFMAG))
		errx(2, "%s is not a core file", name);
	image->wide = ident[EI_CLASS] == ELFCLASS64;
	read_segments(image);
}

/* The memory; where none can be read, what pvmdump puts there. */
static void read_memory(int mem, char *buf, size_t len, unsigned long long at)
{
	size_t page = sysconf(_SC_PAGESIZE);

	while (len) {
		ssize_t n = pread(mem, buf, len, at);

		if (!n)
			errx(2, "the process has ended");
		if (n < 0) {
			n = page - at % page;
			memset(buf, 0, n);
		}
		buf += n;
		len -= n;
		at += n;
	}
}

/* Ends the program at the first address that differs; without mem, from zero. */
static void compare(const struct image *image, const struct part *s, int mem, struct range r)
{
	static char a[CHUNK], b[CHUNK];

	while (r.start < r.end) {
		size_t len = r.end - r.start < CHUNK ? r.end - r.start : CHUNK;

		read_fully(image->fd, a, len, s->offset + (r.start - s->range.start));
		if (mem >= 0)
			read_memory(mem, b, len, r.start);
		else
			memset(b, 0, len);
		for (size_t i = 0; memcmp(a, b, len) && i < len; i++)
			if (a[i] != b[i])
				errx(1, "DIFFERENT: first at address %llx: core file %02x, memory %02x",
				     r.start + i, a[i] & 0xff, b[i] & 0xff);
		r.start += len;
	}
}

/* All content of the process, in order; *lacks says whether there may be more. */
static struct ranges find_content(pid_t pid, bool all, bool *lacks)
{
	struct ranges list = {};
	struct memmap map = {};

	*lacks = false;
	if (memmap_read(&map, pid, all))
		errx(2, "can't read the maps of process %d", pid);
	for (size_t i = 0; i < map.nr; i++) {
		const struct ranges *content = &map.mappings[i].content;

		*lacks |= map.mappings[i].lacks != NULL;
		for (size_t j = 0; j < content->nr; j++)
			ranges_add(&list, content->at[j].start, content->at[j].end);
	}
	return list;
}

/* What has content is compared with the memory, which reading the rest would change. */
static unsigned long long compare_segment(const struct image *image, const struct part *s,
					  int mem, const struct ranges *content)
{
	unsigned long long at = s->range.start, bytes = 0;
	size_t i = 0, high = content->nr;

	while (i < high) {
		size_t middle = (i + high) / 2;

		if (content->at[middle].end > at)
			high = middle;
		else
			i = middle + 1;
	}
	while (at < s->range.end) {
		bool more = i < content->nr && content->at[i].start < s->range.end;
		bool inside = more && content->at[i].start <= at;
		unsigned long long end = !more ? s->range.end : inside ? content->at[i].end :
					 content->at[i].start;

		if (end > s->range.end)
			end = s->range.end;
		compare(image, s, inside ? mem : -1, (struct range){ at, end });
		bytes += inside ? end - at : 0;
		i += inside && end == content->at[i].end;
		at = end;
	}
	return bytes;
}

/* Ends the program if something is in no segment; both are in order. */
static void check_complete(const struct image *image, const struct ranges *content)
{
	size_t s = 0;

	for (size_t i = 0; i < content->nr; i++) {
		unsigned long long at = content->at[i].start;

		while (at < content->at[i].end) {
			while (s < image->nr && image->segments[s].range.end <= at)
				s++;
			if (s == image->nr || image->segments[s].range.start > at)
				errx(1, "MISSING: address %llx is not in the core file", at);
			at = image->segments[s].range.end;
		}
	}
}

int main(int argc, char **argv)
{
	bool all = argc > 1 && (!strcmp(argv[1], "-a") || !strcmp(argv[1], "--all"));
	unsigned long long bytes = 0;
	struct ranges content, wanted;
	bool lacks;
	struct image image = {};
	pid_t pid = 0;
	int mem;

	if (argc - all == 3)
		pid = parse_pid(argv[1 + all]);
	if (!pid)
		errx(2, "usage: pvmcmp [--all] PID CORE");
	read_image(&image, argv[2 + all]);
	pid = find_thread(pid);
	/* Some kernels let only the tracer read what is not readable; it does not stop. */
	ptrace(PTRACE_SEIZE, pid, NULL, NULL);
	mem = open_proc(pid, "mem");
	if (mem < 0)
		err(2, "process %s", argv[1 + all]);
	content = find_content(pid, true, &lacks);
	wanted = all ? content : find_content(pid, false, &lacks);
	check_complete(&image, &wanted);
	for (size_t i = 0; i < image.nr; i++)
		bytes += compare_segment(&image, &image.segments[i], mem, &content);
	printf("identical: %llu bytes in %zu ranges\n", bytes, wanted.nr);
	if (lacks)
		errx(1, "MISSING, perhaps: memory that the process has not touched, as pvmdump says");
	return 0;
}
