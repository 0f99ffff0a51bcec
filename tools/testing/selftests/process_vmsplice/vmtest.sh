#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the kernel that this file is part of with a minimal configuration, boot it
# under QEMU and run the selftests of process_vmsplice() in it, once for each ABI.
# vmtest.sh -h says how; vmtest/ has what is not common to all architectures.

set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
ksrc=$(cd "$here/../../../.." && pwd)
arch=$(uname -m)
build_dir=
run_dir=
jobs=$(nproc)
timeout=600
memory=768M	# with less than 512 MiB, the kernel turns huge pages off
cpus=2
configs=()
options=()
programs=()
files=()
tests=()
only_abis=()
kernel_only=
no_build=
expect_skip=
append=
PORTS=
machine_options=
command=()
get=

usage() {
	cat <<-EOT
	usage: $0 [options]
	  -t arch	architecture: $(cd "$here/vmtest" && echo *.conf | sed 's/\.conf//g')
	  -d dir	where to build; default: .vmtest/arch in the kernel tree
	  -K tree	build the kernel of this tree instead, with the tests from here
	  -c file	a further fragment of kernel configuration; may be repeated
	  -o option	the same for a single option, CONFIG_X=y; may be repeated
	  -k		build the kernel, run nothing
	  -n		run what was built before, build nothing
	  -p path	run this program of the guest instead of the tests; may be repeated
	  -f src:dst	put a file into the guest; may be repeated
	  -r test	run only this one of the tests; may be repeated
	  -b abi	run them for this ABI only; may be repeated
	  -S		expect them all to skip, as they do on a kernel without the call
	  -g path	get this file out of the guest, to out/ where the run is kept
	  -w dir	where to keep the run; default: run in the build directory
	  -a words	add to the kernel's command line
	  -q words	add to QEMU's command line
	  -m memory	of the guest; default $memory
	  -s cpus	of the guest; default $cpus
	  -T seconds	that the guest may take; default $timeout
	  -j jobs	for make, and with 1, one guest at a time; default $jobs
	  -h		this text
	ACCEL=kvm in the environment uses KVM, CROSS_COMPILE= is another compiler than
	the one that vmtest/arch.conf names.
	Exits with 0 only if the guest came to its end, ran at least one test (with -S, none
	but skipped at least one), all tests passed, and the kernel log has no sign of trouble.
	EOT
}

say() {
	echo "# vmtest: $*"
}

fail() {
	echo "# vmtest: FAIL: $*"
	exit 1
}

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
		printf '%s\n' "${options[@]}"
	} | tac | awk -F= '/^CONFIG_/ && !seen[$1]++' | tac
}

