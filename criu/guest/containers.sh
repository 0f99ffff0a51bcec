# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What the tests of container engines share. To be sourced, after lib.sh.

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

# A root file system, in the folder $1, of a busybox and the program $2.
make_rootfs() {
	local root=$1 program

	mkdir -p "$root"/{bin,dev,proc,sys,tmp}
	for program in busybox "$2"; do
		cp "$(command -v "$program")" "$root/bin"
	done
	ldd "$root/bin/${2##*/}" | grep -o '/[^ ]*' | grep '\.so' |
		xargs -I LIB cp --parents -nL LIB "$root"
}

# make_bundle BUNDLE ROOTFS NETWORK COMMAND [ARGUMENT]..., where NETWORK is the file of a
# namespace, or empty for one of its own; folders are absolute
make_bundle() {
	mkdir -p "$1"
	(cd "$1" && runc spec)
	python3 - "$@" <<-'PYTHON'
	import json
	import sys

	bundle, rootfs, network, *command = sys.argv[1:]
	with open(bundle + "/config.json") as f:
	    config = json.load(f)
	config["process"]["terminal"] = False
	config["process"]["args"] = command
	config["root"] = {"path": rootfs, "readonly": False}
	for namespace in config["linux"]["namespaces"]:
	    if namespace["type"] == "network":
	        namespace["path"] = network
	with open(bundle + "/config.json", "w") as f:
	    json.dump(config, f)
	PYTHON
}

# No engine has to know of the mode: runc's CRIU has a configuration file.
use_the_call() {
	ln -sf "$CRIU" /usr/sbin/criu
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
