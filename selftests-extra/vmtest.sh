#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# vmtest.sh of the selftests in a kernel tree, with what is not posted: more tests and
# architectures, other programs in the guest, and data races that are not ours.
#
# usage: selftests-extra/vmtest.sh TREE [options]
#   -t arch	architecture
#   -d dir	where to build; default: .vmtest/ARCH in the kernel tree
#   -K tree	build the kernel of this tree instead, with the tests of TREE
#   -c file	a further fragment of kernel configuration; may be repeated
#   -o option	the same for a single option, CONFIG_X=y; may be repeated
#   -k		build the kernel, run nothing
#   -n		run what was built before, build nothing
#   -p path	run this program of the guest instead of the tests; may be repeated
#   -f src:dst	put a file into the guest; may be repeated
#   -r test	run only this one of the tests; may be repeated
#   -b abi	run them for this ABI only; may be repeated
#   -R		leave out tests that passed on this very kernel, and have not changed since,
#		unless FRESH=1 is in the environment
#   -S		expect them all to skip, as they do on a kernel without the call
#   -g path	get this file out of the guest, to out/ where the run is kept
#   -a words	add to the kernel's command line
#   -q words	add to QEMU's command line
#   -m memory	of the guest
#   -s cpus	of the guest
#   -T seconds	that the guest may take
#   -j jobs	for make, and with 1, one guest at a time

extra=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
posted=${1:-}/tools/testing/selftests/process_vmsplice/vmtest.sh

