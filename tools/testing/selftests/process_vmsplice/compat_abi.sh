#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tests that say something of 32-bit callers, built for them.

cd "$(dirname "$0")" || exit 1

programs=(process_vmsplice_*_32)
ran=0
failed=0

echo "TAP version 13"
echo "1..${#programs[@]}"
for i in "${!programs[@]}"; do
	name="$((i + 1)) ${programs[i]}"
	"./${programs[i]}" 2>&1 | sed 's/^/# /'
	case ${PIPESTATUS[0]} in
	0) echo "ok $name"; ran=1 ;;
	4) echo "ok $name # SKIP" ;;
	126) echo "ok $name # SKIP the kernel has no 32-bit programs" ;;
	*) echo "not ok $name"; failed=1 ;;
	esac
done
[ "$failed" = 0 ] || exit 1
[ "$ran" = 1 ] || exit 4