# Kconfig drops what depends on something else that is off, and says nothing.
check_options() {
	local option dropped=()

	while read -r option; do
		grep -qxF "$option" "$build_dir/.config" && continue
		# An option that the kernel does not have is as good as off.
		[[ $option == *=n ]] && ! grep -q "^${option%=n}=" \
			"$build_dir/.config" && continue
		dropped+=("$option")
	done < <(grep '^CONFIG_' "$1")
	[ ${#dropped[@]} = 0 ] ||
		fail "Kconfig dropped ${dropped[*]}"
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
	say "building Linux $(kmake kernelversion) for $arch in $build_dir"
	kmake "$(basename "$KERNEL_IMAGE")" 2>&1 | tee "$build_dir/make.log"
	kmake ${HEADERS_ARCH:+O="$build_dir/headers" ARCH="$HEADERS_ARCH"} \
		headers_install INSTALL_HDR_PATH="$build_dir/usr"
}

# What vmtest/ says of another architecture: its name for make, its compiler.
# shellcheck disable=SC2016 # for the other shell
other_arch() {
	env -u CROSS_COMPILE bash -c '. "$0" && echo "$KARCH $CROSS_COMPILE"' \
		"$here/vmtest/$1.conf"
}

# The programs of one ABI go to a folder of its name.
build_abi() {
	local out=$build_dir/tests/$1 headers=$build_dir/usr
	local karch=${HEADERS_ARCH:-$KARCH} cross=${CROSS_COMPILE:-}

	shift
	if [ "${1:-}" = of ]; then
		read -r karch cross < <(other_arch "$2")
		headers=$build_dir/$karch/usr
		make -s -C "$ksrc" O="$build_dir/$karch" ARCH="$karch" -j"$jobs" \
			headers_install INSTALL_HDR_PATH="$headers"
		shift 2
	fi
	# Make does not see that a compiler, or what it is told, is another.
	[ "$(cat "$out/compiler" 2>/dev/null)" = "${cross}gcc $*" ] || rm -rf "$out"
	mkdir -p "$out"
	echo "${cross}gcc $*" >"$out/compiler"
	make -s -C "$here" OUTPUT="$out" ARCH="$karch" CC="${cross}gcc $*" LDFLAGS=-static \
		COMPAT_ABI= KHDR_INCLUDES="-isystem $headers/include" \
		"$out/init" "$out/misbehave" all
}

build_tests() {
	local words

	while read -ra words; do
		[ ${#words[@]} = 0 ] || build_abi "${words[@]}"
	done <<<"$ABIS"
}

abis() {
	awk -v only="${only_abis[*]}" 'NF && (only == "" || index(" " only " ", " " $1 " ")) {
		print $1 }' <<<"$ABIS"
}

parents() {
	local path=${1%/*}

	while [ -n "$path" ]; do
		echo "dir $path 0755 0 0"
		path=${path%/*}
	done
}

# The names of the programs are too many for the command lines of some kernels.
make_initramfs() {
	local file

	printf '%s\n' "${programs[@]}" >"$run_dir/programs"
	{
		echo "dir /dev 0755 0 0"
		echo "nod /dev/console 0600 0 0 c 5 1"
		echo "dir /proc 0755 0 0"
		echo "dir /sys 0755 0 0"
		echo "dir /tmp 1777 0 0"
		echo "file /init $build_dir/tests/$(abis | head -n 1)/init 0755 0 0"
		echo "file /programs $run_dir/programs 0644 0 0"
		for file in "${files[@]}"; do
			parents "${file#*:}" | sort
			echo "file ${file#*:} ${file%%:*} 0755 0 0"
		done
	} | awk '!seen[$0]++' >"$run_dir/initramfs.list"
	"$build_dir/usr/gen_init_cpio" "$run_dir/initramfs.list" \
		>"$run_dir/initramfs.cpio"
}

has_option() {
	grep -qxF "$1=y" "$build_dir/.config"
}

# Sets command to what boots the kernel with the words of a command line. An
# architecture that is not a machine has its own. If it says of what kind, there are two
# ports, which the tests know by their names: what goes out at the first comes in at the
# second.
set_command() {
	local port=name=org.kernel.process_vmsplice

	# shellcheck disable=SC2206 # words of a command line
	command=($QEMU -accel "${ACCEL:-tcg}" -m "$memory" -smp "$cpus"
		-nographic -nodefaults -no-reboot -serial stdio $machine_options
		${PORTS:+-device $PORTS}
		${PORTS:+-chardev socket,id=out,path=port,server=on,wait=off}
		${PORTS:+-chardev socket,id=in,path=port}
		${PORTS:+-device virtserialport,chardev=out,$port.out}
		${PORTS:+-device virtserialport,chardev=in,$port.in}
		-kernel "$build_dir/$KERNEL_IMAGE"
		-initrd "$run_dir/initramfs.cpio" -append "$*")
}

# The guest's console goes to a file; what the tests say is shown as it comes.
run_machine() {
	local status=0 kernel_words="panic=-1 oops=panic panic_on_warn=1"

	# A race elsewhere must not end the run; verdict() does not miss warnings.
	! has_option CONFIG_KCSAN || kernel_words+=" panic_on_warn=0"
	[ -z "$get" ] || kernel_words+=" VMTEST_GET=$get"
	# shellcheck disable=SC2086 # words of a command line
	set_command $CMDLINE $kernel_words $append
	# The path of a socket must be short, and so is one in this folder.
	(cd "$run_dir" && exec timeout --foreground "$timeout" "${command[@]}") \
		</dev/null 2>&1 | tee "$run_dir/console.log" |
		sed -u -n -e 's/\r//' -e '/^#hex /d' \
			-e '/^TAP version/,$ { /^\[ *[0-9]*\.[0-9]*\]/!p }' ||
		status=${PIPESTATUS[0]}
	[ "$status" != 124 ] || fail "no end after $timeout seconds"
	if [ "$status" != 0 ]; then
		tail -n 5 "$run_dir/console.log"
		fail "${command[0]} failed with status $status"
	fi
}

# All that is in the log but KCSAN's reports of races between functions neither of
# which was called by process_vmsplice(); those go to the file races. The kernel
# lives with many. One that can't be read to its end counts as ours.
without_races_elsewhere() {
	awk -v races="$run_dir/races" '
		function flush(file) {
			if (block != "" && file == "")
				printf "%s", block
			else if (block != "")
				printf "%s", block >file
			block = ""
		}
		BEGIN { printf "" >races }
		/==============================/ {
			if (!in_report)
				flush()
			block = block $0 "\n"
			if (in_report) {
				flush(ours ? "" : races)
				in_report = 0
			}
			next
		}
		/BUG: KCSAN: / && block != "" { in_report = 1; ours = 0 }
		!in_report { flush(); print; next }
		/(pvmsplice_[a-z_]*|process_vmsplice)(\.[a-z0-9_.]*)?\+0x/ { ours = 1 }
		{ block = block $0 "\n" }
		END { flush() }' "$1"
}

report_races() {
	local nr

	nr=$(grep -c 'BUG: KCSAN' "$run_dir/races" || :)
	[ "$nr" != 0 ] || has_option CONFIG_KCSAN || return 0
	say "$nr data races, none of them reached by process_vmsplice():"
	sed -n 's/.*BUG: KCSAN: //p' "$run_dir/races" | sort | uniq -c | sort -rn |
		sed 's/^/#/'
}

# What only looks like trouble; Linux 6.1 says the latter of the nodes that numa=fake makes.
no_splats='Command line:|WARNING: workqueue cpumask: online intersect > possible intersect'

# $1 is how the guest ended.
check_count() {
	if [ -z "$expect_skip" ]; then
		[[ $1 != *" pass:0 "* ]] || fail "no test ran"
	else
		[[ $1 == *" pass:0 "* && $1 != *" skip:0"* ]] ||
			fail "not all tests skipped: ${1#*done }"
	fi
}

verdict() {
	local log=$run_dir/console.log last

	[ -s "$here/vmtest/splats" ] || fail "$here/vmtest/splats is missing"
	without_races_elsewhere "$log" | grep -nEf "$here/vmtest/splats" |
		grep -vE "$no_splats" | head -n 20 >"$run_dir/splats" || :
	if [ -s "$run_dir/splats" ]; then
		sed 's/^/# /' "$run_dir/splats"
		fail "the kernel log has signs of trouble; all of it: $log"
	fi
	last=$(tr -d '\r' <"$log" | grep '^# vmtest: done ' || :)
	if [ -z "$last" ]; then
		tail -n 20 "$log" | sed 's/^/# /'
		fail "the guest did not come to its end; its console: $log"
	fi
	[[ $last == *" fail:0 "* ]] || fail "some tests failed: ${last#*done }"
	check_count "$last"
	! grep -q '^not ok ' "$log" || fail "a test failed, but its program did not say so"
	report_races
	say "PASS: ${last#*done }"
}

machine_version() {
	if [ -n "$QEMU" ]; then
		$QEMU --version | sed -n 's/^QEMU emulator version/QEMU/p'
	else
		echo "natively"
	fi
}

# What a result is about.
say_versions() {
	local compiler

	compiler=$(sed -n 's/^CONFIG_CC_VERSION_TEXT="\(.*\)"/\1/p' "$build_dir/.config")
	say "with Linux $(cat "$build_dir/include/config/kernel.release"), $compiler," \
		"$(machine_version)"
}

# The guest has no other way out than its console; there, the file is in hexadecimal.
get_file() {
	local out=$run_dir/out/${get##*/} size

	mkdir -p "${out%/*}"
	perl -ne 'print pack "H*", $1 if /^#hex ((?:[0-9a-f]{2})+)\r?$/' <"$run_dir/console.log" \
		>"$out"
	size=$(sed -n 's/^#hex end: \([0-9]*\).*/\1/p' "$run_dir/console.log")
	[ -n "$size" ] || fail "the guest has no $get"
	[ "$size" = "$(stat -c %s "$out")" ] ||
		fail "$get did not come out whole; see $run_dir/console.log"
}

run_guest() {
	make_initramfs
	run_machine
	verdict
	[ -z "$get" ] || get_file
}

all_tests() {
	make -s -C "$here" --no-print-directory print-tests
}

use_tests_of() {
	local test

	programs=()
	files=()
	[ ${#tests[@]} -gt 0 ] || read -ra tests <<<"$(all_tests)"
	for test in "${tests[@]}"; do
		[ -f "$build_dir/tests/$1/$test" ] || fail "no such test, or not built: $test"
		programs+=("/$1/$test")
		files+=("$build_dir/tests/$1/$test:/$1/$test")
	done
}

run_abi() {
	run_dir=$run_dir/$1
	mkdir -p "$run_dir"
	use_tests_of "$1"
	run_guest | sed -u "s/^/[$1] /"
}

# A guest of its own for each ABI, as some tests change what only a reboot undoes; all
# at once, as a guest keeps one CPU busy most of the time. Each is a process group,
# for an interrupt to end all of it.
run_all_abis() {
	local abi pid pids=() status=0

	trap 'kill -- "${pids[@]/#/-}"; exit 130' INT TERM
	set -m
	for abi in $(abis); do
		run_abi "$abi" &
		pids+=($!)
		[ "$jobs" -gt 1 ] || wait $! || status=1
	done
	set +m
	for pid in "${pids[@]}"; do
		wait "$pid" || status=1
	done
	return "$status"
}

main() {
	local opt

	while getopts 't:d:K:c:o:knp:f:r:b:Sg:w:a:q:m:s:T:j:h' opt; do
		case $opt in
		t) arch=$OPTARG ;;
		d) build_dir=$OPTARG ;;
		K) ksrc=$(cd "$OPTARG" && pwd) ;;
		c) configs+=("$OPTARG") ;;
		o) options+=("$OPTARG") ;;
		k) kernel_only=1 ;;
		n) no_build=1 ;;
		p) programs+=("$OPTARG") ;;
		f) files+=("$OPTARG") ;;
		r) tests+=("$OPTARG") ;;
		b) only_abis+=("$OPTARG") ;;
		S) expect_skip=1 ;;
		g) get=$OPTARG ;;
		w) run_dir=$OPTARG ;;
		a) append=$OPTARG ;;
		q) machine_options=$OPTARG ;;
		m) memory=$OPTARG ;;
		s) cpus=$OPTARG ;;
		T) timeout=$OPTARG ;;
		j) jobs=$OPTARG ;;
		h) usage; exit 0 ;;
		*) usage >&2; exit 2 ;;
		esac
	done
	[ -f "$here/vmtest/$arch.conf" ] || fail "no such architecture: $arch (see -h)"
	# shellcheck source=vmtest/x86_64.conf
	. "$here/vmtest/$arch.conf"
	export CROSS_COMPILE
	[ -z "$QEMU" ] || command -v "${QEMU%% *}" >/dev/null ||
		fail "${QEMU%% *} is not installed"

	build_dir=${build_dir:-$ksrc/.vmtest/$arch}
	mkdir -p "$build_dir"
	build_dir=$(cd "$build_dir" && pwd)
	run_dir=${run_dir:-$build_dir/run}
	mkdir -p "$run_dir"
	if [ -z "$no_build" ]; then
		configure
		build_kernel
		[ -z "$kernel_only" ] || return 0
		build_tests
	fi
	say_versions
	if [ ${#programs[@]} -gt 0 ]; then
		run_guest
		return
	fi
	[ -n "$(abis)" ] || fail "no such ABI: ${only_abis[*]}"
	run_all_abis
}

main "$@"
