package reap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// infoPID reads si_pid, which the generated type leaves in its padding: on
// 64-bit Linux the union begins at byte 16 and si_pid is its first member
// (include/uapi/asm-generic/siginfo.h).
func infoPID(info *unix.Siginfo) int {
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), 16)))
}
