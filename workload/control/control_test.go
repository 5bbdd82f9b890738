package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/problem"
)

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestRequestAndFramesArriveAsSent(t *testing.T) {
	client, server := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		ServeConn(context.Background(), server, func(_ context.Context, c *Conn, r Request) error {
			if r.Verb != VerbExec || r.Exec.Args[0] != "cat" {
				return problem.New("wrong", "asked for %+v", r)
			}
			out := c.Stream(FrameStdout)
			for {
				switch typ, b, err := c.Read(); {
				case err != nil:
					return err
				case typ == FrameCloseStdin:
					return c.Exit(-3)
				case typ == FrameResize:
					if rows, cols := WindowSize(b); rows != 24 || cols != 80 {
						return problem.New("wrong", "%d by %d", rows, cols)
					}
				default:
					if _, err := out.Write(b); err != nil {
						return err
					}
				}
			}
		})
	}()
	c, err := Dial(soon(t), client, Request{Verb: VerbExec, Exec: &Exec{Args: []string{"cat"}}})
	if err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("0123456789"), MaxFrame/10)
	go func() { // net.Pipe has no buffer
		_ = c.Resize(24, 80)
		_ = c.Write(FrameStdin, sent)
		_ = c.Write(FrameCloseStdin, nil)
	}()
	var got []byte
	for {
		typ, b, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		if typ == FrameExit {
			if ExitCode(b) != -3 {
				t.Errorf("exit code %d", ExitCode(b))
			}
			break
		}
		if typ == FrameError {
			t.Fatal(Failure(b))
		}
		got = append(got, b...)
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back of %d", len(got), len(sent))
	}
	<-served
	if _, _, err := c.Read(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	client, server := net.Pipe()
	go ServeConn(context.Background(), server, func(context.Context, *Conn, Request) error {
		return problem.New("not-running", "it is %s", strings.Repeat("x", 10000))
	})
	_, err := Ask(soon(t), client, Request{Verb: VerbStatus}, nil)
	if problem.Code(err) != "not-running" || len(err.Error()) > maxDetail+100 {
		t.Errorf("%.200v", err)
	}
}

