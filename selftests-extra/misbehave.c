// SPDX-License-Identifier: GPL-2.0
/*
 * What can go wrong in the guest, each under the name by which this program is called;
 * vmtest/test_vmtest.sh runs them to see that vmtest.sh notices.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <unistd.h>

static int write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	return fd < 0 || write(fd, text, strlen(text)) < 0;
}

/* A report as KCSAN makes it, of a race in this function. */
static int report_race(const char *function)
{
	const char *rule = "<4>==================================================\n";
	char frame[64];

	snprintf(frame, sizeof(frame), "<4> %s+0x1/0x2\n", function);
	return write_to("/dev/kmsg", rule) ||
	       write_to("/dev/kmsg", "<4>BUG: KCSAN: data-race in a / b\n") ||
	       write_to("/dev/kmsg", frame) || write_to("/dev/kmsg", rule);
}

/* Have memory until a signal comes; say when it is there, and when it is gone. */
static int vanish(void)
{
	size_t size = 8 << 20;
	sigset_t usr1;
	char *mem;
	int sig;

	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return 1;
	memset(mem, 1, size);
	puts("ready");
	fflush(stdout);
	sigwait(&usr1, &sig);
	munmap(mem, size);
	puts("gone");
	fflush(stdout);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	const char *name = strrchr(argv[0], '/');

	name = name ? name + 1 : argv[0];
	if (!strcmp(name, "hang"))
		for (;;)
			pause();
	if (!strcmp(name, "panic"))
		return write_to("/proc/sysrq-trigger", "c");
	if (!strcmp(name, "break_off"))
		return reboot(RB_AUTOBOOT);
	if (!strcmp(name, "splat"))
		return write_to("/dev/kmsg", "<4>WARNING: suspicious RCU usage\n");
	if (!strcmp(name, "leak"))
		return write_to("/dev/kmsg", "<4>unreferenced object 0x1 (size 8)\n");
	if (!strcmp(name, "race"))
		return report_race("pvmsplice_publish.constprop.0");
	if (!strcmp(name, "race_elsewhere"))
		return report_race("elsewhere");
	if (!strcmp(name, "fail"))
		return 1;
	if (!strcmp(name, "skip"))
		return 4;
	if (!strcmp(name, "die"))
		__builtin_trap();
	if (!strcmp(name, "vanish"))
		return vanish();
	if (!strcmp(name, "deny"))
		puts("not ok 1 a test whose program exits with 0 all the same");
	return 0;
}
