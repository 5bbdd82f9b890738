package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/health"
)

// networkOf opens the network namespace of a process.
func networkOf(ref process.Ref) (*os.File, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", ref.PID))
	if err != nil || !ref.Alive() { // afterwards: its number may be another process' by now
		ns.Close()
		return nil, notRunning("it has ended")
	}
	return ns, nil
}

// checkNet makes a check by TCP or HTTP of the loopback addresses of a network
// namespace, given by the name of its file.
func checkNet(ctx context.Context, namespace string, p control.Probe) error {
	var first error
	for _, to := range []unix.Sockaddr{
		&unix.SockaddrInet4{Port: int(p.Port), Addr: [4]byte{127, 0, 0, 1}},
		&unix.SockaddrInet6{Port: int(p.Port), Addr: [16]byte{15: 1}},
	} {
		err := checkAddress(ctx, namespace, to, p)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return first
}

func checkAddress(ctx context.Context, namespace string, to unix.Sockaddr, p control.Probe) error {
	f, err := socketIn(namespace, to)
	if err != nil {
		return err
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err = connect(f, to)
	if err == nil && p.Kind == "http" {
		err = health.HTTP(f, net.JoinHostPort("localhost", strconv.Itoa(int(p.Port))), p.Path)
	}
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("port %d: %w", p.Port, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("port %d: %w", p.Port, err)
	}
	return nil
}

// socketIn makes a TCP socket that belongs to a network namespace. Only its making
// has to happen there; the thread that does it is given up.
func socketIn(namespace string, to unix.Sockaddr) (*os.File, error) {
	family := unix.AF_INET
	if _, six := to.(*unix.SockaddrInet6); six {
		family = unix.AF_INET6
	}
	type made struct {
		fd  int
		err error
	}
	done := make(chan made, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread with this goroutine
		ns, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(ns, unix.CLONE_NEWNET)
			unix.Close(ns)
		}
		if err != nil {
			done <- made{err: fmt.Errorf("enter the workload's network: %w", err)}
			return
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		done <- made{fd, err}
	}()
	m := <-done
	if m.err != nil {
		return nil, m.err
	}
	return os.NewFile(uintptr(m.fd), "check"), nil
}

// connect connects a socket that doesn't block.
func connect(f *os.File, to unix.Sockaddr) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	begun := false
	err = rc.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			result = unix.Connect(int(fd), to)
			return !errors.Is(result, unix.EINPROGRESS)
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		if err == nil {
			// Woken without cause it is not connected yet.
			if _, err := unix.Getpeername(int(fd)); errors.Is(err, unix.ENOTCONN) {
				return false
			}
		}
		result = err
		return true
	})
	return errors.Join(err, result)
}