func TestImpossibleRequestsAreRefused(t *testing.T) {
	good := []Request{
		{Verb: VerbStatus}, {Verb: VerbGet, Path: "/"}, {Verb: VerbPut, Path: "/a/b"}, {Verb: VerbSignal, Signal: 15},
		{Verb: VerbProbe, Probe: &Probe{Kind: "http", Port: 80, Path: "/healthz", Timeout: 1000}},
		{Verb: VerbExec, Exec: &Exec{Args: []string{"sh"}, Env: []string{"A="}, WorkDir: "/", TTY: true, Rows: 24, Cols: 80}},
	}
	for _, r := range good {
		if err := r.Check(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	bad := []Request{
		{}, {Verb: "sh"}, {Verb: VerbExec}, {Verb: VerbExec, Exec: &Exec{}}, {Verb: VerbExec, Exec: &Exec{Args: []string{""}}},
		{Verb: VerbExec, Exec: &Exec{Args: []string{"a\x00b"}}}, {Verb: VerbExec, Exec: &Exec{Args: []string{"a"}, Env: []string{"=x"}}},
		{Verb: VerbExec, Exec: &Exec{Args: []string{"a"}, WorkDir: "x"}}, {Verb: VerbExec, Exec: &Exec{Args: []string{"a"}, Rows: -1}},
		{Verb: VerbExec, Exec: &Exec{Args: []string{"a"}, User: &User{UID: 65536}}},
		{Verb: VerbGet}, {Verb: VerbGet, Path: "a"}, {Verb: VerbGet, Path: "/a/../b"}, {Verb: VerbPut, Path: "/a\x00"}, {Verb: VerbPut, Path: "/a/"},
		{Verb: VerbSignal}, {Verb: VerbSignal, Signal: 65}, {Verb: VerbStop, Signal: -1}, {Verb: VerbRestart, Grace: -1},
		{Verb: VerbProbe}, {Verb: VerbProbe, Probe: &Probe{Kind: "tcp", Timeout: 1}}, {Verb: VerbProbe, Probe: &Probe{Kind: "tcp", Port: 1}},
		{Verb: VerbProbe, Probe: &Probe{Kind: "http", Port: 1, Path: "/ HTTP/1.0", Timeout: 1}}, {Verb: VerbProbe, Probe: &Probe{Kind: "icmp", Port: 1, Timeout: 1}},
		{Verb: VerbResize}, {Verb: VerbBoot},
	}
	for _, r := range bad {
		if r.Check() == nil {
			t.Errorf("%+v was let pass", r)
		}
	}
}

func TestOversizedFramesAreRefusedUnread(t *testing.T) {
	for _, h := range [][]byte{
		{byte(FrameStdin), 0, 1, 0, 1}, {byte(FrameRequest), 0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 0, 0}, {99, 0, 0, 0, 0},
		{byte(FrameExit), 0, 0, 0, 3}, {byte(FrameSignal), 0, 0, 0, 0}, {byte(FrameCloseStdin), 0, 0, 0, 1},
	} {
		var buf []byte
		if _, _, err := readFrame(io.MultiReader(bytes.NewReader(h), endless{}), &buf); !errors.Is(err, ErrFrame) || cap(buf) != 0 {
			t.Errorf("%v: %v, %d bytes of memory", h, err, cap(buf))
		}
	}
	// A length that is only claimed costs no more than what came.
	var buf []byte
	if _, _, err := readFrame(bytes.NewReader([]byte{byte(FrameRequest), 0, 15, 0, 0, 'x'}), &buf); !errors.Is(err, io.ErrUnexpectedEOF) || cap(buf) > 64<<10 {
		t.Errorf("%v, %d bytes of memory", err, cap(buf))
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

func TestServerEndsWithItsContextAndWaitsForHandlers(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(soon(t))
	begun, ended := make(chan struct{}), make(chan struct{})
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, l, 2, func(ctx context.Context, c *Conn, _ Request) error {
			close(begun)
			defer close(ended)
			_, _, err := c.Read() // nothing comes: it is closed
			return err
		})
	}()
	raw, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(soon(t), raw, Request{Verb: VerbStatus})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-begun
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	default:
		t.Error("Serve returned before its handler")
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 17, '{', '"', 'v', 'e', 'r', 'b', '"', ':', '"', 's', 't', 'a', 't', 'u', 's', '"', '}'})
	f.Add([]byte{8, 0, 0, 0, 4, 0, 0, 0, 1, 2, 0, 0, 0, 0})
	f.Add([]byte{2, 0, 1, 0, 0})
	f.Add([]byte{6, 0, 0, 0, 4, 0, 24, 0, 80, 10, 0, 0, 0, 13, '{', '"', 'c', 'o', 'd', 'e', '"', ':', '"', 'a', '-', 'b', '"', '}'})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var buf, again []byte
		for {
			typ, b, err := readFrame(r, &buf)
			if err != nil {
				break
			}
			if again, err = appendFrame(again, typ, b); err != nil {
				t.Fatalf("read what can't be written: %v", err)
			}
			switch typ {
			case FrameExit:
				ExitCode(b)
			case FrameResize:
				WindowSize(b)
			case FrameError:
				if Failure(b) == nil {
					t.Errorf("%q is no error", b)
				}
			}
		}
		if !bytes.HasPrefix(in, again) {
			t.Error("frames came back otherwise")
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"verb":"exec","exec":{"args":["sh"],"tty":true}}`))
	f.Add([]byte(`{"verb":"get","path":"/a"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > MaxRequest {
			return
		}
		frame, err := appendFrame(nil, FrameRequest, in)
		if err != nil {
			t.Fatal(err)
		}
		client, server := net.Pipe()
		defer client.Close()
		go func() { _, _ = client.Write(frame) }()
		defer server.Close()
		if _, r, err := Accept(server); err == nil && r.Check() != nil {
			t.Error("a request was accepted that can't be")
		}
	})
}
