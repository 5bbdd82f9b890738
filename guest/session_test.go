package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// echo answers a stream with what comes.
func echo(_ context.Context, c net.Conn) { _, _ = io.Copy(c, c) }

// port is a virtio-serial port: the guest's end stays while hosts come and go, and
// what was on its way to the last one may or may not arrive at the next.
type port struct {
	net.Conn // the guest's end
	host     net.Conn
}

// attach is a host's end that can be closed without the guest noticing.
func (p port) attach() *end { return &end{Conn: p.host, gone: make(chan struct{})} }

type end struct {
	net.Conn
	gone chan struct{}
	once sync.Once
}

func (e *end) Read(b []byte) (int, error) {
	select {
	case <-e.gone:
		return 0, net.ErrClosed
	default:
	}
	n, err := e.Conn.Read(b)
	if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		return 0, net.ErrClosed
	}
	return n, err
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

func (e *end) Close() error {
	e.once.Do(func() {
		close(e.gone)
		_ = e.Conn.SetDeadline(time.Unix(1, 0))
	})
	return nil
}

// serve runs an agent on a port for as long as the test lasts.
func serve(t *testing.T, h Handler) port {
	t.Helper()
	guestEnd, hostEnd := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = (&Server{Handler: h}).Serve(ctx, guestEnd) })
	t.Cleanup(func() { cancel(); hostEnd.Close(); wg.Wait() })
	return port{Conn: guestEnd, host: hostEnd}
}

func connect(t *testing.T, p port) *Session {
	t.Helper()
	_ = p.host.SetDeadline(time.Time{})
	s, err := Connect(limit(t), p.attach())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// roundTrip sends b through an echo and wants it back.
func roundTrip(t *testing.T, s *Session, b []byte) {
	t.Helper()
	c, err := s.Stream()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = c.Write(b) })
	defer wg.Wait()
	got := make([]byte, len(b))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, b) {
		t.Fatalf("%d bytes came back otherwise: %v", len(b), err)
	}
}

func TestEveryByteComesThrough(t *testing.T) {
	s := connect(t, serve(t, echo))
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	roundTrip(t, s, bytes.Repeat(all, 4096)) // four windows
	roundTrip(t, s, bytes.Repeat([]byte{esc}, 300<<10))
	roundTrip(t, s, mark{markHello, newNonce()}.bytes())
}

// A shim that died in the midst of anything leaves the stream as it was.
func TestNewSessionBeginsWhereverTheLastOneStopped(t *testing.T) {
	data := binary.BigEndian.AppendUint32([]byte{0, typeData, 0, flagSYN, 0, 0, 0, 1}, 1000)
	for name, left := range map[string][]byte{
		"nothing":              nil,
		"half a header":        data[:7],
		"half a frame":         append(bytes.Clone(data), 1, 2, 3),
		"half an escape":       {1, 2, esc},
		"half a hello":         {esc, markHello, 'a', 'b'},
		"garbage":              []byte("GET / HTTP/1.0\r\n\r\n"),
		"an escape of nothing": {esc, 0x77, esc, esc, 0x78},
		"a welcome":            mark{markWelcome, newNonce()}.bytes(),
	} {
		t.Run(name, func(t *testing.T) {
			p := serve(t, echo)
			for range 3 {
				s := connect(t, p)
				roundTrip(t, s, []byte("hello"))
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				_ = p.host.SetDeadline(time.Time{})
				// What the guest still says to the last shim is read by nobody else.
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = io.Copy(io.Discard, p.host)
				}()
				if _, err := p.host.Write(left); err != nil {
					t.Fatal(err)
				}
				_ = p.host.SetReadDeadline(time.Unix(1, 0))
				<-done
			}
			roundTrip(t, connect(t, p), []byte("hello"))
		})
	}
}

func TestOpenStreamsEndWithTheirSession(t *testing.T) {
	begun, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	p := serve(t, func(ctx context.Context, c net.Conn) {
		begun <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
		<-ctx.Done()
		ended <- struct{}{}
	})
	s := connect(t, p)
	if _, err := s.Stream(); err != nil {
		t.Fatal(err)
	}
	<-begun
	_ = s.Close()
	connect(t, p)
	select {
	case <-ended:
	case <-limit(t).Done():
		t.Fatal("the handler goes on for a shim that is gone")
	}
}

func TestGuestThatNeverAnswersCostsTheDeadline(t *testing.T) {
	g, h := net.Pipe()
	defer g.Close()
	go func() { _, _ = io.Copy(io.Discard, g) }()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, h); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	if _, err := h.Write([]byte{1}); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatalf("the stream was left open: %v", err)
	}
}

// hostile is a guest that answers the hello and then says what it likes.
func hostile(t *testing.T, say func(w io.Writer)) *Session {
	t.Helper()
	g, h := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		dec := newDecoder(g)
		_, m, err := dec.next()
		if err != nil || m == nil {
			return
		}
		_, _ = g.Write([]byte("left over from the last session"))
		_, _ = g.Write(mark{markWelcome, m.nonce}.bytes())
		wg.Go(func() { _, _ = io.Copy(io.Discard, g) })
		say(g)
	})
	s, err := Connect(limit(t), h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(); g.Close(); wg.Wait() })
	return s
}

