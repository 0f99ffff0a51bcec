// SPDX-License-Identifier: GPL-2.0
/*
 * What scripts/guest/test-pvmdump runs as the only program of a guest that has no shell: dumps
 * processes of all widths with programs of all widths, and compares. The first pages of
 * the core files of a stopped process go to /tmp/heads, one after the other.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* As scripts/guest/test-pvmdump cuts them. */
#define HEAD 65536

static const char *const widths[] = { "64", "32" };
static const char *const kinds[] = {
	"guards", "untouched", "swapped", "protected", "left_out", "empty", "threads",
	"leader_ends",
};

static int nr, failed;

static bool has_program(const char *name, const char *width)
{
	char path[64];

	snprintf(path, sizeof(path), "/bin/%s%s", name, width);
	return !access(path, X_OK);
}

/* /bin/NAME.WIDTH with arguments, up to NULL. */
static pid_t start(int out, const char *name, const char *width, ...)
{
	char path[64], *argv[8] = { path };
	va_list ap;
	pid_t pid;

	snprintf(path, sizeof(path), "/bin/%s%s", name, width);
	va_start(ap, width);
	for (int i = 1; (argv[i] = va_arg(ap, char *)); i++)
		;
	va_end(ap);
	pid = fork();
	if (!pid) {
		dup2(out, STDOUT_FILENO);
		execv(path, argv);
		err(127, "%s", path);
	}
	return pid;
}

static bool ends_with(int wanted, pid_t pid)
{
	int status;

	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
	       WEXITSTATUS(status) == wanted;
}

static bool is_stopped(pid_t pid)
{
	char path[64], text[256] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f || !fgets(text, sizeof(text), f))
		err(1, "%s", path);
	fclose(f);
	/* A main thread that has ended does not stop. */
	return strstr(text, ") T ") || strstr(text, ") Z ");
}

static void keep_head(void)
{
	static char head[HEAD];
	int in = open("/tmp/core", O_RDONLY);
	int out = open("/tmp/heads", O_WRONLY | O_CREAT | O_APPEND, 0600);

	if (read(in, head, HEAD) != HEAD || write(out, head, HEAD) != HEAD)
		err(1, "/tmp/heads");
	close(in);
	close(out);
}

/* arm64 does not tell a 32-bit program the registers of a 64-bit process. */
static bool has_registers(const char *width, const char *dump)
{
#ifdef __aarch64__
	return strcmp(width, "64") || strcmp(dump, "32");
#else
	(void)width;
	(void)dump;
	return true;
#endif
}

static bool is_dumped(const char *pid, const char *dump, const char *way, bool whole)
{
	pid_t child = start(2, "pvmdump", dump, "-q", "--stop", pid, "/tmp/core", way, NULL);

	if (!ends_with(whole ? 0 : 3, child))
		return false;
	for (int i = 0; i < 2; i++)
		if (has_program("pvmcmp", widths[i]) &&
		    !ends_with(0, start(2, "pvmcmp", widths[i], pid, "/tmp/core", NULL)))
			return false;
	return true;
}

static void check(const char *kind, const char *width, const char *pid)
{
	for (int i = 0; i < 4; i++) {
		const char *dump = widths[i / 2], *way = i % 2 ? "--copy" : NULL;
		bool whole = has_registers(width, dump), ok;

		if (!has_program("pvmdump", dump))
			continue;
		ok = is_dumped(pid, dump, way, whole);
		failed += !ok;
		printf("%s %d %s: %s-bit process, %s-bit pvmdump%s\n", ok ? "ok" : "not ok",
		       ++nr, kind, width, dump, way ? ", copied" : "");
		if (!strcmp(kind, "threads") && !way && whole)
			keep_head();
	}
}

static void check_state(const char *kind, const char *width)
{
	char text[64], *pid;
	int fds[2];
	pid_t started;
	FILE *f;

	if (pipe2(fds, O_CLOEXEC))
		err(1, "pipe2");
	started = start(fds[1], "states", width, kind, NULL);
	close(fds[1]);
	f = fdopen(fds[0], "r");
	if (!fgets(text, sizeof(text), f) || strncmp(text, "ready ", 6))
		errx(1, "states %s does not say who is to be dumped", kind);
	pid = text + 6;
	pid[strcspn(pid, "\n")] = 0;
	kill(atoi(pid), SIGSTOP);
	while (!is_stopped(atoi(pid)))
		usleep(1000);
	check(kind, width, pid);
	kill(atoi(pid), SIGKILL);
	kill(started, SIGKILL);
	waitpid(started, NULL, 0);
	fclose(f);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 0; i < 2; i++)
		for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++)
			if (has_program("states", widths[i]))
				check_state(kinds[k], widths[i]);
	printf("1..%d\n", nr);
	return failed || !nr;
}
