// SPDX-License-Identifier: GPL-2.0
/*
 * Each allocation of the call fails once: /proc/self/fail-nth fails the first,
 * the second, and so on, until the call gets through untouched. Whatever fails,
 * what is in the pipe is right. In the end, nobody holds a page of the target;
 * kmemleak finds what else leaks.
 */
#define _GNU_SOURCE
#include "pvm_test.h"

#define NR_RANGES 12

FIXTURE(fail) {
	TARGET_MEMBERS;
	int fail_nth;
	struct iovec iov[NR_RANGES];
};

FIXTURE_VARIANT(fail) {
	bool shared, untouched;
	/* More than the iovecs that fit on the kernel's stack. */
	unsigned long nr_segs;
};

FIXTURE_VARIANT_ADD(fail, shared_pages) { .nr_segs = 1 };
FIXTURE_VARIANT_ADD(fail, long_array) { .nr_segs = NR_RANGES };
FIXTURE_VARIANT_ADD(fail, copies) { .shared = true, .nr_segs = 1 };
FIXTURE_VARIANT_ADD(fail, faults) { .untouched = true, .nr_segs = 1 };

/* Make fail_* of debugfs obey the tasks' counters, whatever they allocate. */
static bool enable_faults(void)
{
	static const char * const knobs[][2] = {
		{ "failslab/ignore-gfp-wait", "N" },
		{ "failslab/verbose", "0" },
		{ "fail_page_alloc/ignore-gfp-wait", "N" },
		{ "fail_page_alloc/ignore-gfp-highmem", "N" },
		{ "fail_page_alloc/min-order", "0" },
		{ "fail_page_alloc/verbose", "0" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		char path[128];

		snprintf(path, sizeof(path), "/sys/kernel/debug/%s", knobs[i][0]);
		if (!change_setting(path, knobs[i][1]))
			return false;
	}
	return true;
}

FIXTURE_SETUP(fail)
{
	int type = variant->shared ? MAP_SHARED : MAP_PRIVATE;

	self->fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	if (self->fail_nth < 0 || !enable_faults())
		SKIP(return, "no fault injection in this kernel, or not root");
	self->size = NR_RANGES * page_size;
	self->mem = mmap(NULL, self->size, PROT_READ | PROT_WRITE,
			 type | MAP_ANONYMOUS, -1, 0);
	ASSERT_TRUE(self->mem != MAP_FAILED);
	madvise(self->mem, self->size, MADV_NOHUGEPAGE);
	START_TARGET();
	/* The call faults in what is untouched, or reads it as zeroes. */
	if (!variant->untouched)
		TELL(WRITE_OLD, 0, self->size);
	for (unsigned long i = 0; i < variant->nr_segs; i++) {
		size_t len = self->size / variant->nr_segs;

		self->iov[i] = (struct iovec){ self->mem + i * len, len };
	}
}

FIXTURE_TEARDOWN(fail) {}

/* Let the nth allocation of what this thread does next fail. */
static bool let_fail(int fail_nth, int nth)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", nth);

	return pwrite(fail_nth, text, len, 0) == len;
}

/* Did the failure happen? It did not if there was no nth allocation. */
static bool has_failed(int fail_nth)
{
	char text[16] = "";

	if (pread(fail_nth, text, sizeof(text) - 1, 0) < 0)
		return false;
	/* What is left of it would hit whatever comes next. */
	return let_fail(fail_nth, 0) && atoi(text) == 0;
}

/* Is it what the target has there? */
static bool is_right(const unsigned char *buf, size_t len, bool untouched)
{
	return untouched ? is_filled(buf, len, 0) :
			   differs(buf, 0, len, OLD_BYTES) == len;
}

/* Others' allocations fail as well, without harm, and shift the numbers. */
#define SWEEPS 10

/* Assert that the call returns ENOMEM or a count whatever fails. */
TEST_F_TIMEOUT(fail, each_allocation, TIMEOUT)
{
	int failures = 0, sweep = 0, nth = 1;
	bool failed, twice = false;

	while (sweep < SWEEPS) {
		ssize_t ret;

		ASSERT_TRUE(let_fail(self->fail_nth, nth));
		ret = pvm(self->pid, self->wr, self->iov, variant->nr_segs, 0);
		failed = has_failed(self->fail_nth);
		ASSERT_GT(1000, nth);
		if (ret < 0) {
			/* Without memory, a fault of the target fails. */
			ASSERT_TRUE(ret == -ENOMEM ||
				    (variant->untouched && ret == -EFAULT)) {
				TH_LOG("failure %d gives %zd", nth, ret);
			}
			ASSERT_TRUE(failed);
			ASSERT_EQ(0, in_pipe(self->rd));
			failures++;
		} else {
			ASSERT_TRUE(failed || (size_t)ret == self->size);
			ASSERT_EQ((int)ret, in_pipe(self->rd));
			ASSERT_EQ(ret, read_all(self->rd, self->buf, ret));
			ASSERT_TRUE(is_right(self->buf, ret, variant->untouched));
		}
		if (failed) {
			/* Every other call may make one more, before its own. */
			nth += twice;
			twice = !twice;
			continue;
		}
		/* The copy of each page is an allocation, too. */
		if (variant->shared || variant->untouched)
			ASSERT_LE(NR_RANGES, nth - 1);
		nth = 1;
		sweep++;
	}
	/* The batch in each; and a long array, or the first page. */
	EXPECT_LE(SWEEPS + (variant->nr_segs > 8 || variant->shared), failures);

	/* What was never touched may be the zero page, or nothing. */
	if (variant->untouched)
		return;
	if (!has_two_nodes())
		SKIP(return, "all but this: no two NUMA nodes to move between");
	for (size_t off = 0; off < self->size; off += page_size) {
		EXPECT_TRUE(can_move(self->pid, self->mem + off)) {
			TH_LOG("still held: page %zu", off / page_size);
		}
	}
}

PVM_HARNESS_MAIN
