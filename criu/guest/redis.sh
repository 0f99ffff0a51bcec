# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# A redis-server with data, for the tests that dump one. To be sourced, after lib.sh.

pid=
KEYS=${KEYS:-60000}
SIZE=${SIZE:-400}

# The arguments of a command that runs redis-server.
start_redis() {
	local dir=$1

	shift
	pkill -9 -x redis-server || :
	mkdir -p "$dir"
	(trap - ERR; cd "$dir" || exit; setsid "$@" redis-server --save '' --enable-debug-command yes \
		--protected-mode no --bind '*' --daemonize no \
		</dev/null >redis.log 2>&1 &)
	wait_for has_line "$dir/redis.log" 'Ready to accept connections'
	# shellcheck disable=SC2034 # for those who source this
	pid=$(pgrep -n -x redis-server)
}

# The arguments of these are the command to run redis-cli with: env, if nothing else.
fill_redis() {
	[ "$("$@" redis-cli debug populate "$KEYS" key "$SIZE")" = OK ]
}

digest() {
	"$@" redis-cli debug digest | grep -E '^[0-9a-f]{40}$'
}

commands_so_far() {
	redis-cli info stats | tr -d '\r' | sed -n 's/^total_commands_processed://p'
}

resident() {
	awk '/^VmRSS/ { print int($2 / 1024) " MiB" }' "/proc/$1/status"
}
