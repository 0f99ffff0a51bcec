/* SPDX-License-Identifier: GPL-2.0 */
/* Linux 7.3.4 calls this where memory fails, and has it for x86 only. */
#define show_signal_msg(...) do { } while (0)
