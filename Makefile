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
	@scripts/guest/demo

## make check      what CI runs: lint, the demo, and what check-all marks for it
check:
	@scripts/checks/check-all --ci

##
## In a guest (scripts/guest):
## make test       the selftests
test:
	@scripts/guest/test

## make test-pvmdump  dump and compare processes, on another architecture (ARCH=arm64)
test-pvmdump:
	@scripts/guest/test-pvmdump

## make places     the selftests where they may do harm: as on somebody's machine
places:
	@scripts/guest/places

## make neighbours the kernel's own tests of what the series touches, with it and without
neighbours:
	@scripts/guest/neighbours

## make vmsplice   what do tests say of vmsplice() with patches/vmsplice, and without?
vmsplice:
	@scripts/guest/vmsplice

##
## Checks (scripts/checks):
## make check-all  every kernel, architecture and configuration; goes on where it was
##                 stopped, FRESH=1 starts over
check-all:
	@scripts/checks/check-all

## make lint       checkpatch, sparse, shellcheck, codespell and the like
lint:
	@scripts/checks/lint

## make mutants    break the call in many ways, one after the other: does a test notice?
mutants:
	@scripts/checks/mutants

## make coverage   which lines and branches of the system call no test reaches
coverage:
	@scripts/checks/coverage

## make check-headers  has every architecture the call, at its number?
check-headers:
	@scripts/checks/check-headers

## make check-builds   configurations that no test runs, and clang: any warning?
check-builds:
	@scripts/checks/check-builds

## make check-commits  build, boot and test each commit of the series on its own
check-commits:
	@scripts/checks/check-commits

##
## Measurements (scripts/measure):
## make bench      times, against what else there is, to out/bench/ (12 minutes)
bench:
	@scripts/measure/bench

## make bench-folios   instructions, of huge pages above all, to out/bench-folios/
bench-folios:
	@scripts/measure/bench --folios

## make pvmdump-measure  instructions, of pvmdump and gdb's gcore, to out/pvmdump/
pvmdump-measure:
	@scripts/measure/pvmdump-measure

## make bench-vmsplice instructions of vmsplice(), with patches/vmsplice and without
bench-vmsplice:
	@scripts/measure/bench-vmsplice

##
## Kernel code (scripts/kernel):
## make tree       a work tree of the kernel with the series as git commits, to edit
tree: fetch
	@scripts/kernel/tree

## make refresh    write the commits of that tree back to this repository
refresh:
	@scripts/kernel/refresh

## make fetch      only bring in the kernel source
fetch:
	@scripts/deps base
	@scripts/kernel/fetch

## make clean      remove out/ and what was built, but not the sources, from the cache
clean:
	@scripts/kernel/clean

##
## Mail (scripts/mail):
## make series     what would be mailed, to out/series-BASE/; SIGNOFF=1 signs it off
series: fetch
	@scripts/mail/series

## make man-patch  what would be mailed to the man-pages project, to out/man-patch/
man-patch: fetch
	@scripts/mail/man-patch

##
## CRIU (scripts/criu):
## make criu-check    CRIU with our patches in a guest: its own tests, redis, migration
criu-check:
	@scripts/criu/criu-check

## make criu-measure  what pre-dump, dump and migration cost, in each way
criu-measure:
	@scripts/criu/criu-check measure

## make criu-tree     a work tree of CRIU with our patches as git commits, to edit
criu-tree:
	@scripts/deps base
	@scripts/criu/lib/criu-fetch
	@PROJECT=criu scripts/kernel/tree

## make criu-refresh  write the commits of that tree back to criu/patches
criu-refresh:
	@PROJECT=criu scripts/kernel/refresh

##
## Variables: BASE=7.3 (which Linux), ARCH=x86_64, LINUX=path (a kernel tree of your
## own instead of Debian's source), SERIES=gup or vmsplice (a series of its own, on top),
## CONFIG=debug or kcsan (test on a kernel with such options), JOBS=n, ACCEL=kvm (instead
## of emulation), XDG_CACHE_HOME (where sources and builds are kept).

.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))
