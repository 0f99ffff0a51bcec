/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
#ifndef _UAPI_LINUX_SPLICE_H
#define _UAPI_LINUX_SPLICE_H

/*
 * Flags of process_vmsplice(2), besides SPLICE_F_*: from bit 16 on, as splice(2)
 * has the low bits.
 */
#define PROCESS_VMSPLICE_PIDFD	(1U << 16)	/* pid is a pidfd */

#endif /* _UAPI_LINUX_SPLICE_H */
