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

## make check      what CI runs: the cells marked * in scripts/checks/matrix
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

## make places     run the selftests as a user, in a container, under load; check that
##                 they harm nothing
places:
	@scripts/guest/places

## make neighbours the kernel's own tests of what the series touches, with it and without
neighbours:
	@scripts/guest/neighbours

## make vmsplice   compare vmsplice() tests with and without patches/vmsplice
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
## make bench      times, against what else there is, to out/bench/ (18 minutes); with
##                 ACCEL=kvm on hardware, with huge pages, to out/bench-kvm/
bench:
	@scripts/measure/bench

## make bench-folios   instructions, of huge pages above all, to out/bench-folios/; with
##                 SERIES=gup or net, with patches/gup (patches/net) and without
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

## make clean      remove out/ and the cache's builds; keep downloaded sources. To remove all,
##                 rm -r the cache, after make refresh and make criu-refresh
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
## Variables, and the targets that heed them:
## BASE=7.3        which Linux, or 6.12 or 6.1: test, test-pvmdump, places, lint,
##                 check-headers, check-commits, tree, refresh, fetch, series, criu-check,
##                 criu-measure
## ARCH=x86_64     the guest's machine: test, test-pvmdump. Besides x86_64: alpha, arm, arm64,
##                 i386, m68k, mips, mips64el, mipsel, powerpc, ppc64, ppc64le, riscv64,
##                 s390x, sparc64
## CONFIG=debug    a kernel with more options: test, test-pvmdump, demo. Or kcsan (neighbours,
##                 too), arm64-64k, ppc64-64k, without (the call), or a file of this folder
## LINUX=path      a kernel tree of your own instead of Debian's source, to build, test or
##                 mail on; with BASE=7.3, it may be a newer one
## SERIES=gup      a series of its own, on top; or net, or vmsplice; for 7.3: lint,
##                 check-commits, check-builds, test, tree, refresh, series; gup and net:
##                 bench-folios, neighbours; gup: criu-measure
## SIGNOFF=1       add your Signed-off-by: series, man-patch
## ASSISTED_BY=    add that tag, for tools that wrote parts: series, man-patch
## FRESH=1         run what has passed before, too: check, check-all, criu-check
## LANES=2         how many cells check and check-all run at a time
## JOBS=n          for make; the number of CPUs, if it is not set
## ACCEL=kvm       boot x86_64 guests with KVM instead of emulation: test, demo, bench
## XDG_CACHE_HOME  where sources and builds are kept: ~/.cache

.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))
