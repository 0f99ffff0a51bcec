#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Does vmtest.sh fail when it should, and for the reason that it should? Takes a kernel tree
# and the options of vmtest.sh that say which kernel, which has to have been built before.

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
vmtest=$here/../vmtest.sh
tree=$1
shift
options=("$tree" "$@")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# shellcheck disable=SC1091 # in the kernel tree
. "$tree/tools/testing/selftests/kselftest/ktap_helpers.sh"

# The build directory that the options name, and the programs of an ABI there.
while getopts 't:d:' opt "$@"; do
	case $opt in
	d) build_dir=$OPTARG ;;
	t) ;;
	*) exit 2 ;;
	esac
done
misbehave=$(echo "$build_dir"/tests/*/misbehave | cut -d' ' -f1)

run() {
	local name=$1 expected_status=$2 expected_text=$3 status=0

	shift 3
	"$vmtest" "${options[@]}" "$@" >"$tmp/log" 2>&1 || status=$?
	if [ "$status" = "$expected_status" ] && grep -q "$expected_text" "$tmp/log"; then
		ktap_test_pass "$name"
	else
		sed 's/^/#   /' "$tmp/log"
		echo "# status $status, expected $expected_status and '$expected_text'"
		ktap_test_fail "$name"
	fi
}

# In the guest, called by that name.
guest() {
	run "$1" "$2" "$3" -n -f "$misbehave:/$1" -p "/$1" "${@:4}"
}

# The same as one of the tests, if it has not passed before.
left_out() {
	run "$1" "$2" "$3" -n -R -b "$abi" -r "${@:4}"
}

ktap_print_header
ktap_set_plan 26
guest good	0 'PASS: pass:1 fail:0'
guest hang	1 'FAIL: no end after 15 seconds' -T 15
guest panic	1 'FAIL: the kernel log has signs of trouble'
guest break_off	1 'FAIL: the guest did not come to its end'
guest splat	1 'FAIL: the kernel log has signs of trouble'
guest leak	1 'FAIL: the kernel log has signs of trouble'
guest race	1 'FAIL: the kernel log has signs of trouble'
guest race_elsewhere 0 '1 .*data-race in a / b'
guest no_file	1 'FAIL: the guest has no /nothing' -g /nothing
guest fail	1 'FAIL: some tests failed: pass:0 fail:1'
guest die	1 'FAIL: some tests failed: pass:0 fail:1'
guest skip	1 'FAIL: no test ran'
run all_skip	0 'PASS: pass:0 fail:0 skip:1' -n -f "$misbehave:/skip" -p /skip -S
run some_skip	1 'FAIL: not all tests skipped: pass:1' \
	-n -f "$misbehave:/skip" -p /skip -f "$misbehave:/good" -p /good -S
guest deny	1 'FAIL: a test failed, but its program did not say so'
guest no_init	1 'FAIL: the kernel log has signs of trouble' -a 'init=/nothing rdinit=/nothing'
run too_few_cpus 1 'FAIL: not 2 CPUs' -n -f "$misbehave:/good" -p /good -a maxcpus=1
run option_unknown 1 'FAIL: Kconfig dropped CONFIG_NO_SUCH_OPTION=y' \
	-d "$tmp/build" -o CONFIG_NO_SUCH_OPTION=y -k
# SLUB_TINY, which tinyconfig sets, rules out KASAN.
run option_dropped 1 'FAIL: Kconfig dropped CONFIG_KASAN=y' \
	-d "$tmp/build" -o CONFIG_SLUB_TINY=y -o CONFIG_KASAN=y -k
run no_architecture 1 'FAIL: no such architecture: vax' -t vax

unset FRESH
abi=$(basename "${misbehave%/*}")
rm -f "$build_dir/passed/$abi-good"-* "$build_dir/passed/$abi-fail"-*
cp "$misbehave" "${misbehave%/*}/good"
cp "$misbehave" "${misbehave%/*}/fail"
left_out not_passed_yet 0 'PASS: pass:1 fail:0' good
left_out passed_before 0 'good, .*: passed before' good
left_out should_skip 1 'FAIL: not all tests skipped: pass:1' good -S
left_out other_memory 0 'PASS: pass:1 fail:0' good -m 700M
left_out failed 1 'FAIL: some tests failed: pass:0 fail:1' fail
left_out failed_before 1 'FAIL: some tests failed: pass:0 fail:1' fail
rm -f "${misbehave%/*}/good" "${misbehave%/*}/fail"
ktap_finished
