// Package vmtest boots whole machines in Go tests. It is test support only.
//
// RunInVM runs a package's tests inside a virtual machine, as root, under the
// very kernel that nodes run. A package keeps such tests in files of their own:
//
//	//go:build invm           // kernel_invm_test.go: compiled for the guest only
//	func TestVerityIsRequired(t *testing.T) { … real mounts, real verity … }
//
//	//go:build !invm          // kernel_test.go: runs on the host
//	func TestInTheNodesKernel(t *testing.T) {
//		vmtest.RunInVM(t, ".", vmtest.Options{
//			Modules: []string{"overlay", "erofs", "zram", "sha256_ssse3"},
//			Disks:   []qemu.Disk{{Path: image, Serial: "data"}},
//		})
//	}
//
// The guest has proc, sys, dev, devpts, /dev/shm, cgroup v2 and tmpfs on /tmp
// and /run, a tmpfs root that pivot_root accepts, and lo up; no network unless
// asked for; nothing else but the test and what Options.Files puts there. The
// first disk is /dev/vda (load virtio_blk: it is always loaded when there are
// disks). A test that fails, panics, hangs past Options.Timeout, or a kernel
// that does, fails the calling test with the console as its output; so does
// a run in which no test ran.
//
// NewMachine is for tests that boot a machine by themselves; it attaches the
// console to a failing test and ends the machine with the test.
//
// The kernel is the pinned package that `make deps` unpacks to build/kernel;
// ZOS_KERNEL names another directory.
package vmtest
