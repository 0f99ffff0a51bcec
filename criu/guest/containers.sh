# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What the tests of container engines share. To be sourced, after lib.sh, redis.sh and
# machines.sh.

# This kernel has no BPF, with which runc wants to keep containers of cgroup v2 from devices.
cgroup_v1() {
	local name

	umount /sys/fs/cgroup
	mount -t tmpfs cgroup /sys/fs/cgroup
	for name in devices freezer pids; do
		mkdir "/sys/fs/cgroup/$name"
		mount -t cgroup -o "$name" cgroup "/sys/fs/cgroup/$name"
	done
}

# A root file system, in the folder $1, of a busybox and a redis-server.
make_rootfs() {
	local root=$1 program

	mkdir -p "$root"/{bin,dev,proc,sys,tmp}
	for program in busybox redis-server; do
		cp "$(command -v $program)" "$root/bin"
	done
	ldd "$root/bin/redis-server" | grep -o '/[^ ]*' | grep '\.so' |
		xargs -I LIB cp --parents -nL LIB "$root"
}

# No engine has to know of the mode: runc's CRIU has a configuration file.
use_the_call() {
	# shellcheck disable=SC2154 # of machines.sh
	ln -sf "$patched" /usr/sbin/criu
	mkdir -p /etc/criu
	echo "memory-dump-mode vmsplice" >/etc/criu/runc.conf
}

# CRIU's log says how it took the memory.
by_the_call() {
	grep -q "Transferring pages from the task" "$1"
}

# To the redis-server in the network of the machine src, until it is killed.
write_load() {
	exec nsenter --net=/run/netns/src redis-benchmark -q -t set -r "$KEYS" -d "$SIZE" \
		-n 100000000 >/dev/null 2>&1
}
