package wire

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"testing"
	"testing/iotest"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func TestFramesComeAsTheyWent(t *testing.T) {
	var b []byte
	slot := canon.Sum([]byte("slot"))
	bodies := [][]byte{nil, slot[:], append(slot[:], 1), make([]byte, MaxFrame-1)}
	for i, body := range bodies {
		b = Append(b, Type(i+1), body[:len(body)/2], nil, body[len(body)/2:])
	}
	for name, r := range map[string]io.Reader{"at once": bytes.NewReader(b), "byte by byte": iotest.OneByteReader(bytes.NewReader(b))} {
		in := NewReader(r)
		for i, body := range bodies {
			got, data, err := in.Next()
			if err != nil || got != Type(i+1) || !bytes.Equal(data, body) {
				t.Fatalf("%s, frame %d: type %d, %d bytes, %v", name, i, got, len(data), err)
			}
		}
		if _, _, err := in.Next(); err != io.EOF {
			t.Errorf("%s: at the end: %v", name, err)
		}
	}
	for _, cut := range []int{1, 2, 3, 30} {
		in := NewReader(bytes.NewReader(Append(nil, Send, slot[:], nil, nil)[:cut]))
		if _, _, err := in.Next(); err != io.ErrUnexpectedEOF {
			t.Errorf("cut after %d bytes: %v", cut, err)
		}
	}
	for _, bad := range [][]byte{{0, 0, 1}, {0x10, 1, 1}, {0xff, 0xff, 1}} {
		if _, _, err := NewReader(bytes.NewReader(bad)).Next(); !errors.Is(err, errFrame) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

func TestWhatFollowsTheLastFrameIsNotLost(t *testing.T) {
	in := NewReader(bytes.NewReader(append(Append(nil, ClusterHello, []byte{2}, nil, nil), "rest"...)))
	if _, _, err := in.Next(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(in.Rest()); err != nil || string(rest) != "rest" {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestBodiesAreChecked(t *testing.T) {
	slot := canon.Sum([]byte("slot"))
	if s, p, err := Packet(append(slot[:], 7)); err != nil || s != slot || !bytes.Equal(p, []byte{7}) {
		t.Errorf("%v %x %v", s, p, err)
	}
	for _, n := range []int{0, 31, 32, 32 + MaxPacket + 1} {
		if _, _, err := Packet(make([]byte, n)); err == nil {
			t.Errorf("a packet in %d bytes", n)
		}
	}
	for _, a := range []string{"192.0.2.1:1", "[2001:db8::1]:65535"} {
		want := netip.MustParseAddrPort(a)
		token, got, err := ParseObserved(ObservedBody([16]byte{1}, want))
		if err != nil || got != want || token != [16]byte{1} {
			t.Errorf("%s: %s %v", a, got, err)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 33), make([]byte, 35)} {
		if _, _, err := ParseObserved(b); err == nil {
			t.Errorf("an observation in %d bytes", len(b))
		}
	}
	for _, b := range [][]byte{nil, {0}, []byte("code"), append([]byte("code\x00"), make([]byte, 2000)...)} {
		if err := ParseRefusal(b); problem.Code(err) != "login-refused" {
			t.Errorf("%.10q: %v", b, err)
		}
	}
}

// FuzzReader: no bytes make the reader panic or hold more than its buffer, and
// what it takes for frames is what Append makes of them.
func FuzzReader(f *testing.F) {
	slot := canon.Sum([]byte("slot"))
	f.Add(Append(Append(nil, Send, slot[:], []byte{0}, []byte("packet")), Gone, slot[:], nil, nil))
	f.Add(Append(nil, Observed, ObservedBody([16]byte{}, netip.MustParseAddrPort("1.2.3.4:5")), nil, nil))
	f.Add([]byte{0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := NewReader(iotest.HalfReader(bytes.NewReader(b)))
		var again []byte
		for {
			ty, body, err := in.Next()
			if err != nil {
				break
			}
			if len(body) >= MaxFrame {
				t.Fatalf("%d bytes", len(body))
			}
			Packet(body)
			Token(body)
			ParseObserved(body)
			if ParseRefusal(body) == nil {
				t.Fatal("a refusal is no error")
			}
			again = Append(again, ty, body, nil, nil)
		}
		if !bytes.HasPrefix(b, again) {
			t.Fatal("frames are not what was read")
		}
	})
}

// TestReaderKnowsWhetherItWouldWait, so that its user sends what it gathered
// before it waits for the rest of a frame.
func TestReaderKnowsWhetherItWouldWait(t *testing.T) {
	frame := Append(nil, Send, []byte("a packet"), nil, nil)
	for rest := range len(frame) + 1 {
		r := NewReader(bytes.NewReader(append(bytes.Clone(frame), frame[:rest]...)))
		if r.Buffered() {
			t.Error("before anything was read")
		}
		if _, _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		if r.Buffered() != (rest == len(frame)) {
			t.Errorf("%d of %d bytes of the next frame are there: buffered %v", rest, len(frame), r.Buffered())
		}
	}
}
