// SPDX-License-Identifier: GPL-2.0
/*
 * What tells count-copies.c, a plugin of QEMU, when to count, for pvmdump-measure
 *
 * mark start|end|sum	is a program, which also says the time; "sum" has the plugin write
 *			what it has counted
 *
 * With -DHELD, it becomes part of pvmdump, which counts while the process is held: linked
 * with -Wl,--wrap=hold_process,--wrap=release_process.
 */
#include <err.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define MARK(number) ({ asm volatile("nopl %c0(%%rax)" : : "i" (number)); })
#define MARK_START 0x316d7670
#define MARK_END 0x306d7670
#define MARK_SUM 0x3d6d7670

#ifdef HELD
#include "pvmdump.h"

bool __real_hold_process(struct threads *threads, pid_t pid, bool must);
bool __wrap_hold_process(struct threads *threads, pid_t pid, bool must);
void __real_release_process(struct threads *threads);
void __wrap_release_process(struct threads *threads);

bool __wrap_hold_process(struct threads *threads, pid_t pid, bool must)
{
	MARK(MARK_START);
	return __real_hold_process(threads, pid, must);
}

void __wrap_release_process(struct threads *threads)
{
	__real_release_process(threads);
	MARK(MARK_END);
}
#else
static void say_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	printf("now %lld.%09ld\n", (long long)ts.tv_sec, (long)ts.tv_nsec);
}

int main(int argc, char **argv)
{
	const char *what = argc == 2 ? argv[1] : "";

	if (strcmp(what, "sum"))
		say_time();
	if (!strcmp(what, "start"))
		MARK(MARK_START);
	else if (!strcmp(what, "end"))
		MARK(MARK_END);
	else if (!strcmp(what, "sum"))
		MARK(MARK_SUM);
	else
		errx(2, "usage: mark start|end|sum");
}
#endif
