// Package verity wraps fs-verity: after Enable the kernel checks every page of
// a file against one digest, whatever happens to the disk below.
//
// It promises one configuration only: SHA-256, 4 KiB blocks, no salt. Package
// flist computes the same digest in Go.
package verity
