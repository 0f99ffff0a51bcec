// SPDX-License-Identifier: GPL-2.0
/*
 * One known defect for each tool that scripts/checks/lib/lint-kernel relies on. A tool
 * that does not find its own here says nothing when it is silent on the series.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

int lint_control(const int __user *from, void *to);
int lint_control_frame(int nr);

/**
 * lint_control - kernel-doc: @to is not described
 * @from: sparse: a pointer to user space is read directly
 *
 * Return: what was read
 */
int lint_control(const int __user *from, void *to)
{
	int unused;	/* W=1 */

	if (to)		/* coccinelle: kfree() takes NULL */
		kfree(to);
	return *from;
}

int lint_control_frame(int nr)
{
	char frame[1024];

	memset(frame, nr, sizeof(frame));
	barrier_data(frame);
	return frame[nr];
}
