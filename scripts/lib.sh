# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What every script here starts with: where things are, how to speak, how to
# fail. To be sourced.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/process_vmsplice
export TOP CACHE
# The tests that are posted, and those and the architectures that are not.
TESTS=$TOP/tools/testing/selftests/process_vmsplice
EXTRA=$TOP/selftests-extra
JOBS=${JOBS:-$(nproc)}
# The kernel that the series is written for; the others are backports.
MAIN_BASE=7.3
BASE=${BASE:-$MAIN_BASE}
ARCH=${ARCH:-x86_64}
# A tree of the person's own has its own place for all that is made of it.
KERNEL=$BASE
if [ -n "${LINUX:-}" ]; then
	LINUX=$(realpath -m "$LINUX")
	export LINUX
	KERNEL=$BASE-$(printf '%s' "$LINUX" | cksum | cut -d' ' -f1)
fi
# Another series, patches/$SERIES, on top of the one that has the call.
SERIES=${SERIES:-}
# What the patches are for: Linux or, with PROJECT=criu, CRIU; where its source is, if it is
# not Linux.
PROJECT=${PROJECT:-}
PATCHES=$TOP/${PROJECT:+$PROJECT/}patches
UPSTREAM="Linux $BASE"
SOURCE=
# shellcheck source=criu/lib/criu.sh
[ -z "$PROJECT" ] || . "$TOP/scripts/$PROJECT/lib/$PROJECT.sh"
# Where that source is edited; see scripts/kernel/tree.
TREE=${TREE:-$CACHE/tree-$KERNEL${SERIES:+-$SERIES}}

# The kernels that the series is kept for, and the Debian suites that have each.
declare -A SUITES=(
	[7.3]="trixie-backports"
	[6.12]="bookworm-security"
	[6.1]="bookworm bookworm-security"
)

say() {
	printf '== %s\n' "$*" >&2
}

die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# What the script says of itself at its top.
usage() {
	sed -n '4,/^$/ s/^# \{0,1\}//p' "$0"
}

# refuse ARGUMENT - what a script does not know must start no work.
refuse() {
	case $1 in
	-h | --help) usage; exit ;;
	esac
	printf '%s: unknown argument: %s\n\n' "${0##*/}" "$1" >&2
	usage >&2
	exit 2
}

