// SPDX-License-Identifier: GPL-2.0
/*
 * GUP follows as many entries of a page table at a time as it can. Give it
 * ranges in which pages of all kinds follow each other, by process_vm_readv(),
 * process_vm_writev() and MADV_POPULATE_*, and compare with what is known of
 * each page.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <asm-generic/mman.h> /* Force the import of the tools version. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "vm_util.h"

#define NR_PAGES	512
#define NR_ROUNDS	25
#define NR_CALLS	20
#define MAX_RUN		40

enum kind {
	SHARED,			/* with the child, copy-on-write */
	NOT_FORKED,
	WRITTEN,
	UNTOUCHED,
	ZERO_PAGE,
	PAGED_OUT,
	PRIVATE_FILE,
	PRIVATE_FILE_WRITTEN,
	SHARED_FILE,
	READ_ONLY,
	NO_ACCESS,
	GUARD,
	NR_KINDS
};

struct mix {
	enum kind kinds[NR_PAGES];
	size_t page_size, size;
	char *mapping;
	char *area;		/* in it */
	char *model;		/* what is in the area */
	char *buf;
	int memfd;
	int pipe[2];		/* closed when the child may look */
	pid_t child;
};

FIXTURE(gup_mixed)
{
	struct mix mix;
};

FIXTURE_VARIANT(gup_mixed)
{
	int advice;
};

FIXTURE_VARIANT_ADD(gup_mixed, base_pages)
{
	.advice = MADV_NOHUGEPAGE,
};

FIXTURE_VARIANT_ADD(gup_mixed, huge_pages)
{
	.advice = MADV_HUGEPAGE,
};

static void stamp(char *to, size_t size)
{
	for (size_t i = 0; i < size; i += sizeof(int))
		*(int *)(to + i) = rand();
}

FIXTURE_SETUP(gup_mixed)
{
	struct mix *mix = &self->mix;

	mix->page_size = psize();
	mix->size = NR_PAGES * mix->page_size;

	mix->model = malloc(mix->size);
	mix->buf = malloc(mix->size);
	ASSERT_NE(mix->model, NULL);
	ASSERT_NE(mix->buf, NULL);

	mix->memfd = memfd_create("gup_mixed", 0);
	ASSERT_GE(mix->memfd, 0);
	ASSERT_EQ(ftruncate(mix->memfd, mix->size), 0);

	/* As a huge page is, if it has as many pages. */
	mix->mapping = mmap(NULL, 2 * mix->size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(mix->mapping, MAP_FAILED);
	mix->area = (char *)(((unsigned long)mix->mapping + mix->size - 1) &
			      ~(mix->size - 1));
}

FIXTURE_TEARDOWN(gup_mixed)
{
	struct mix *mix = &self->mix;

	munmap(mix->mapping, 2 * mix->size);
	close(mix->memfd);
	free(mix->model);
	free(mix->buf);
}

static bool readable(enum kind kind)
{
	return kind != NO_ACCESS && kind != GUARD;
}

static bool writable(enum kind kind)
{
	return readable(kind) && kind != READ_ONLY;
}

static void pick_kinds(struct mix *mix)
{
	unsigned int i, nr = 0;
	enum kind kind;

	for (i = 0; i < NR_PAGES; i++, nr--) {
		if (!nr) {
			nr = 1 + rand() % (rand() % 2 ? MAX_RUN : 3);
			/* Those that are the end of a call are rarer. */
			kind = rand() % (rand() % 8 ? READ_ONLY : NR_KINDS);
		}
		mix->kinds[i] = kind;
	}
}

static bool child_differs(struct mix *mix)
{
	size_t offset;

	for (unsigned int i = 0; i < NR_PAGES; i++) {
		offset = i * mix->page_size;
		if (mix->kinds[i] != NOT_FORKED &&
		    memcmp(mix->area + offset, mix->model + offset,
			   mix->page_size))
			return true;
	}
	return false;
}

/* Some pages of a large folio are then shared, and others are not. */
static void set_fork(struct __test_metadata *_metadata, struct mix *mix,
		     int advice)
{
	for (unsigned int i = 0; i < NR_PAGES; i++)
		if (mix->kinds[i] == NOT_FORKED)
			ASSERT_EQ(madvise(mix->area + i * mix->page_size,
					  mix->page_size, advice), 0);
}

/* Until it is told to look, the child shares what the parent does not write. */
static void fork_child(struct __test_metadata *_metadata, struct mix *mix)
{
	char c;

	ASSERT_EQ(pipe(mix->pipe), 0);
	set_fork(_metadata, mix, MADV_DONTFORK);
	mix->child = fork();
	ASSERT_GE(mix->child, 0);
	if (!mix->child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(mix->pipe[1]);
		if (read(mix->pipe[0], &c, 1))
			_exit(2);
		_exit(child_differs(mix));
	}
	close(mix->pipe[0]);
	set_fork(_metadata, mix, MADV_DOFORK);
}

static void check_child(struct __test_metadata *_metadata, struct mix *mix)
{
	int status;

	close(mix->pipe[1]);
	ASSERT_EQ(waitpid(mix->child, &status, 0), mix->child);
	/* It has what was there at the fork. */
	EXPECT_EQ(status, 0);
}

static void make_run(struct __test_metadata *_metadata, struct mix *mix,
		     size_t start, size_t len, enum kind kind)
{
	char *addr = mix->area + start, *model = mix->model + start;
	int flags = MAP_FIXED | (kind == SHARED_FILE ? MAP_SHARED : MAP_PRIVATE);

	switch (kind) {
	case WRITTEN:
	case PAGED_OUT:
		stamp(addr, len);
		memcpy(model, addr, len);
		/* There may be no swap. */
		if (kind == PAGED_OUT)
			madvise(addr, len, MADV_PAGEOUT);
		break;
	case UNTOUCHED:
	case ZERO_PAGE:
		ASSERT_EQ(madvise(addr, len, MADV_DONTNEED), 0);
		memset(model, 0, len);
		if (kind == ZERO_PAGE)
			force_read_pages(addr, len / mix->page_size,
					 mix->page_size);
		break;
	case PRIVATE_FILE:
	case PRIVATE_FILE_WRITTEN:
	case SHARED_FILE:
		ASSERT_EQ(pwrite(mix->memfd, model, len, start), len);
		ASSERT_EQ(mmap(addr, len, PROT_READ | PROT_WRITE, flags,
			       mix->memfd, start), addr);
		if (kind == PRIVATE_FILE_WRITTEN) {
			stamp(addr, len);
			memcpy(model, addr, len);
		}
		break;
	case READ_ONLY:
	case NO_ACCESS:
		/* Written, they stop a call by nothing but their VMA. */
		stamp(addr, len);
		memcpy(model, addr, len);
		ASSERT_EQ(mprotect(addr, len, kind == READ_ONLY ? PROT_READ :
							PROT_NONE), 0);
		break;
	case GUARD:
		ASSERT_EQ(madvise(addr, len, MADV_GUARD_INSTALL), 0);
		break;
	default:
		break;
	}
}

static void make_mix(struct __test_metadata *_metadata, struct mix *mix)
{
	unsigned int i, j;

	for (i = 0; i < NR_PAGES; i = j) {
		for (j = i + 1; j < NR_PAGES; j++)
			if (mix->kinds[j] != mix->kinds[i])
				break;
		make_run(_metadata, mix, i * mix->page_size,
			 (j - i) * mix->page_size, mix->kinds[i]);
	}
}

/* How many bytes are there until the first page that can't be accessed? */
static size_t accessible(struct mix *mix, size_t start, size_t len,
			 bool (*can)(enum kind kind))
{
	size_t i;

	for (i = start; i < start + len; i++)
		if (!can(mix->kinds[i / mix->page_size]))
			break;
	return i - start;
}

static void check_read(struct __test_metadata *_metadata, struct mix *mix,
		       size_t start, size_t len)
{
	struct iovec local = { mix->buf, len };
	struct iovec remote = { mix->area + start, len };
	size_t want = accessible(mix, start, len, readable);

	ASSERT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0),
		  want ?: -1);
	if (!want)
		ASSERT_EQ(errno, EFAULT);
	ASSERT_EQ(memcmp(mix->buf, mix->model + start, want), 0);
}

