/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Ramdisks that nobody uses, and swap on one, for tests that want pages swapped out.
 */
#ifndef PVM_SWAP_H
#define PVM_SWAP_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <unistd.h>

#include "pvm_test.h"

#define SWAP_DEVICE "/dev/ram0"

/* Opens a ramdisk that nobody has open and whose first size bytes are blank, or -1. */
static int open_ramdisk(const char *path, int flags, size_t size)
{
	int fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC | flags);
	unsigned char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool blank;

	if (fd < 0 || p == MAP_FAILED)
		return -1;
	blank = pread(fd, p, size, 0) == (ssize_t)size && !p[0] && !memcmp(p, p + 1, size - 1);
	munmap(p, size);
	if (blank)
		return fd;
	close(fd);
	return -1;
}

/* Makes the first size bytes blank again, and closes it. */
static void erase_ramdisk(int fd, size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || pwrite(fd, p, size, 0) != (ssize_t)size || fsync(fd))
		perror("erasing the ramdisk");
	munmap(p, size);
	close(fd);
}

static bool has_swap(void)
{
	FILE *f = fopen("/proc/swaps", "r");
	char line[256];
	int lines = 0;

	if (!f)
		return false;
	while (fgets(line, sizeof(line), f))
		lines++;
	fclose(f);
	return lines > 1;
}

/* A ramdisk has memory for what has been written to. */
static bool write_all(int fd, const void *page, off_t size)
{
	for (off_t at = 0; at + (off_t)page_size <= size; at += page_size)
		if (pwrite(fd, page, page_size, at) != (ssize_t)page_size)
			return false;
	return true;
}

/* In the first page, a signature at its end, and after 1 KiB: version, last page, no bad one. */
static bool write_swap_header(int fd, off_t size, bool whole)
{
	unsigned int header[] = { 1, size / page_size - 1, 0 };
	unsigned char *page = calloc(1, page_size);
	bool ok;

	ok = !whole || write_all(fd, page, size);
	memcpy(page + 1024, header, sizeof(header));
	memcpy(page + page_size - 10, "SWAPSPACE2", 10);
	ok = ok && pwrite(fd, page, page_size, 0) == (ssize_t)page_size && !fsync(fd);
	free(page);
	return ok;
}

/*
 * Makes SWAP_DEVICE ready for swapon(). If whole, it has all its memory from the start.
 */
static bool make_swap(bool whole)
{
	int fd = open_ramdisk(SWAP_DEVICE, 0, page_size);
	off_t size;
	bool ok;

	if (fd < 0)
		return false;
	size = lseek(fd, 0, SEEK_END);
	ok = size >= (off_t)(64 * page_size) && write_swap_header(fd, size, whole);
	close(fd);
	return ok;
}

/* After swapoff(): leaves it as it was found. */
static void unmake_swap(void)
{
	erase_ramdisk(open(SWAP_DEVICE, O_RDWR | O_EXCL | O_CLOEXEC), page_size);
}

#endif
