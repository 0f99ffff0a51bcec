// SPDX-License-Identifier: GPL-2.0
/*
 * The first process of the guest that vmtest.sh boots: runs each of the
 * programs that a file names, reports them in KTAP as the kselftest runner
 * does, and ends with a line by which the host tells a complete run from one
 * that broke off.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define KSFT_SKIP 4

static const struct {
	const char *type, *where;
} filesystems[] = {
	{ "devtmpfs", "/dev" },
	{ "proc", "/proc" },
	{ "sysfs", "/sys" },
	{ "tmpfs", "/tmp" },
	{ "debugfs", "/sys/kernel/debug" },
	{ "cgroup2", "/sys/fs/cgroup" },
};

/* A test that needs something which the kernel lacks says so itself. */
static void mount_filesystems(void)
{
	for (size_t i = 0; i < sizeof(filesystems) / sizeof(*filesystems); i++) {
		mkdir(filesystems[i].where, 0755);
		if (mount(filesystems[i].type, filesystems[i].where, filesystems[i].type, 0, NULL))
			printf("# no %s\n", filesystems[i].type);
	}
}

/* In the first page, a signature at its end, and after 1 KiB: version, last page, no bad one. */
static void add_swap(const char *disk)
{
	int fd = open(disk, O_RDWR), page_size = sysconf(_SC_PAGESIZE);
	unsigned int header[] = { 1, lseek(fd, 0, SEEK_END) / page_size - 1, 0 };
	char *page = calloc(1, page_size);

	memcpy(page + 1024, header, sizeof(header));
	memcpy(page + page_size - 10, "SWAPSPACE2", 10);
	if (pwrite(fd, page, page_size, 0) != page_size || fsync(fd) || swapon(disk, 0))
		printf("# no swap on %s\n", disk);
	free(page);
	close(fd);
}

/* The exit status of the program, or what a shell would say of a signal. */
static int run(const char *path)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		execl(path, path, NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 126;
	/* What the tests have left to init. */
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/*
 * What kmemleak has found by now, on the console, where the host looks for it.
 * An object is reported if two scans found it unreferenced, and the second one
 * began five seconds after it was allocated.
 */
static void report_leaks(void)
{
	int fd = open("/sys/kernel/debug/kmemleak", O_RDWR);
	char buf[4096];
	ssize_t n;

	if (fd < 0)
		return;
	for (int i = 0; i < 2; i++) {
		sleep(5 * i);
		if (write(fd, "scan", 4) != 4)
			perror("# kmemleak scan");
	}
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		fwrite(buf, 1, n, stdout);
	close(fd);
}

/* The host has put the paths into the file, each on a line of its own. */
static void run_all(FILE *programs)
{
	int pass = 0, fail = 0, skip = 0;
	char path[256];

	printf("TAP version 13\n");
	while (fgets(path, sizeof(path), programs)) {
		int status;

		path[strcspn(path, "\n")] = '\0';
		printf("# %s\n", path);
		status = run(path);
		if (status == KSFT_SKIP)
			printf("ok %d %s # SKIP\n", pass + fail + ++skip, path);
		else if (!status)
			printf("ok %d %s\n", ++pass + fail + skip, path);
		else
			printf("not ok %d %s # exit=%d\n", pass + ++fail + skip, path, status);
	}
	printf("1..%d\n", pass + fail + skip);
	report_leaks();
	printf("# vmtest: done pass:%d fail:%d skip:%d\n", pass, fail, skip);
}

int main(void)
{
	FILE *programs = fopen("/programs", "re");

	setvbuf(stdout, NULL, _IOLBF, 0);
	setenv("PATH", "/bin", 1);
	setenv("HOME", "/tmp", 1);
	/* Nothing is lost here, so a test may fail where it would skip elsewhere. */
	setenv("VMTEST_GUEST", "1", 1);
	mount_filesystems();
	add_swap("/dev/ram0");
	if (programs)
		run_all(programs);
	/* A restart does not wait for what the console has in its buffer. */
	tcdrain(STDOUT_FILENO);
	/* With -no-reboot, it is the end of QEMU; but not all firmware can reboot. */
	reboot(getenv("VMTEST_POWER_OFF") ? RB_POWER_OFF : RB_AUTOBOOT);
	return 1;
}
