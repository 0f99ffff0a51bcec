#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the kernel that this file is part of with a minimal configuration, boot it
# under QEMU and run the selftests of process_vmsplice() in it, once for each ABI.
#
# usage: vmtest.sh [options]
#   -t arch	architecture, of which vmtest/ARCH.conf is; default: that of the host
#   -d dir	where to build; default: .vmtest/ARCH in the kernel tree
#   -c file	a further fragment of kernel configuration; may be repeated
#   -r test	run only this one of the tests; may be repeated
#   -T seconds	that a guest may take; default: 600
#   -j jobs	for make; default: one for each CPU
# ACCEL=kvm in the environment uses KVM; CROSS_COMPILE= is another compiler than the one
# that the .conf names. The exit status is 0 only if each guest came to its end, tests
# ran, all of them passed, and the kernel log has no sign of trouble.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ksrc=$(cd "$here/../../../.." && pwd)
arch=$(uname -m)
build_dir=
jobs=$(nproc)
timeout=600
memory=768M	# with less than 512 MiB, the kernel turns huge pages off
cpus=2
configs=()
tests=()
programs=()	# paths in the guest
files=()	# SOURCE:PATH of what the guest has besides init
command=()
trouble='BUG:|WARNING:|Oops|Kernel panic|general protection|suspicious RCU|KASAN|UBSAN'
trouble+='|INFO: (possible|task|rcu|suspicious|trying)|unreferenced object|refcount_t:'
trouble+='|[Bb]ad page|Call Trace|blocked for more than|soft lockup|Unable to handle'
trouble+='|list_(add|del) corruption|DEBUG_LOCKS_WARN|DEADLOCK'

fail() { echo "# vmtest: FAIL: $*"; exit 1; }

kmake() {
	# LOCALVERSION, even if empty, keeps the state of git out of the version.
	make -s -C "$ksrc" O="$build_dir" ARCH="$KARCH" -j"$jobs" LOCALVERSION= "$@"
}

