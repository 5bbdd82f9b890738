package shim

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/workload/control"
)

// elsewhere runs f on a thread in a network namespace of its own, with its loopback
// device up, and passes that namespace's file.
func elsewhere(t *testing.T, f func(namespace string)) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread goes with the goroutine
		defer close(done)
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("%w (run as root)", err)
			return
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer unix.Close(fd)
		ifr, err := unix.NewIfreq("lo")
		if err != nil {
			done <- err
			return
		}
		ifr.SetUint16(unix.IFF_UP)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
			done <- err
			return
		}
		f(fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()))
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestChecksLookFromInsideTheNamespace(t *testing.T) {
	elsewhere(t, func(namespace string) {
		for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			answer := make(chan string, 1)
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					select {
					case text := <-answer:
						_, _ = c.Read(make([]byte, 4096))
						_, _ = io.WriteString(c, text)
					default:
					}
					c.Close()
				}
			}()
			port := uint16(l.Addr().(*net.TCPAddr).Port)
			check := func(ns, kind string) error {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				return checkNet(ctx, ns, control.Probe{Kind: kind, Port: port, Path: "/x"})
			}
			if err := check(namespace, "tcp"); err != nil {
				t.Errorf("%s: %v", address, err)
			}
			if check("/proc/1/ns/net", "tcp") == nil {
				t.Error("another namespace answers")
			}
			if check("/proc/nothing", "tcp") == nil {
				t.Error("a namespace that is gone answers")
			}
			answer <- "HTTP/1.1 204 No Content\r\n\r\n"
			if err := check(namespace, "http"); err != nil {
				t.Errorf("%s: %v", address, err)
			}
			if check(namespace, "http") == nil {
				t.Error("a connection that closes is healthy HTTP")
			}
			l.Close()
			if check(namespace, "tcp") == nil {
				t.Error("nobody listens any more")
			}
		}
		// One that accepts and never answers is bounded by the context.
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, fmt.Errorf("no answer in time"))
		defer cancel()
		err = checkNet(ctx, namespace, control.Probe{Kind: "http", Port: uint16(l.Addr().(*net.TCPAddr).Port), Path: "/"})
		if err == nil || !strings.Contains(err.Error(), "no answer in time") {
			t.Errorf("a mute one: %v", err)
		}
	})
}
