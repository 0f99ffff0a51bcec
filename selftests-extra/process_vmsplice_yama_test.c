// SPDX-License-Identifier: GPL-2.0
/*
 * Runs the test of permissions under each setting of Yama. There is no way back
 * from the last one but a boot, so it is for the guest of vmtest.sh alone,
 * after all other tests.
 */
#include <libgen.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest.h"

#define SCOPE "/proc/sys/kernel/yama/ptrace_scope"

static int set_scope(int scope)
{
	FILE *f = fopen(SCOPE, "w");

	return !f || fprintf(f, "%d", scope) < 0 || fclose(f);
}

/* The one beside this program. */
static int run_test(const char *dir)
{
	char path[4096];
	int status;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/process_vmsplice_perm_test", dir);
	pid = fork();
	if (!pid) {
		execl(path, path, NULL);
		_exit(127);
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ?
	       WEXITSTATUS(status) : 126;
}

int main(int argc, char **argv)
{
	const char *dir = dirname(argv[0]);
	int failed = 0;

	if (!getenv("VMTEST_GUEST") || access(SCOPE, W_OK)) {
		ksft_print_header();
		ksft_exit_skip("no Yama, or not in the guest of vmtest.sh\n");
	}
	for (int scope = 0; scope <= 3; scope++) {
		printf("# Yama's scope is %d:\n", scope);
		fflush(stdout);
		failed |= set_scope(scope) || run_test(dir);
	}
	return failed;
}
