/* SPDX-License-Identifier: GPL-2.0 */
/* For tests that are random, and take their length and their seed from the environment. */
#ifndef PVM_RANDOM_H
#define PVM_RANDOM_H

#include <time.h>
#include "pvm_test.h"

static inline uint64_t number_from_env(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 0) : otherwise;
}

static inline uint64_t any_seed(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec << 20 ^ now.tv_nsec;
}

#endif
