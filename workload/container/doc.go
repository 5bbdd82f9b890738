// Package container runs workloads of kind "container": OCI containers under runc,
// one shim process each, in namespaces and a cgroup of their own, without
// capabilities and without any route.
//
// What exists on a node, for contract C and workload N (id "C-N"):
//
//	<data>/C/N/container.json  what was last started, and the range of user ids
//	<data>/C/N/disk.img        the writable layer: an ext4 image as large as the
//	                           disk limit, its blocks reserved
//	<data>/C/N/log/            the log ring (package logs)
//	<data>/C/N/final.json      how it ended, once its restart policy is satisfied
//	<run>/C-N/                 the shim's directory (package shim), gone at reboot
//	<run>/C-N/disk/            disk.img, mounted: upper and work
//	<run>/C-N/bundle/rootfs    the flist below that upper
//	<runc>/C-N                 runc's state
//	cgroup <parent>/C-N        the limits
//
// # What is kept, and when
//
// The writable layer belongs to a workload and a flist: it survives restarts,
// reboots and new versions of the contract, and starts empty when the flist
// changes or the disk limit shrinks. The range of user ids stays for as long as
// the workload's directory does. A version whose workload is byte for byte the
// same restarts nothing.
//
// The disk limit is the size of the image. ext4 keeps some of it for itself (about
// 3 %, and at least 18 MiB), and an image is never smaller than 64 MiB, 16 MiB in
// memory.
//
// # Who restarts
//
// The shim restarts its container with a growing pause, so that it goes on while
// the node daemon is away. Ensure starts a shim where there is none, and lets it
// adopt a container that its killed predecessor left running.
//
// # Networks
//
// A container without networks has a network namespace with nothing but its
// loopback device. Otherwise it runs in one that Networks has made and pinned before
// anything of the image was looked at; it stays the same over restarts.
package container
