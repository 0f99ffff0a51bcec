# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# A keeper (see keeper.c), which is two processes. To be sourced, after lib.sh.

KEEPER=/work/guest/keeper
SIZE=${SIZE:-24}
dir=${dir:-/root/keeper}
pid='' child=''

# $1 is the kind; the others, a command that runs it. Sets pid and child.
start_keeper() {
	local kind=$1

	shift
	pkill -9 -x keeper || :
	rm -rf "$dir"
	mkdir -p "$dir"
	(trap - ERR; cd "$dir" || exit
		setsid "$@" "$KEEPER" "$SIZE" "$kind" </dev/null >log 2>&1 &)
	wait_for has_line "$dir/log" ready
	pid=$(sed -n 's/^ready: parent \([0-9]*\).*/\1/p' "$dir/log")
	child=$(sed -n 's/^ready.*child //p' "$dir/log")
}

compare() {
	compare_by env
}

# Each of the processes compares its memory. The arguments are a command that runs kill.
compare_by() {
	local who before

	for who in "parent $pid" "child $child"; do
		before=$(grep -c "^${who% *}: " "$dir/log" || :)
		"$@" kill -USR1 "${who#* }"
		wait_for reported "${who% *}" "$before"
		tail -n 1 "$dir/log" | grep "^${who% *}: ok" || {
			tail -n 5 "$dir/log"
			return 1
		}
	done
}

reported() {
	[ "$(grep -c "^$1: " "$dir/log")" -gt "$2" ]
}
