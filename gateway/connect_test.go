package gateway

import (
	"context"
	"errors"
	"io"

	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAConnectedSocketIsAConnection(t *testing.T) {
	w := start(t)
	at := w.says("hi")
	c, err := tcp(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(deadline))
	if line, err := readLine(c); err != nil || line != "hi" {
		t.Fatal(line, err)
	}
	if addrPort(c.RemoteAddr()) != at || !addrPort(c.LocalAddr()).IsValid() || addrPort(c.LocalAddr()).Port() == 0 {
		t.Errorf("from %s to %s", c.LocalAddr(), c.RemoteAddr())
	}
	err = onSocket(c, func(fd int) error {
		ms, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if time.Duration(ms)*time.Millisecond != connectionSilence {
			t.Errorf("it waits %d ms for a machine that has vanished", ms)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(c, "more"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*socket).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "more" {
		t.Errorf("%q, %v", b, err)
	}
	_ = c.SetReadDeadline(time.Unix(1, 0))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a deadline that is over lets a read through")
	}
}

func TestWhyASocketCouldNotBeConnectedIsKept(t *testing.T) {
	if _, err := tcp(t.Context(), netip.AddrPortFrom(loopback(), 1)); !errors.Is(err, syscall.ECONNREFUSED) || !backendFault(err) {
		t.Errorf("refused: %v", err)
	}
	// A queue that is full: what comes is dropped.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	a := loopback()
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Port: 5001, Addr: a.As4()}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		c, err := tcp(ctx, netip.AddrPortFrom(a, 5001))
		cancel()
		if err == nil && i < 100 {
			defer c.Close()
			continue
		}
		if !errors.Is(err, context.DeadlineExceeded) || !backendFault(err) {
			t.Errorf("silence: %v", err)
		}
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := tcp(ctx, netip.AddrPortFrom(a, 5001)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, %v", c, err)
	}
}
