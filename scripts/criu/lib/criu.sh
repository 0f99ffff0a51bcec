# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What the scripts for CRIU share. To be sourced, after lib.sh, or by it if PROJECT=criu.

# shellcheck disable=SC2034 # for those who source this
CRIU_VERSION=4.2.1
# shellcheck disable=SC2034
CRIU_PACKAGE=criu=$CRIU_VERSION-1
# shellcheck disable=SC2034
CRIU_SUITE=sid
CRIU_CACHE=$CACHE/criu-$CRIU_VERSION
if [ "$PROJECT" = criu ]; then
	UPSTREAM="CRIU $CRIU_VERSION"
	SOURCE=$CRIU_CACHE/source
	TREE=${TREE:-$CRIU_CACHE/tree}
	BASE=$MAIN_BASE
	SERIES=
fi