# For those that take none: no_arguments "$@"
no_arguments() {
	[ $# = 0 ] || refuse "$1"
}

[ -z "$SERIES" ] || [ -f "$PATCHES/$SERIES/series" ] ||
	die "SERIES=$SERIES is not known; these are:" \
		"$(cd "$PATCHES" && echo -- */series | sed 's/^-- //; s,/series,,g')"
[ -z "$SERIES" ] || [ "$BASE" = "$MAIN_BASE" ] ||
	die "SERIES=$SERIES is for Linux $MAIN_BASE only, not for BASE=$BASE"

check_base() {
	[[ -v SUITES[$BASE] ]] ||
		die "BASE=$BASE is not supported; these are:" \
			"$(printf '%s\n' "${!SUITES[@]}" | sort -rV | xargs)"
}

check_arch() {
	[ -f "$EXTRA/vmtest/$ARCH.conf" ] ||
		die "ARCH=$ARCH is not supported; these are:" \
			"$(cd "$EXTRA/vmtest" && echo *.conf | sed 's/\.conf//g')"
}

# For guests that run programs of this machine; $1 says which.
check_host() {
	[[ $ARCH == x86_64 && $(uname -m) == x86_64 ]] ||
		die "$1 needs ARCH=x86_64 on an x86_64 host, not ARCH=$ARCH on $(uname -m)"
}

src_dir() {
	echo "${SOURCE:-$CACHE/src-$KERNEL}"
}

build_dir() {
	local name=${CONFIG:-}

	name=${name##*/}
	name=${name%.config}
	echo "$CACHE/build/$KERNEL-$ARCH${name:+-$name}"
}

# The file of a configuration: one of selftests-extra/ or of the selftests, by its name, or
# the path of a file of this repository.
config_file() {
	local ours=$EXTRA/vmtest file
	local posted=$TESTS/vmtest

	for file in "$ours/$1.config" "$posted/$1.config" "$TOP/$1"; do
		[ ! -f "$file" ] || {
			echo "$file"
			return
		}
	done
	die "CONFIG=$1 is not known; these are:" \
		"$(basename -s .config -a "$ours"/*.config "$posted"/*.config |
			grep -vx base | xargs)"
}

check_config() {
	[ -z "${CONFIG:-}" ] || config_file "$CONFIG" >/dev/null
}

# The selftests of the tree with the series and those of selftests-extra/, on the kernel
# that ARCH and CONFIG say. The options are those of selftests-extra/vmtest.sh.
vmtest() {
	local args=(-t "$ARCH" -j "$JOBS")

	[ -z "${CONFIG:-}" ] || args+=(-c "$(config_file "$CONFIG")")
	"$EXTRA/vmtest.sh" "$(src_dir)" "${args[@]}" "$@"
}

declare -A lock_fds=()

# lock NAME [-s] - what two runs must not do at the same time in the cache or, with -s, may
# if both have -s. Until the caller ends.
lock() {
	local name=$1 how=${2:--x} fd

	if [[ ! -v lock_fds[$name] ]]; then
		mkdir -p "$CACHE/locks"
		exec {fd}>>"$CACHE/locks/$name"
		lock_fds[$name]=$fd
	fi
	flock "$how" -n "${lock_fds[$name]}" || {
		say "waiting for another run that uses $name in $CACHE"
		flock "$how" "${lock_fds[$name]}"
	}
}

# Brings in the source of Linux $BASE with the series, for the caller alone.
own_kernel() {
	lock "src-$KERNEL"
	"$TOP/scripts/kernel/fetch"
	"$TOP/scripts/kernel/lib/apply" >/dev/null
}

# Makes the commits of the series, and prints the last one. No work tree moves, so that
# nobody has to wait for those who build from one.
series_head() {
	if [ -n "${LINUX:-}" ] || ! kgit rev-parse -q --verify pristine >/dev/null 2>&1; then
		lock "src-$KERNEL"
		"$TOP/scripts/kernel/fetch" || return
	fi
	"$TOP/scripts/kernel/lib/apply" --only-commits
}

# Is it there, and what the patches here make of it?
is_applied() {
	local head

	kgit rev-parse -q --verify pristine >/dev/null 2>&1 || return
	head=$("$TOP/scripts/kernel/lib/apply" --only-commits) || exit
	[ "$head" = "$(kgit rev-parse HEAD)" ] && git -C "$(src_dir)" diff-index --quiet HEAD --
}

# The same to build from, as others may at the same time, in folders of their own. What a
# person's own tree has is read anew each time.
use_kernel() {
	if [ -n "${LINUX:-}" ]; then
		own_kernel
		return
	fi
	lock "src-$KERNEL" -s
	until is_applied; do
		# Whoever else waits for this may do it, and then only share the tree.
		if flock -n -x "${lock_fds[src-$KERNEL]}"; then
			own_kernel
		else
			sleep 1
		fi
		lock "src-$KERNEL" -s
	done
}

# What is built for $ARCH and $CONFIG, and the run in it.
lock_build() {
	lock "build-$(basename "$(build_dir)")"
}

# The git repository with the source, whose objects all trees share. Who
# commits must not depend on the person, so that the same patches make the same
# commit and nothing is rebuilt.
kgit() {
	GIT_AUTHOR_NAME=process_vmsplice GIT_AUTHOR_EMAIL=process_vmsplice@localhost \
	GIT_AUTHOR_DATE='@0 +0000' \
	GIT_COMMITTER_NAME=process_vmsplice GIT_COMMITTER_EMAIL=process_vmsplice@localhost \
	GIT_COMMITTER_DATE='@0 +0000' \
		git --git-dir="$(src_dir)/.git" "$@"
}

# In the tree where the commits are edited.
tgit() {
	git -C "$TREE" "$@"
}

kernel_version() {
	sed -n 's/^\(VERSION\|PATCHLEVEL\|SUBLEVEL\) = //p' "$1" | paste -sd.
}

# The lines of the series $1 that can be mailed: PATCH [NEW FILE OR FOLDER]...
series_of() {
	sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$PATCHES/${1:+$1/}series" |
		sed "s,^,${1:+$1/},"
}

# Of the one that has the call and, on top of it, of $SERIES; or with ALONE=1 of that only.
series() {
	[ -n "${ALONE:-}" ] || series_of ""
	[ -z "$SERIES" ] || series_of "$SERIES"
}

# Of the lines of the function table(), those whose first word is an argument; all, if
# there is none. $1 says what a line is.
chosen() {
	local what=$1 name

	shift
	[ $# -gt 0 ] || {
		table
		return
	}
	for name in "$@"; do
		table | grep -P "^$name\t" ||
			die "no $what is called $name; these are: $(table | cut -f1 | xargs)"
	done
}

# The plugin of QEMU that counts what is copied, to the file $1.
build_count_copies() {
	gcc -O2 -Wall -shared -fPIC -o "$1" "$TOP/scripts/measure/lib/count-copies.c"
}

# Keep in results/ the files that `make $1` has written.
keep_results() {
	local target=$1

	shift
	[ -s "${1:-}" ] || die "no results to keep: run 'make $target' first"
	cp "$@" "$TOP/results"
	say "kept in results/: $(basename -a "$@" | xargs)"
}

# For those that go on after a problem, to show all there are.
problem() {
	printf '%s\n' "$*" >&2
	# shellcheck disable=SC2034 # for those who call this
	failed=1
}

# Moves the tree $1, where nobody edits anything, to the commit $2. Only files whose content
# differs are written, so that only what they concern is built again.
checkout_commit() {
	local tree=$1 commit=$2

	if [ ! -e "$tree/.git" ]; then
		rm -rf "$tree"
		kgit worktree prune
		say "checking out a tree for this (a minute)"
		kgit worktree add -q --no-checkout --detach "$tree" "$commit"
	fi
	rm -f "$(git -C "$tree" rev-parse --git-path index.lock)"
	git -C "$tree" checkout -q -f --detach "$commit"
}

# C files of the kernel proper that the series changes, up to the commit $1.
c_files() {
	kgit diff --name-only pristine "$1" -- '*.c' ':!samples' ':!tools'
}

# What was changed to measure it or to break it.
restore_kernel() {
	c_files series | xargs git -C "$(src_dir)" checkout -q -f --
}

# A kernel that needs other edits for a commit has them, as a mere diff, in
# patches/BASE/; the message is that of the patch of the same name in patches/, and
# what is said before the diff is added to it.
edits_file() {
	if [ -f "$PATCHES/$BASE/$1" ]; then
		echo "$PATCHES/$BASE/$1"
	else
		echo "$PATCHES/$1"
	fi
}

backport_note() {
	[ ! -f "$PATCHES/$BASE/$1" ] || sed '/^diff --git/,$d' "$PATCHES/$BASE/$1"
}

# What stands below the --- of a patch: doubts, for who reviews it. No part of the commit.
patch_notes() {
	[ ! -f "$PATCHES/$1" ] ||
		sed -n '/^---$/,/^diff --git/ { /^---$/d; /^diff --git/d; p }' "$PATCHES/$1"
}