usage() {
	sed -n '/^# usage/,/^$/ s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

[[ ${1:--} != -* ]] || usage
[ -f "$posted" ] || {
	echo "$1 is no kernel tree with the series: it has no ${posted#"$1"/}" >&2
	exit 2
}
# shellcheck source=../tools/testing/selftests/process_vmsplice/vmtest.sh
. "$posted"
shift

# The same source makes the same image, by which -R knows that a test has passed on it.
export KBUILD_BUILD_VERSION=1 KBUILD_BUILD_TIMESTAMP="1970-01-01 00:00 UTC"
export KBUILD_BUILD_USER=vmtest KBUILD_BUILD_HOST=vmtest

options=()
only_abis=()
kernel_only=
leave_out=
no_build=
expect_skip=
append=
get=
PORTS=
machine_options=

say() {
	echo "# vmtest: $*"
}

# Those of this folder count before those that are posted.
conf_file() {
	local file=$extra/vmtest/$1.conf

	[ -f "$file" ] || file=$here/vmtest/$1.conf
	echo "$file"
}

wanted_options() {
	{
		cat "$here/config" "$extra/config" "$here/vmtest/base.config"
		echo "$KCONFIG"
		[ ${#configs[@]} = 0 ] || cat "${configs[@]}"
		printf '%s\n' "${options[@]}"
	} | tac | awk -F= '/^CONFIG_/ && !seen[$1]++' | tac
}

# User-mode Linux has no headers of its own.
build_kernel() {
	say "building Linux $(kmake kernelversion) for $arch in $build_dir"
	kmake "$(basename "$KERNEL_IMAGE")" 2>&1 | tee "$build_dir/make.log"
	[ -n "${HEADERS_ARCH:-}" ] || kmake headers_install INSTALL_HDR_PATH="$build_dir/usr"
}

install_headers() {
	make -s -C "$ksrc" O="$build_dir/$1" ARCH="$1" -j"$jobs" headers_install \
		INSTALL_HDR_PATH="$build_dir/$1/usr"
}

# The programs of one ABI: NAME [of ARCH] [OPTION]...; of is another one of these here.
# Make does not see that a compiler, or what it is told, is another.
build_abi() {
	local out=$build_dir/tests/$1 headers=$build_dir/usr/include folder
	local karch=${HEADERS_ARCH:-$KARCH} cross=${CROSS_COMPILE:-}

	shift
	if [ "${1:-}" = of ]; then
		# shellcheck disable=SC2016 # for the other shell
		read -r karch cross < <(env -u CROSS_COMPILE bash -c \
			'. "$0" && echo "$KARCH $CROSS_COMPILE"' "$(conf_file "$2")")
		shift 2
	fi
	if [ "$karch" != "$KARCH" ]; then
		install_headers "$karch"
		headers=$build_dir/$karch/usr/include
	fi
	[ "$(cat "$out/compiler" 2>/dev/null)" = "${cross}gcc $*" ] || rm -rf "$out"
	mkdir -p "$out"
	echo "${cross}gcc $*" >"$out/compiler"
	for folder in "$here" "$extra"; do
		make -s -C "$folder" OUTPUT="$out" ARCH="$karch" CC="${cross}gcc $*" \
			LDFLAGS=-static COMPAT_ABI= SELFTESTS="$here/.." \
			KHDR_INCLUDES="-isystem $headers" all
	done
	"${cross}gcc" "$@" -O2 -Wall -static -isystem "$headers" -o "$out/init" "$here/vmtest/init.c"
}

has_option() {
	grep -qxF "$1=y" "$build_dir/.config"
}

# An architecture that is not a machine has its own. If it says of what kind, there are two
# ports, which the tests know by their names: what goes out at the first comes in at the
# second. The path of a socket must be short, and so is one in the folder of the run.
set_command() {
	local port=name=org.kernel.process_vmsplice

	# A race elsewhere must not end the run; signs_of_trouble() does not miss warnings.
	! has_option CONFIG_KCSAN || append+=" panic_on_warn=0"
	# shellcheck disable=SC2206 # words of a command line
	command=($QEMU -accel "${ACCEL:-tcg}" -m "$memory" -smp "$cpus,sockets=$cpus"
		-nographic -nodefaults -no-reboot -serial stdio $machine_options
		${PORTS:+-device $PORTS}
		${PORTS:+-chardev socket,id=out,path=port,server=on,wait=off}
		${PORTS:+-chardev socket,id=in,path=port}
		${PORTS:+-device virtserialport,chardev=out,$port.out}
		${PORTS:+-device virtserialport,chardev=in,$port.in}
		-kernel "$build_dir/$KERNEL_IMAGE" -initrd "$run_dir/initramfs.cpio"
		-append "$* $append")
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

# What only looks like trouble, too: Linux 6.1 says so of the nodes that numa=fake makes.
signs_of_trouble() {
	without_races_elsewhere "$1" >"$run_dir/log"
	grep -nE "$trouble" "$run_dir/log" | grep -v 'Command line:' |
		grep -v 'WARNING: workqueue cpumask: online intersect > possible intersect'
}

# $1 is how the guest ended.
check_count() {
	if [ -z "$expect_skip" ]; then
		[[ $1 != *" pass:0 "* ]] || fail "no test ran"
	else
		[[ $1 == *" pass:0 "* && $1 != *" skip:0"* ]] ||
			fail "not all tests skipped: ${1#*done }"
	fi
}

# What a result is about.
say_versions() {
	local compiler machine=natively

	compiler=$(sed -n 's/^CONFIG_CC_VERSION_TEXT="\(.*\)"/\1/p' "$build_dir/.config")
	[ -z "$QEMU" ] ||
		machine=$($QEMU --version | sed -n 's/^QEMU emulator version/QEMU/p')
	say "with Linux $(cat "$build_dir/include/config/kernel.release"), $compiler, $machine"
}

# The guest has no other way out than its console; there, send_file has made it
# hexadecimal.
get_file() {
	local out=$run_dir/out/${get##*/} size

	mkdir -p "${out%/*}"
	perl -ne 'print pack "H*", $1 if /^#hex ((?:[0-9a-f]{2})+)\r?$/' \
		<"$run_dir/console.log" >"$out"
	size=$(sed -n 's/^#hex end: \([0-9]*\).*/\1/p' "$run_dir/console.log")
	[ -n "$size" ] || fail "the guest has no $get"
	[ "$size" = "$(stat -c %s "$out")" ] ||
		fail "$get did not come out whole; see $run_dir/console.log"
}

run_guest() {
	if [ -n "$get" ]; then
		programs+=(/send_file)
		files+=("${init%/*}/send_file:/send_file")
		append+=" VMTEST_GET=$get"
	fi
	make_initramfs
	run_machine | sed -u '/^#hex /d'
	verdict
	report_races
	[ -z "$get" ] || get_file
}

first_abi() {
	awk 'NF { print $1; exit }' <<<"$ABIS"
}

# The lines of $ABIS of those that are to be run.
wanted_abis() {
	awk -v only="${only_abis[*]}" 'NF && (only == "" || index(" " only " ", " " $1 " "))' \
		<<<"$ABIS"
}

all_tests() {
	(cd "$here" && basename -s .c process_vmsplice*test.c)
	make -s -C "$extra" --no-print-directory SELFTESTS="$here/.." print-tests
}

# The file that has the totals of the test $2 of the ABI $1, if that has passed: the same
# kernel and program, on the same machine, judged by the same scripts.
passed_file() {
	sha256sum "$build_dir/$KERNEL_IMAGE" "$init" "$build_dir/tests/$1/$2" \
		"$build_dir/vmtest.config" "$here/vmtest.sh" "$extra/vmtest.sh" \
		"$(conf_file "$arch")" - \
		<<<"$QEMU $CMDLINE $append $machine_options $memory $cpus ${ACCEL:-} $expect_skip" |
		sha256sum | sed "s|^\([0-9a-f]*\).*|$build_dir/passed/$1-$2-\1|"
}

# How the guest ended that has just run them.
remember_passed() {
	local which=$1 program file

	mkdir -p "$build_dir/passed"
	for program in "${programs[@]##*/}"; do
		file=$(passed_file "$which" "$program")
		rm -f "${file%-*}"-*
		tr -d '\r' <"$run_dir/console.log" | awk -v start="# /$which/$program" '
			/^# \// { on = $0 == start }
			on && /^# Totals:/' >"$file"
	done
}

run_abi() {
	local which=$1 test file

	run_dir=$build_dir/run/$which
	mkdir -p "$run_dir"
	init=$build_dir/tests/$which/init
	[ ${#tests[@]} -gt 0 ] || mapfile -t tests < <(all_tests)
	for test in "${tests[@]}"; do
		[ -f "$build_dir/tests/$which/$test" ] || fail "no such test, or not built: $test"
		file=$(passed_file "$which" "$test")
		if [ -n "$leave_out" ] && [ -z "${FRESH:-}" ] && [ -f "$file" ]; then
			say "$test, $which: passed before; neither it nor the kernel has changed"
			cat "$file"
			continue
		fi
		programs+=("/$which/$test")
		files+=("$build_dir/tests/$which/$test:/$which/$test")
	done
	[ ${#programs[@]} -gt 0 ] || return 0
	(run_guest) | sed -u "s/^/[$which] /"
	remember_passed "$which"
}

# All at once, as a guest keeps one CPU busy most of the time. Each is a process group,
# for an interrupt to end all of it.
run_all_abis() {
	local abi pid pids=() status=0

	trap 'kill -- "${pids[@]/#/-}"; exit 130' INT TERM
	set -m
	for abi in $(wanted_abis | cut -d' ' -f1); do
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

build_all() {
	local words

	configure
	build_kernel
	[ -z "$kernel_only" ] || return 0
	while read -ra words; do
		build_abi "${words[@]}"
	done < <(wanted_abis)
}

main() {
	local opt abi

	while getopts 't:d:K:c:o:knp:f:r:b:RSg:a:q:m:s:T:j:' opt; do
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
		R) leave_out=1 ;;
		S) expect_skip=1 ;;
		g) get=$OPTARG ;;
		a) append=$OPTARG ;;
		q) machine_options=$OPTARG ;;
		m) memory=$OPTARG ;;
		s) cpus=$OPTARG ;;
		T) timeout=$OPTARG ;;
		j) jobs=$OPTARG ;;
		*) usage ;;
		esac
	done
	use_arch "$(conf_file "$arch")"
	[ ${#programs[@]} = 0 ] || [ ${#only_abis[@]} -gt 0 ] || only_abis=("$(first_abi)")
	for abi in "${only_abis[@]}"; do
		grep -q "^$abi\b" <<<"$ABIS" || fail "no such ABI: $abi"
	done
	[ -n "$no_build" ] || build_all
	[ -z "$kernel_only" ] || return 0
	say_versions
	if [ ${#programs[@]} -gt 0 ]; then
		run_dir=$build_dir/run
		mkdir -p "$run_dir"
		init=$build_dir/tests/${only_abis[0]}/init
		run_guest
		return
	fi
	run_all_abis
}

main "$@"
