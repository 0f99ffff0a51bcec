# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What the tests in the guest share. To be sourced.

set -uo pipefail

CRIU=${CRIU:-/work/criu/criu/criu}
# shellcheck disable=SC2034 # for those who source this
AS_NOBODY=(setpriv --reuid 65534 --regid 65534 --clear-groups)
# The one capability that CRIU wants of whoever is not root
# shellcheck disable=SC2034
MAY_CHECKPOINT=(--inh-caps +checkpoint_restore --ambient-caps +checkpoint_restore)
passed=0 failed=0

result() {
	local status=$1

	shift
	if [ "$status" = 0 ]; then
		passed=$((passed + 1))
		echo "ok $((passed + failed)) $*"
	else
		failed=$((failed + 1))
		echo "not ok $((passed + failed)) $*"
	fi
}

# Runs the rest in a subshell that ends at the first command that fails.
check() {
	local name=$1 status started=$SECONDS

	shift
	# Not as part of a condition, where set -e does nothing.
	(
		set -eE
		trap 'echo "# failed in ${FUNCNAME[0]}(): $BASH_COMMAND" >&2' ERR
		"$@"
	)
	status=$?
	result "$status" "$name ($((SECONDS - started)) s)"
}

finish() {
	echo "# $passed passed, $failed failed"
	[ "$failed" = 0 ] && [ "$passed" != 0 ]
}

# What CRIU logs goes to the results; if it fails, its errors to the console.
criu() {
	local action=$1 dir=$2 log

	shift 2
	mkdir -p "$dir"
	log=$(realpath "$dir")/$action.log
	# shellcheck disable=SC2086 # CRIU may be a command and its argument
	if ! $CRIU "$action" -D "$dir" -v4 -o "$log" "$@"; then
		echo "# criu $action $*: failed" >&2
		grep -sE 'Error|Warn' "$log" | tail -n 8 | sed 's/^/#   /' >&2 || :
		return 1
	fi
}

# What has to fail, where set -e sees it.
fails() {
	! "$@"
}

wait_for() {
	local tries=300

	while [ $((tries--)) -gt 0 ]; do
		"$@" && return
		sleep 0.1
	done
	echo "# gave up waiting for: $*" >&2
	return 1
}

has_line() {
	grep -q "$2" "$1" 2>/dev/null
}
