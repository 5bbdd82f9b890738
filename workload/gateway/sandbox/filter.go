package sandbox

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Where the kernel keeps what a filter sees (struct seccomp_data).
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16 // eight bytes each, the lower half first
)

// calls are what a network server in Go needs. What is not here is refused with
// EPERM: whatever starts a program, changes a namespace, a mount, a key or a
// right, looks at another process, or loads code.
func calls() []uint32 {
	return []uint32{
		// files and sockets that are open
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_CLOSE, unix.SYS_FSTAT, unix.SYS_LSEEK,
		unix.SYS_FCNTL, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_PIPE2, unix.SYS_SPLICE, unix.SYS_TEE, unix.SYS_SENDFILE, unix.SYS_EVENTFD2,
		unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_POLL, unix.SYS_PPOLL,
		unix.SYS_CONNECT, unix.SYS_ACCEPT4, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_SHUTDOWN, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME,
		unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT, unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_SENDMSG, unix.SYS_RECVMSG,
		unix.SYS_SENDMMSG, unix.SYS_RECVMMSG,
		// the few files that are there, to read
		unix.SYS_OPENAT, unix.SYS_NEWFSTATAT, unix.SYS_READLINKAT, unix.SYS_GETDENTS64,
		// memory
		unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK,
		// threads, signals, time
		unix.SYS_FUTEX, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SET_ROBUST_LIST, unix.SYS_RESTART_SYSCALL, unix.SYS_EXIT,
		unix.SYS_EXIT_GROUP, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_TGKILL,
		unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY,
		// who and where it is
		unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID, unix.SYS_UNAME, unix.SYS_SYSINFO,
		unix.SYS_GETRANDOM, unix.SYS_PRLIMIT64, unix.SYS_GETRLIMIT,
	}
}

// yes and no end the filter.
func yes() bpf.Instruction { return bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW} }
func no() bpf.Instruction  { return refuse(unix.EPERM) }

func refuse(with syscall.Errno) bpf.Instruction {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(with)}
}

// only is a call that is allowed by what rest says of its arguments.
func only(call uint32, rest ...bpf.Instruction) []bpf.Instruction {
	rest = append(rest, no())
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: call, SkipTrue: uint8(len(rest))}}, rest...)
}

// arg loads the lower half of an argument.
func arg(n uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: dataArgs + 8*n, Size: 4} }

// filter is the whole program.
func filter() []bpf.Instruction {
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: dataArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AUDIT_ARCH_X86_64, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
		bpf.LoadAbsolute{Off: dataNumber, Size: 4}, // calls of the x32 kind have another number, and so no entry
	}
	for _, c := range calls() {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: c, SkipTrue: 1}, yes())
	}
	allowed := func(values ...uint32) []bpf.Instruction {
		var out []bpf.Instruction
		for _, v := range values {
			out = append(out, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: v, SkipTrue: 1}, yes())
		}
		return out
	}
	without := func(bits uint32) []bpf.Instruction {
		return []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: bits, SkipTrue: 1}, yes()}
	}
	with := func(bits uint32) []bpf.Instruction {
		return []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: bits, SkipTrue: 1}, yes()}
	}
	for _, part := range [][]bpf.Instruction{
		only(unix.SYS_SOCKET, append([]bpf.Instruction{arg(0)}, allowed(unix.AF_INET, unix.AF_INET6)...)...),
		only(unix.SYS_CLONE, append([]bpf.Instruction{arg(0)}, with(unix.CLONE_THREAD)...)...),
		only(unix.SYS_MMAP, append([]bpf.Instruction{arg(2)}, without(unix.PROT_EXEC)...)...),
		only(unix.SYS_MPROTECT, append([]bpf.Instruction{arg(2)}, without(unix.PROT_EXEC)...)...),
		only(unix.SYS_PRCTL, append([]bpf.Instruction{arg(0)}, allowed(unix.PR_SET_VMA)...)...), // names of memory, by the runtime
		{bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_CLONE3, SkipTrue: 1}, refuse(unix.ENOSYS)},
		{no()},
	} {
		p = append(p, part...)
	}
	return p
}

// Filter leaves all threads of the calling process the system calls of a network
// server, for good. It must have let go of its rights before.
func Filter() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("filter system calls: not written for %s", runtime.GOARCH)
	}
	raw, err := bpf.Assemble(filter())
	if err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	thread, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(code)
	if e != 0 {
		return fmt.Errorf("filter system calls: %w", e)
	}
	if thread != 0 {
		return fmt.Errorf("filter system calls: thread %d can't have the filter", thread)
	}
	return nil
}