static void check_write(struct __test_metadata *_metadata, struct mix *mix,
			size_t start, size_t len)
{
	struct iovec local = { mix->buf, len };
	struct iovec remote = { mix->area + start, len };
	size_t want = accessible(mix, start, len, writable);

	stamp(mix->buf, len);
	ASSERT_EQ(process_vm_writev(getpid(), &local, 1, &remote, 1, 0),
		  want ?: -1);
	if (!want)
		ASSERT_EQ(errno, EFAULT);
	memcpy(mix->model + start, mix->buf, want);
}

/* Whether it succeeds or meets a page that it can't: the memory is the same. */
static void populate(struct mix *mix, size_t start, size_t len)
{
	start -= start % mix->page_size;
	madvise(mix->area + start, len,
		rand() % 2 ? MADV_POPULATE_READ : MADV_POPULATE_WRITE);
}

static void check_memory(struct __test_metadata *_metadata, struct mix *mix)
{
	size_t offset;

	for (unsigned int i = 0; i < NR_PAGES; i++) {
		if (!readable(mix->kinds[i]))
			continue;
		offset = i * mix->page_size;
		ASSERT_EQ(memcmp(mix->area + offset, mix->model + offset,
				 mix->page_size), 0);
	}
}

TEST_F_TIMEOUT(gup_mixed, compare, 300)
{
	struct mix *mix = &self->mix;
	size_t start, len;

	for (unsigned int round = 0; round < NR_ROUNDS; round++) {
		srand(round);
		/* Away with the kinds of the last round. */
		ASSERT_EQ(mmap(mix->area, mix->size, PROT_READ | PROT_WRITE,
			       MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
			  mix->area);
		madvise(mix->area, mix->size, variant->advice);
		stamp(mix->area, mix->size);
		memcpy(mix->model, mix->area, mix->size);

		pick_kinds(mix);
		fork_child(_metadata, mix);
		make_mix(_metadata, mix);
		for (unsigned int call = 0; call < NR_CALLS; call++) {
			start = rand() % mix->size;
			len = 1 + rand() % (mix->size - start);
			switch (rand() % 5) {
			case 0:
				populate(mix, start, len);
				break;
			case 1:
			case 2:
				check_write(_metadata, mix, start, len);
				break;
			default:
				check_read(_metadata, mix, start, len);
			}
		}
		check_memory(_metadata, mix);
		check_child(_metadata, mix);
	}
}

TEST_HARNESS_MAIN
