package main

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// magic in the sixth argument marks a system call that the probe makes, so that the
// filter below leaves those of Go's runtime alone.
const magic = 0x5a05e5c0

// allowed is what the probe's own filter answers where no other filter denies: an
// errno that no kernel has.
const allowed = 3333

// Of <linux/seccomp.h>.
const (
	setModeFilter  = 1
	newListener    = 1 << 3
	retUserNotif   = 0x7fc00000
	retAllow       = 0x7fff0000
	notifRecv      = 0xc0502100
	notifSend      = 0xc0182101
	offsetOfSixth  = 56 // of args[5] in struct seccomp_data, its low half
	notifSize      = 80
	notifRespSize  = 24
	classLoadAbs   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	classJumpEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	classReturn    = unix.BPF_RET | unix.BPF_K
)

// verdicts asks the filters that the workload runs under about system calls, without
// making one: of all filters' answers the strictest counts, and a filter of our own
// answers less strictly than any denial, so what is not denied by another comes to
// us. The kernel's own opinion is never asked. A name has arguments if they matter.
func verdicts(calls map[string][6]uintptr, numbers map[string]uintptr) (map[string]string, error) {
	listener, asks := make(chan int), make(chan func())
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // it ends with this goroutine: the filter is its alone
		fd, err := listen()
		if err != nil {
			failed <- err
			return
		}
		listener <- fd
		for f := range asks {
			f()
		}
	}()
	var fd int
	select {
	case fd = <-listener:
	case err := <-failed:
		return nil, err
	}
	go answer(fd)
	defer close(asks)
	got := map[string]string{}
	for name, a := range calls {
		done := make(chan unix.Errno)
		asks <- func() {
			_, _, errno := unix.Syscall6(numbers[name], a[0], a[1], a[2], a[3], a[4], magic)
			done <- errno
		}
		switch errno := <-done; errno {
		case allowed:
			got[name] = "allow"
		case 0:
			got[name] = "made" // never: it would have been made
		default:
			got[name], _ = verdict(errno)
		}
	}
	return got, nil
}

// listen puts the filter on this thread and returns the descriptor of what it hands over.
func listen() (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	program := []unix.SockFilter{
		{Code: classLoadAbs, K: offsetOfSixth},
		{Code: classJumpEqual, Jf: 1, K: magic},
		{Code: classReturn, K: retUserNotif},
		{Code: classReturn, K: retAllow},
	}
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, newListener, uintptr(unsafe.Pointer(&p)))
	if errno != 0 {
		return 0, os.NewSyscallError("seccomp", errno)
	}
	return int(fd), nil
}

// answer denies all that comes with the errno that tells it was allowed so far.
func answer(fd int) {
	runtime.LockOSThread()
	for {
		var notif [notifSize]byte
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifRecv, uintptr(unsafe.Pointer(&notif[0]))); errno != 0 {
			if errno == unix.EINTR || errno == unix.ENOENT { // ENOENT: a signal took it back; it comes again
				continue
			}
			fmt.Fprintln(os.Stderr, "receive a system call:", errno)
			return
		}
		var resp [notifRespSize]byte
		copy(resp[:8], notif[:8]) // its id
		denied := int32(-allowed)
		*(*int32)(unsafe.Pointer(&resp[16])) = denied
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifSend, uintptr(unsafe.Pointer(&resp[0]))); errno != 0 && errno != unix.ENOENT {
			fmt.Fprintln(os.Stderr, "answer a system call:", errno)
			return
		}
	}
}
