#!/bin/sh
# Unpacks the pinned kernel package into a directory, as any user.
#
#   boot/fetch-kernel.sh build/kernel
#
# The package comes from apt's own sources, its bytes are those that
# kernel.version names, and nothing is installed. A directory that already holds
# that version is left alone.
set -eu

die() {
	echo "fetch-kernel: $1" >&2
	echo "run: $2" >&2
	exit 1
}

[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
pin() { sed -n "s/^$1 //p" "$here/kernel.version"; }
package=$(pin package) version=$(pin version) sha256=$(pin sha256)
dest=$1

if [ "$(cat "$dest/.sha256" 2>/dev/null)" = "$sha256" ]; then
	exit 0
fi
for tool in apt-get dpkg-deb sha256sum; do
	command -v "$tool" >/dev/null || die "$tool is missing: the kernel comes as a Debian package" "this on Debian 12"
done

mkdir -p "$(dirname "$dest")"
dest=$(cd "$(dirname "$dest")" && pwd)/$(basename "$dest")
work=$(mktemp -d "$dest.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

# ZOS_KERNEL_DEB names a copy of the package, for machines without a mirror.
if [ -n "${ZOS_KERNEL_DEB:-}" ]; then
	[ -f "$ZOS_KERNEL_DEB" ] || die "ZOS_KERNEL_DEB=$ZOS_KERNEL_DEB is not there" "unset ZOS_KERNEL_DEB"
	cp "$ZOS_KERNEL_DEB" "$work/kernel.deb"
else
	download() { (cd "$work" && apt-get -q download "$package=$version" >download.log 2>&1); }
	# A list that is older than the package does not know it; only root can renew it.
	download || { [ "$(id -u)" -eq 0 ] && apt-get -qq update && download; } || {
		cat "$work/download.log" >&2
		die "apt cannot get $package=$version (see above)" "sudo apt-get update && make deps"
	}
	mv "$work"/*.deb "$work/kernel.deb"
fi

got=$(sha256sum "$work/kernel.deb" | cut -d' ' -f1)
[ "$got" = "$sha256" ] || die "$package has SHA-256 $got, boot/kernel.version pins $sha256" "git checkout boot/kernel.version, or pin the new package there after looking at it"

# dpkg-deb -x restores owners when run as root; nothing here depends on them.
dpkg-deb -x "$work/kernel.deb" "$work/root" || die "$package cannot be unpacked" "df -h ., then make deps"
rm -rf "$work/root/usr"
chmod 755 "$work/root"
echo "$sha256" >"$work/root/.sha256"
rm -rf "$dest"
mv "$work/root" "$dest"
echo "fetch-kernel: $package $version is in $dest" >&2
