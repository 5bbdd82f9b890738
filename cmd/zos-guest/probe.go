package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/health"
)

// probe tries a health check once. The agent shares the workload's network.
func (a *agent) probe(ctx context.Context, c *control.Conn, p control.Probe) error {
	if _, err := a.running(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.Timeout)*time.Millisecond)
	defer cancel()
	var err error
	if p.Kind == "exec" {
		err = a.probeExec(ctx, p.Args)
	} else {
		err = a.probeNet(ctx, p)
	}
	if err != nil {
		return c.Exit(1)
	}
	return c.Exit(0)
}

// probeExec runs a program that says by its exit code whether all is well.
func (a *agent) probeExec(ctx context.Context, args []string) error {
	var p pipes
	defer p.close()
	t, v, err := a.join(a.order(args, nil, "", nil), &syscall.SysProcAttr{Setsid: true}, &p, func() ([]uintptr, error) {
		null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		fd, err := unix.FcntlInt(null.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		_ = null.Close()
		if err != nil {
			return nil, err
		}
		p.writers = append(p.writers, fd)
		return []uintptr{uintptr(fd), uintptr(fd), uintptr(fd)}, nil
	})
	if err != nil {
		return err
	}
	defer v.end()
	defer unix.Close(t.pidfd)
	select {
	case ws := <-t.ended:
		if code := exitCode(ws); code != 0 {
			return fmt.Errorf("it exited with %d", code)
		}
		return nil
	case <-ctx.Done():
		v.kill()
		<-t.ended
		return context.Cause(ctx)
	}
}

// probeNet connects, to the loopback address first: programs listen where they like.
func (a *agent) probeNet(ctx context.Context, p control.Probe) error {
	hosts := []string{"127.0.0.1", "::1"}
	for _, i := range a.boot.Interfaces {
		for _, addr := range i.Addresses {
			if prefix, err := netip.ParsePrefix(addr); err == nil {
				hosts = append(hosts, prefix.Addr().String())
			}
		}
	}
	var all []error
	for _, h := range hosts {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(h, strconv.Itoa(int(p.Port))))
		if err != nil {
			all = append(all, err)
			continue
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		if p.Kind == "http" {
			err = health.HTTP(conn, net.JoinHostPort("localhost", strconv.Itoa(int(p.Port))), p.Path)
		}
		stop()
		_ = conn.Close()
		return err
	}
	return errors.Join(all...)
}
