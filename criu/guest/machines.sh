# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Two machines, which are network namespaces, and a migration between them. To be sourced,
# after lib.sh.

# shellcheck disable=SC2034 # for those who source this
dir=/root/lazy
patched=/work/criu/criu/criu
base=/work/base/criu
source_criu=$patched
destination_criu=$patched
# Options of the dump
mode=()
pid=
RATE=${RATE:-50mbit}

in_src() {
	nsenter --net=/run/netns/src "$@"
}

in_dst() {
	nsenter -t "$dst" -n -p -m "$@"
}

two_machines() {
	# Of a test before this one
	pkill -9 -x sleep
	ip netns del src 2>/dev/null
	ip netns del dst 2>/dev/null
	ip netns add src
	ip netns add dst
	ip link add to-dst netns src type veth peer name to-src netns dst
	ip -n src addr add 10.9.0.1/24 dev to-dst
	ip -n dst addr add 10.9.0.2/24 dev to-src
	for ns in src dst; do
		ip -n $ns link set lo up
		ip -n $ns link set "$(ip -n $ns -br link | sed -n 's/^\(to-[a-z]*\).*/\1/p')" up
	done
	# Or all pages would be across before anybody has looked.
	in_src tc qdisc add dev to-dst root tbf rate "$RATE" burst 64kb latency 1s
	nsenter --net=/run/netns/dst unshare -p -f -m --mount-proc sleep infinity &
	wait_for pgrep -x sleep >/dev/null
	dst=$(pgrep -n -x sleep)
}

# $1 is the task. Leaves it stopped and the page server listening. Sets dumping, CRIU's pid.
dump_at_source() {
	mkdir -p "$dir/img"
	rm -f "$dir/ready"
	mkfifo "$dir/ready"
	(trap - ERR; CRIU=$source_criu in_src_criu dump "$dir/img" -t "$1" --lazy-pages \
		"${mode[@]}" --address 10.9.0.1 --port 9000 --status-fd 7 7<>"$dir/ready") &
	dumper=$!
	timeout 120 head -c 1 "$dir/ready" >/dev/null
	dumping=$(pgrep -o -f "criu dump -D $dir/img")
}

in_src_criu() {
	local action=$1 img=$2

	shift 2
	in_src "$CRIU" "$action" -D "$img" -v4 -o "$img/$action.log" "$@"
}

restore_at_destination() {
	(trap - ERR; in_dst "$destination_criu" lazy-pages -D "$dir/img" -v4 \
		-o "$dir/img/lazy.log" --page-server --address 10.9.0.1 --port 9000 7>&-) &
	lazy=$!
	wait_for test -S "$dir/img/lazy-pages.socket"
	in_dst "$destination_criu" restore -D "$dir/img" -v4 -o "$dir/img/restore.log" \
		-d --lazy-pages
}

gone() {
	! kill -0 "$pid" 2>/dev/null
}
