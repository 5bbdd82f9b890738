package wire

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// conns is two ends of a TCP connection, the first of them a Conn.
func conns(t *testing.T) (*Conn, *net.TCPConn, *Buffers) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	buffers := new(Buffers)
	return NewConn(a, buffers), b.(*net.TCPConn), buffers
}

func TestConnReadsWhatWasSent(t *testing.T) {
	c, other, _ := conns(t)
	sent := make([]byte, 300_000)
	rand.Read(sent)
	go func() {
		other.Write(sent)
		other.CloseWrite()
	}()
	var got []byte
	for size := 1; ; size = size*3%5000 + 1 {
		b := make([]byte, size)
		n, err := c.Read(b)
		got = append(got, b[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes, want %d", len(got), len(sent))
	}
	if c.held != nil {
		t.Error("it holds memory with nothing in it")
	}
}

func TestConnHoldsToDeadlinesAndEnds(t *testing.T) {
	c, other, _ := conns(t)
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	other.SetLinger(0)
	other.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("reset: %v", err)
	}
	done := make(chan error)
	d, _, _ := conns(t)
	go func() {
		_, err := d.Read(make([]byte, 1))
		done <- err
	}()
	d.Close()
	select {
	case err := <-done:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a closed connection is still read")
	}
}

func TestConnWritesBatchesWhole(t *testing.T) {
	c, other, _ := conns(t)
	var want []byte
	go func() {
		c.Write([]byte("alone"))
		if err := c.batch(func() error {
			for i := range 100 {
				if _, err := c.Write(bytes.Repeat([]byte{byte(i)}, 1000*i)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		c.Conn.(*net.TCPConn).CloseWrite()
	}()
	want = append(want, "alone"...)
	for i := range 100 {
		want = append(want, bytes.Repeat([]byte{byte(i)}, 1000*i)...)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(other, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("not what was written: %v", err)
	}
	// What a failed batch held is not written later.
	broken := errors.New("broken")
	if err := c.batch(func() error { c.Write([]byte("x")); return broken }); err != broken || c.out != nil {
		t.Errorf("%v, holds %d bytes", err, len(c.out))
	}
}
