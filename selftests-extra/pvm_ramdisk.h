/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Ramdisks that nobody uses, and swap on one, for tests that want pages swapped out.
 */
#ifndef PVM_RAMDISK_H
#define PVM_RAMDISK_H

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <unistd.h>

#include "pvm_test.h"

#define SWAP_DEVICE "/dev/ram2"

#define CHUNK 65536

/* Finds the next chunk from *at on that is not blank. False if there is none. */
static inline bool next_chunk_in_use(int fd, off_t *at)
{
	static unsigned char chunk[CHUNK];
	ssize_t n;

	while ((n = pread(fd, chunk, CHUNK, *at)) > 0) {
		if (chunk[0] || memcmp(chunk, chunk + 1, n - 1))
			return true;
		*at += n;
	}
	return false;
}

/* Opens a ramdisk that nobody has open and that is blank, or -1. */
static inline int open_ramdisk(const char *path, int flags)
{
	int fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC);
	off_t at = 0;
	bool blank;

	if (fd < 0)
		return -1;
	blank = !next_chunk_in_use(fd, &at) && at == lseek(fd, 0, SEEK_END);
	if (blank && !fcntl(fd, F_SETFL, flags))
		return fd;
	close(fd);
	return -1;
}

/*
 * As it was found. A ramdisk has memory for what has been written to, and gives it back
 * only when that is discarded.
 */
static inline void erase_ramdisk(const char *path)
{
	int fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC);
	uint64_t all[2] = { 0, lseek(fd, 0, SEEK_END) };
	unsigned char *blank = calloc(1, CHUNK);
	off_t at = 0;

	if (fd < 0 || !blank) {
		perror("erasing the ramdisk");
		return;
	}
	ioctl(fd, BLKDISCARD, all);
	/* It may not know how, and what has been read is cached. */
	ioctl(fd, BLKFLSBUF, 0);
	while (next_chunk_in_use(fd, &at))
		if (pwrite(fd, blank, CHUNK, at) <= 0)
			break;
	if (fsync(fd))
		perror("erasing the ramdisk");
	free(blank);
	close(fd);
}

static inline void undo_ramdisk(const struct change *c)
{
	erase_ramdisk(c->what);
}

/* To be erased by release_ramdisk(), or at the end of the program. */
static inline int borrow_ramdisk(const char *path, int flags)
{
	int fd = open_ramdisk(path, flags);

	if (fd >= 0)
		note_change(undo_ramdisk, path, "");
	return fd;
}

static inline void release_ramdisk(const char *path)
{
	undo_change(undo_ramdisk, path);
}

/* A ramdisk has memory for what has been written to. */
static inline bool write_all(int fd, const void *page, off_t size)
{
	for (off_t at = 0; at + (off_t)page_size <= size; at += page_size)
		if (pwrite(fd, page, page_size, at) != (ssize_t)page_size)
			return false;
	return true;
}

/* In the first page, a signature at its end, and after 1 KiB: version, last page, no bad one. */
static inline bool write_swap_header(int fd, off_t size, bool whole)
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
static inline bool make_swap(bool whole)
{
	int fd = borrow_ramdisk(SWAP_DEVICE, 0);
	off_t size;
	bool ok;

	if (fd < 0)
		return false;
	size = lseek(fd, 0, SEEK_END);
	ok = size >= (off_t)(64 * page_size) && write_swap_header(fd, size, whole);
	close(fd);
	return ok;
}

static inline void undo_swapon(const struct change *c)
{
	/* It may not have come to that, or be off already. */
	if (swapoff(c->what) && errno != EINVAL)
		perror("swapoff");
}

static inline void remove_swap(void)
{
	undo_change(undo_swapon, SWAP_DEVICE);
	release_ramdisk(SWAP_DEVICE);
}

#endif
