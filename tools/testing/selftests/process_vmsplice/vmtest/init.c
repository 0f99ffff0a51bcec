// SPDX-License-Identifier: GPL-2.0
/*
 * The first process of the guest that vmtest boots: runs each of the programs that a file
 * names, reports them in KTAP as the kselftest runner does, and ends with a line by which
 * the host tells a complete run from one that broke off.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../kselftest.h"

static const struct {
	const char *type, *where;
} filesystems[] = {
	{ "devtmpfs", "/dev" },
	{ "proc", "/proc" },
	{ "sysfs", "/sys" },
	{ "tmpfs", "/tmp" },
	{ "debugfs", "/sys/kernel/debug" },
};

static void mount_filesystems(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(filesystems); i++) {
		const char *type = filesystems[i].type;

		mkdir(filesystems[i].where, 0755);
		/* A test that needs one which the kernel lacks says so itself. */
		if (mount(type, filesystems[i].where, type, 0, NULL))
			printf("# no %s: %s\n", type, strerror(errno));
	}
}

/* The exit status of the program, or what a shell would say of a signal. */
static int run(const char *path)
{
	int status;
	pid_t pid;

	pid = fork();
	if (pid < 0)
		return 126;
	if (!pid) {
		execl(path, path, NULL);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) != pid)
		;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) :
				     WEXITSTATUS(status);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* What kmemleak has found by now, on the console, where the host looks for it. */
static void report_leaks(void)
{
	char buf[4096];
	ssize_t n;
	int fd;

	fd = open("/sys/kernel/debug/kmemleak", O_RDWR);
	if (fd < 0)
		return;
	/*
	 * An object is reported if two scans found it unreferenced, and the second one
	 * began five seconds after it was allocated.
	 */
	for (int i = 0; i < 2; i++) {
		if (write(fd, "scan", 4) != 4)
			perror("# kmemleak scan");
		if (!i)
			sleep(5);
	}
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		fwrite(buf, 1, n, stdout);
	close(fd);
}

/* A file, for the host, in lines that are easy to tell from all others. */
static void send_file(const char *path)
{
	unsigned char buf[32];
	size_t total = 0;
	ssize_t n;
	int fd;

	fd = open(path, O_RDONLY);
	if (fd < 0) {
		printf("# no %s: %s\n", path, strerror(errno));
		return;
	}
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		printf("#hex ");
		for (ssize_t i = 0; i < n; i++)
			printf("%02x", buf[i]);
		printf("\n");
		total += n;
	}
	printf("#hex end: %zu\n", total);
	close(fd);
}

/* How many lines there are; the next read starts over. */
static int count_lines(FILE *file)
{
	int n = 0;

	for (int c; (c = getc(file)) != EOF;)
		n += c == '\n';
	rewind(file);
	return n;
}

/* The host has put the paths into the file, each on a line of its own. */
static void run_all(FILE *programs)
{
	int pass = 0, fail = 0, skip = 0;
	char path[256];

	printf("TAP version 13\n1..%d\n", count_lines(programs));
	for (int i = 1; fgets(path, sizeof(path), programs); i++) {
		double start = now();
		int status;

		path[strcspn(path, "\n")] = '\0';
		printf("# %s\n", path);
		status = run(path);
		printf("# %s: %.1f s\n", path, now() - start);
		if (status == KSFT_SKIP) {
			skip++;
			printf("ok %d %s # SKIP\n", i, path);
		} else if (!status) {
			pass++;
			printf("ok %d %s\n", i, path);
		} else {
			fail++;
			printf("not ok %d %s # exit=%d\n", i, path, status);
		}
	}
	report_leaks();
	if (getenv("VMTEST_GET"))
		send_file(getenv("VMTEST_GET"));
	printf("# vmtest: done pass:%d fail:%d skip:%d\n", pass, fail, skip);
}

int main(void)
{
	FILE *programs;

	setvbuf(stdout, NULL, _IOLBF, 0);
	setenv("PATH", "/bin", 1);
	setenv("HOME", "/tmp", 1);
	/* For tests that change what only a reboot undoes. */
	setenv("VMTEST_GUEST", "1", 1);
	mount_filesystems();
	programs = fopen("/programs", "re");
	if (programs)
		run_all(programs);
	else
		perror("# /programs");
	fflush(stdout);
	sync();
	/* With -no-reboot, it is the end of QEMU; but not all firmware can reboot. */
	reboot(getenv("VMTEST_POWER_OFF") ? RB_POWER_OFF : RB_AUTOBOOT);
	return 1;
}