# Where an option is named more than once, the last one counts.
wanted_options() {
	{
		cat "$here/config" "$here/vmtest/base.config"
		echo "$KCONFIG"
		[ ${#configs[@]} = 0 ] || cat "${configs[@]}"
	} | tac | awk -F= '/^CONFIG_/ && !seen[$1]++' | tac
}

# Kconfig drops what depends on something else that is off, and says nothing. An option
# that the kernel does not have is as good as off.
check_options() {
	local option dropped=()

	while read -r option; do
		if [[ $option == *=n ]]; then
			! grep -q "^${option%=n}=" "$build_dir/.config"
		else
			grep -qxF "$option" "$build_dir/.config"
		fi || dropped+=("$option")
	done <"$1"
	[ ${#dropped[@]} = 0 ] || fail "Kconfig dropped ${dropped[*]}"
}

configure() {
	local new=$build_dir/vmtest.config.new

	wanted_options >"$new"
	if cmp -s "$new" "$build_dir/vmtest.config" && [ -f "$build_dir/.config" ]; then
		kmake olddefconfig
	else
		rm -f "$build_dir/vmtest.config"
		kmake tinyconfig >"$build_dir/merge.log" 2>&1
		"$ksrc/scripts/kconfig/merge_config.sh" -m -O "$build_dir" \
			"$build_dir/.config" "$new" >>"$build_dir/merge.log" 2>&1
		kmake olddefconfig
	fi
	check_options "$new"
	# Not before all is well: an interrupted run starts over.
	mv "$new" "$build_dir/vmtest.config"
}

build_kernel() {
	echo "# vmtest: building Linux $(kmake kernelversion) for $arch in $build_dir"
	kmake "$(basename "$KERNEL_IMAGE")" 2>&1 | tee "$build_dir/make.log"
	kmake headers_install INSTALL_HDR_PATH="$build_dir/usr"
}

# The static programs of one ABI go to a folder of its name; the rest is for the compiler.
build_abi() {
	local out=$build_dir/tests/$1 cc="${CROSS_COMPILE:-}gcc ${*:2}"
	local headers=$build_dir/usr/include

	mkdir -p "$out"
	make -s -C "$here" OUTPUT="$out" ARCH="$KARCH" CC="$cc" LDFLAGS=-static COMPAT_ABI= \
		KHDR_INCLUDES="-isystem $headers" all
	$cc -O2 -Wall -static -isystem "$headers" -o "$out/init" "$here/vmtest/init.c"
}

make_initramfs() {
	local file path

	printf '%s\n' "${programs[@]}" >"$run_dir/programs"
	{
		printf 'dir /%s 0755 0 0\n' dev proc sys tmp
		echo "nod /dev/console 0600 0 0 c 5 1"
		for file in "$init:/init" "$run_dir/programs:/programs" "${files[@]}"; do
			path=${file#*:}
			while path=${path%/*}; [ -n "$path" ]; do
				echo "dir $path 0755 0 0"
			done | tac
			echo "file ${file#*:} ${file%%:*} 0755 0 0"
		done
	} | awk '!seen[$0]++' >"$run_dir/initramfs.list"
	"$build_dir/usr/gen_init_cpio" "$run_dir/initramfs.list" >"$run_dir/initramfs.cpio"
}

# Sets command to what boots the kernel with the words of a command line.
set_command() {
	# shellcheck disable=SC2206 # words of a command line
	command=($QEMU -accel "${ACCEL:-tcg}" -m "$memory" -smp "$cpus,sockets=$cpus" -nographic
		-nodefaults -no-reboot -serial stdio -kernel "$build_dir/$KERNEL_IMAGE"
		-initrd "$run_dir/initramfs.cpio" -append "$*")
}

# The guest's console goes to a file; what the tests say is shown as it comes.
run_machine() {
	local status=0

	# shellcheck disable=SC2086 # words of a command line
	set_command $CMDLINE panic=-1 oops=panic panic_on_warn=1
	(cd "$run_dir" && exec timeout --foreground "$timeout" "${command[@]}") \
		</dev/null 2>&1 | tee "$run_dir/console.log" |
		sed -u -n -e 's/\r//' -e '/^TAP version/,$ { /^\[ *[0-9]*\.[0-9]*\]/!p }' ||
		status=${PIPESTATUS[0]}
	[ "$status" != 124 ] || fail "no end after $timeout seconds"
	[ "$status" = 0 ] || fail "${command[0]} failed: $(tail -n 5 "$run_dir/console.log")"
}

signs_of_trouble() { grep -nE "$trouble" "$1" | grep -v 'Command line:'; }

# $1 is how the guest ended.
check_count() { [[ $1 != *" pass:0 "* ]] || fail "no test ran"; }

verdict() {
	local log=$run_dir/console.log last

	! signs_of_trouble "$log" || fail "the kernel log has signs of trouble; all of it: $log"
	last=$(tr -d '\r' <"$log" | grep '^# vmtest: done ') ||
		fail "the guest did not come to its end: $(tail -n 20 "$log")"
	# Without ACPI, x86 sees one CPU of a socket; then nothing would race.
	[ "$cpus" = 1 ] || grep -q "Brought up .*, $cpus CPU" "$log" || fail "not $cpus CPUs"
	[[ $last == *" fail:0 "* ]] || fail "some tests failed: ${last#*done }"
	check_count "$last"
	! grep -q '^not ok ' "$log" || fail "a test failed, but its program did not say so"
	echo "# vmtest: PASS: ${last#*done }"
}

run_abi() {
	local test

	run_dir=$build_dir/run/$1
	mkdir -p "$run_dir"
	init=$build_dir/tests/$1/init
	for test in "${tests[@]}"; do
		programs+=("/$1/$test")
		files+=("$build_dir/tests/$1/$test:/$1/$test")
	done
	make_initramfs
	run_machine
	verdict
}

# Reads what is known of the architecture, of which $1 is the file.
use_arch() {
	[ -f "$ksrc/Kconfig" ] || fail "$ksrc is no kernel tree"
	[ -f "$1" ] || fail "no such architecture: $arch"
	# shellcheck source=vmtest/x86_64.conf
	. "$1"
	export CROSS_COMPILE
	build_dir=$(realpath -m "${build_dir:-$ksrc/.vmtest/$arch}")
	mkdir -p "$build_dir"
	[ -z "$QEMU" ] || command -v "${QEMU%% *}" >/dev/null ||
		fail "${QEMU%% *} is not installed"
}

main() {
	local opt abi

	while getopts 't:d:c:r:T:j:' opt; do
		case $opt in
		t) arch=$OPTARG ;;
		d) build_dir=$OPTARG ;;
		c) configs+=("$OPTARG") ;;
		r) tests+=("$OPTARG") ;;
		T) timeout=$OPTARG ;;
		j) jobs=$OPTARG ;;
		*) sed -n '/^# usage/,/^$/ s/^# //p' "$0" >&2; exit 2 ;;
		esac
	done
	use_arch "$here/vmtest/$arch.conf"
	[ ${#tests[@]} -gt 0 ] ||
		mapfile -t tests < <(cd "$here" && basename -s .c process_vmsplice*test.c)
	configure
	build_kernel
	while read -ra abi; do
		build_abi "${abi[@]}"
		(run_abi "${abi[0]}" | sed -u "s/^/[${abi[0]}] /") </dev/null
	done < <(grep . <<<"$ABIS")
}

# What does more than this sources it.
[ "${BASH_SOURCE[0]}" != "$0" ] || main "$@"
