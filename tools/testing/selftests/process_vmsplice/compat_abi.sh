#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tests that say something of 32-bit callers, built for them.

cd "$(dirname "$0")" || exit 1

programs=(process_vmsplice_*_32)
skipped=0
failed=0

# How the program has ended: bash has 126 for one that the kernel can't execute.
run() {
	"./$1" 2>&1 | sed 's/^/# /'
	return "${PIPESTATUS[0]}"
}

echo "TAP version 13"
echo "1..${#programs[@]}"
for i in "${!programs[@]}"; do
	name="$((i + 1)) ${programs[i]}"
	run "${programs[i]}"
	case $? in
	0)
		echo "ok $name"
		;;
	4)
		echo "ok $name # SKIP"
		skipped=$((skipped + 1))
		;;
	126)
		echo "ok $name # SKIP the kernel has no 32-bit programs"
		skipped=$((skipped + 1))
		;;
	*)
		echo "not ok $name"
		failed=1
		;;
	esac
done
[ "$failed" = 0 ] || exit 1
[ "$skipped" != ${#programs[@]} ] || exit 4