func frame(version, kind byte, flags uint16, stream, length uint32) []byte {
	b := []byte{version, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint32(b, length)
}

func TestHostileGuestIsCutOff(t *testing.T) {
	for name, c := range map[string]struct {
		say  []byte
		want string
	}{
		"opens a stream":                  {frame(0, typeWindow, flagSYN, 2, 0), "opens a stream"},
		"opens a stream with the node's":  {frame(0, typeData, flagSYN, 1, 0), "opens a stream"},
		"sends a ping":                    {frame(0, typePing, flagSYN, 0, 7), "ping"},
		"answers a ping":                  {frame(0, typePing, 2, 0, 7), "no reason"},
		"another version":                 {frame(1, typeData, 0, 1, 0), "version"},
		"a kind of frame that is none":    {frame(0, 9, 0, 1, 0), "no reason"},
		"unknown flags":                   {frame(0, typeData, 0x10, 1, 0), "flags"},
		"a frame of 4 GiB":                {frame(0, typeData, 0, 1, 1<<32-1), "larger"},
		"a window of 4 GiB":               {frame(0, typeWindow, 0, 1, 1<<32-1), "window"},
		"data for streams of its own":     {frame(0, typeData, 0, 2, 10), "never opened"},
		"goes away from a stream":         {frame(0, typeGoAway, 0, 5, 0), "no reason"},
		"a second welcome":                {mark{markWelcome, newNonce()}.bytes(), "mark"},
		"a hello":                         {mark{markHello, newNonce()}.bytes(), "mark"},
		"an escape of nothing":            {[]byte{esc, 0x55}, "mark"},
		"text":                            {[]byte(strings.Repeat("panic: ", 20)), "version"},
		"a split header with a SYN in it": {append(append(frame(0, typeData, 0, 1, 3), 1, 2, 3), frame(0, typeData, flagSYN, 3, 0)...), "opens"},
	} {
		t.Run(name, func(t *testing.T) {
			s := hostile(t, func(w io.Writer) { _, _ = w.Write(c.say) })
			select {
			case <-s.Done():
			case <-limit(t).Done():
				t.Fatal("the session goes on")
			}
			if err := s.Err(); !errors.Is(err, errGuard) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v", err)
			}
			if _, err := s.Stream(); !errors.Is(err, errGuard) {
				t.Fatalf("after that: %v", err)
			}
		})
	}
}

// More than the window of a stream is refused, so what nobody reads is bounded.
func TestFloodEndsTheSessionAtTheWindow(t *testing.T) {
	begin := make(chan struct{})
	sent := 0
	s := hostile(t, func(w io.Writer) {
		<-begin
		_, _ = w.Write(frame(0, typeWindow, 2, 1, 0)) // ACK
		part := make([]byte, 32<<10)
		for {
			if _, err := w.Write(append(frame(0, typeData, 0, 1, uint32(len(part))), part...)); err != nil {
				return
			}
			sent += len(part)
		}
	})
	if _, err := s.Stream(); err != nil {
		t.Fatal(err)
	}
	close(begin)
	select {
	case <-s.Done():
	case <-limit(t).Done():
		t.Fatal("the session goes on")
	}
	if sent > 2*window {
		t.Fatalf("%d bytes were taken", sent)
	}
}

func TestOpenRequestsAreBounded(t *testing.T) {
	s := hostile(t, func(io.Writer) {})
	for range MaxStreams {
		c, err := s.Stream()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close() // the guest doesn't let it go
	}
	if _, err := s.Stream(); err == nil || !strings.Contains(err.Error(), "open already") {
		t.Fatalf("%v", err)
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte("hello"), []byte{esc})
	f.Add([]byte{esc, esc}, mark{markHello, newNonce()}.bytes())
	f.Add([]byte{}, []byte{esc, 1, 'a', esc, 2})
	f.Fuzz(func(t *testing.T, data, left []byte) {
		// Whatever came before, after a mark there is exactly what was stuffed.
		want := mark{markHello, newNonce()}
		in := append(append(bytes.Clone(left), want.bytes()...), stuff(nil, data)...)
		d := newDecoder(io.MultiReader(bytes.NewReader(in[:len(in)/2]), bytes.NewReader(in[len(in)/2:])))
		begun := false
		var got []byte
		for {
			b, m, err := d.next()
			if err != nil {
				break
			}
			if m != nil {
				if begun {
					t.Fatalf("a mark in %q", data)
				}
				begun = *m == want
				continue
			}
			if begun {
				got = append(got, b...)
			}
		}
		if !begun || !bytes.Equal(got, data) {
			t.Fatalf("begun %t, got %q, want %q", begun, got, data)
		}
	})
}

func FuzzHostSurvivesAnyGuest(f *testing.F) {
	f.Add(frame(0, typeData, 2, 1, 4), []byte("abcd"))
	f.Add(frame(0, typeWindow, 6, 1, 100), frame(0, typeGoAway, 0, 0, 0))
	f.Add([]byte{esc}, frame(0, typeWindow, 8, 1, 0))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		begin := make(chan struct{})
		s := hostile(t, func(w io.Writer) {
			<-begin
			_, _ = w.Write(a)
			_, _ = w.Write(b)
			_, _ = w.Write(frame(0, typePing, flagSYN, 0, 0)) // ends it, whatever was before
			_, _ = w.Write(make([]byte, 2*window))
		})
		if c, err := s.Stream(); err == nil {
			_, _ = c.Write([]byte("x"))
		}
		close(begin)
		select {
		case <-s.Done():
		case <-limit(t).Done():
			t.Fatal("the session goes on")
		}
	})
}

func FuzzServerSurvivesAnyNode(f *testing.F) {
	f.Add(frame(0, typeWindow, flagSYN, 1, 0))
	f.Add(frame(0, typePing, flagSYN, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := serve(t, echo)
		go func() { _, _ = p.host.Write(append(mark{markHello, newNonce()}.bytes(), b...)); p.host.Close() }()
		_, _ = io.Copy(io.Discard, p.host)
	})
}
