/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
#ifndef _UAPI_LINUX_SPLICE_H
#define _UAPI_LINUX_SPLICE_H

/*
 * Flags of process_vmsplice(2), besides SPLICE_F_*. They start where those of
 * splice(2), which have the low bits, will hardly ever come.
 */
#define PROCESS_VMSPLICE_PIDFD	(1U << 16)	/* pid is a pidfd */

#endif /* _UAPI_LINUX_SPLICE_H */
