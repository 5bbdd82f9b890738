// Package ext4 makes ext4 file systems with fs-verity without any mkfs: it
// writes a tiny embedded template and lets the kernel grow it to the device.
//
// It also reads superblocks, from devices whose content nobody vouches for.
package ext4

//go:generate sh template.sh
