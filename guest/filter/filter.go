package filter

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// amd64 is the filter: struct sock_filter after struct sock_filter, little-endian.
//
//go:embed amd64.bpf
var amd64 string

// instruction is the length of one in bytes.
const instruction = 8

// Install puts the calling thread, and what it starts or becomes, under the filter for
// good. The thread needs no_new_privs or CAP_SYS_ADMIN, and must be locked to its goroutine.
func Install() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("filter system calls: not written for %s", runtime.GOARCH)
	}
	code, err := decode([]byte(amd64))
	if err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(code)
	if e != 0 {
		return fmt.Errorf("filter system calls: %w", e)
	}
	return nil
}

// decode reads a filter as it is embedded; the kernel takes 4096 instructions at most.
func decode(b []byte) ([]unix.SockFilter, error) {
	if len(b) == 0 || len(b)%instruction != 0 || len(b) > 4096*instruction {
		return nil, errors.New("this program's filter is damaged")
	}
	code := make([]unix.SockFilter, len(b)/instruction)
	for i := range code {
		f := b[i*instruction:]
		code[i] = unix.SockFilter{Code: binary.LittleEndian.Uint16(f), Jt: f[2], Jf: f[3], K: binary.LittleEndian.Uint32(f[4:])}
	}
	return code, nil
}
