# SPDX-License-Identifier: GPL-2.0
#
# process_vmsplice(2): everything that can be done here. Say `make help`.

export BASE ?= 7.3
export ARCH ?= x86_64
ifdef LINUX
export LINUX
endif
MAKEFLAGS += --no-print-directory

help:
	@sed -n 's/^## \{0,1\}//p' $(MAKEFILE_LIST)

## make demo       build the kernel, boot it, dump a live redis-server, prove the bytes
demo:
	@scripts/demo

## make check      what CI runs: lint, the demo, the most telling cells of check-all
check:
	@scripts/check

## make check-all  every kernel, architecture and configuration; goes on where it was
##                 stopped, FRESH=1 starts over
check-all:
	@scripts/check-all

## make check-headers  has every architecture the call, at its number?
check-headers:
	@scripts/check-headers

## make check-builds  configurations that no test runs, and clang: any warning?
check-builds:
	@scripts/check-builds

##
## make test       only the selftests, under QEMU
test:
	@scripts/test

## make coverage   which lines and branches of the system call no test reaches
coverage:
	@scripts/coverage

## make mutants    break the call in 66 ways, one after the other: does a test notice?
mutants:
	@scripts/mutants

## make places      the selftests where they may do harm: as on somebody's machine
places:
	@scripts/test-places

## make neighbours  the kernel's own tests of what the series touches, with it and without
neighbours:
	@scripts/neighbours

## make lint       only checkpatch, shellcheck, codespell and the like
lint:
	@scripts/lint

## make bench      measure it against what else there is, to out/bench/ (12 minutes)
bench:
	@scripts/bench

## make bench-folios   count instructions, of huge pages above all, to out/bench-folios/
bench-folios:
	@scripts/bench --folios

## make tree       a work tree of the kernel with the series as git commits, to edit
tree:
	@scripts/deps base
	@scripts/fetch
	@scripts/tree

## make refresh    write the commits of that tree back to this repository
refresh:
	@scripts/refresh

## make series     what would be mailed, to out/series-BASE/; SIGNOFF=1 signs it off
series:
	@scripts/deps base
	@scripts/fetch
	@scripts/series

## make man-patch what would be mailed to the man-pages project, to out/man-patch/
man-patch:
	@scripts/deps base
	@scripts/fetch
	@scripts/man-patch

## make check-commits  build, boot and test each commit of the series on its own
check-commits:
	@scripts/check-commits

## make fetch      only bring in the kernel source
fetch:
	@scripts/deps base
	@scripts/fetch

## make clean      remove out/ and what was built, but not the sources, from the cache
clean:
	@scripts/clean

##
## make criu-check    CRIU with our patches in a guest: its own tests, redis, migration
criu-check:
	@scripts/criu-check

## make criu-measure  what pre-dump, dump and migration cost, in each way
criu-measure:
	@scripts/criu-check measure

## make criu-tree     a work tree of CRIU with our patches as git commits, to edit
criu-tree:
	@scripts/deps base
	@scripts/criu-fetch
	@scripts/criu-tree

## make criu-refresh  write the commits of that tree back to criu/patches
criu-refresh:
	@scripts/criu-refresh

##
## Variables: BASE=7.3 (which Linux), ARCH=x86_64, LINUX=path (a kernel tree of your
## own instead of Debian's source), CONFIG=debug or kcsan (test on a kernel with such options),
## JOBS=n, ACCEL=kvm (instead of emulation), XDG_CACHE_HOME (where sources and builds
## are kept).

.PHONY: help demo check check-all check-headers check-builds test coverage mutants \
	neighbours places lint bench bench-folios tree refresh series man-patch \
	check-commits fetch clean criu-check criu-measure criu-tree criu-refresh
