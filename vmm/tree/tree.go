// Package tree says where things lie in the VMM flist, the root file system of a
// virtual machine monitor and of its file server. Package boot fills it, package
// vmm uses it.
package tree

// The files.
const (
	QEMU      = "/usr/bin/qemu-system-x86_64"
	Virtiofsd = "/usr/lib/qemu/virtiofsd"
	Loader    = "/lib64/ld-linux-x86-64.so.2" // as the two programs name it
	Libraries = "/lib/x86_64-linux-gnu"       // where the loader looks without being told
	Modules   = "/usr/lib/x86_64-linux-gnu/qemu"
	Data      = "/usr/share/qemu" // what QEMU calls its data directory
	Kernel    = "/boot/vmlinuz"   // of nodes, which micro-VMs run too
	Initrd    = "/boot/initrd.img"
	OVMFCode  = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	OVMFVars  = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// Share is the empty directory on which a file server finds what it serves.
const Share = "/share"
