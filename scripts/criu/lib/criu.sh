# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What the scripts for CRIU share, on top of lib.sh. To be sourced, after it.

# shellcheck disable=SC2034 # for those who source this
CRIU_VERSION=4.2.1
# shellcheck disable=SC2034
CRIU_PACKAGE=criu=$CRIU_VERSION-1
# shellcheck disable=SC2034
CRIU_SUITE=sid
CRIU_CACHE=$CACHE/criu-$CRIU_VERSION
# Where CRIU's code is edited; see scripts/criu/criu-tree.
CRIU_TREE=${CRIU_TREE:-$CRIU_CACHE/tree}

# The repository with CRIU's source, as fetched. Who commits must not depend on the
# person, so that the same patches make the same commit and nothing is rebuilt.
cgit() {
	GIT_COMMITTER_NAME=process_vmsplice \
	GIT_COMMITTER_EMAIL=process_vmsplice@localhost GIT_COMMITTER_DATE='@0 +0000' \
		git -C "$CRIU_CACHE/source" "$@"
}

criu_series() {
	sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$TOP/criu/patches/series"
}
