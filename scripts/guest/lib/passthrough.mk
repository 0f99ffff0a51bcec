# SPDX-License-Identifier: GPL-2.0
#
# make -C TOP -f scripts/guest/lib/passthrough.mk OUT=FOLDER - build passthrough there

$(OUT)/passthrough: scripts/guest/lib/passthrough.c
	$(CC) -O2 -Wall -D_GNU_SOURCE -o $@ $< -static -Wl,--wrap=vmsplice,--wrap=splice \
		$(shell pkg-config --cflags --libs --static fuse3)
