#!/bin/sh
# Makes the two templates. Run by `go generate`; the results are committed,
# because mke2fs is not on every machine that builds. Same version (1.47.0),
# same bytes.
#
# -N 8192 fixes the inodes of a block group: without it the grown file system
# runs out of inodes. meta_bg without resize_inode lets it grow to any size.
# Lazy initialisation would leave work to the first mount. Almost all of the result is
# zero, which would take longer to unpack than everything else to write: pack leaves it out.
set -eu
make() { # name size options...
	name=$1 size=$2
	shift 2
	rm -f "$name.img"
	truncate -s "$size" "$name.img"
	E2FSPROGS_FAKE_TIME=1735689600 mkfs.ext4 -q -F -b 4096 -T default -N 8192 -m 0 -L zos-data \
		-U 7a6f7300-6461-4461-8461-000000000000 \
		-E hash_seed=7a6f7300-6461-4461-8461-000000000000,lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0 \
		"$@" "$name.img"
	go run ./pack < "$name.img" | zstd -q -19 -f -o "$name.zst"
	rm -f "$name.img"
}
features=verity,metadata_csum_seed,64bit,^resize_inode,meta_bg
make journaled 64M -J size=16 -O $features
make volatile 16M -O $features,^has_journal
