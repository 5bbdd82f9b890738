package wire

import (
	"bytes"
	"testing"
)

func pair(t testing.TB) (*Sealer, *Opener) {
	t.Helper()
	key := [32]byte{1, 2, 3}
	s, err := NewSealer([8]byte{9, 8, 7}, key)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOpener(key)
	if err != nil {
		t.Fatal(err)
	}
	return s, o
}

// seal is a datagram as it travels.
func seal(t testing.TB, s *Sealer, ty Type, body []byte) []byte {
	t.Helper()
	d := s.Seal(new(Buffer), ty, body[:len(body)/2], body[len(body)/2:], 0)
	if d == nil {
		t.Fatal("not sealed")
	}
	return bytes.Clone(d)
}

func open(o *Opener, d []byte) (Type, []byte, bool, error) {
	ty, body, newest, err := o.Open(new(Buffer), bytes.Clone(d))
	return ty, bytes.Clone(body), newest, err
}

func TestDatagramsAreSealedAndCountOnce(t *testing.T) {
	s, o := pair(t)
	body := []byte("to a slot, a packet")
	one, two := seal(t, s, Send, body), seal(t, s, Send, body)
	if bytes.Contains(one, body[:8]) {
		t.Error("the body is readable")
	}
	if len(one) != len(body)+Overhead {
		t.Errorf("%d bytes for %d, overhead is said to be %d", len(one), len(body), Overhead)
	}
	if id, ok := Session(one); !ok || id != [8]byte{9, 8, 7} {
		t.Errorf("session %x %v", id, ok)
	}
	ty, got, newest, err := open(o, two)
	if err != nil || ty != Send || !bytes.Equal(got, body) || !newest {
		t.Fatalf("%d %q %v %v", ty, got, newest, err)
	}
	if _, got, newest, err = open(o, one); err != nil || !bytes.Equal(got, body) || newest {
		t.Errorf("out of order: %q %v %v", got, newest, err)
	}
	for _, d := range [][]byte{one, two} {
		if _, _, _, err := open(o, d); err != errReplayed {
			t.Errorf("again: %v", err)
		}
	}
}

func TestEveryAlteredDatagramIsRefused(t *testing.T) {
	s, o := pair(t)
	d := seal(t, s, Send, []byte("packet"))
	for i := range d {
		for bit := range 8 {
			bad := bytes.Clone(d)
			bad[i] ^= 1 << bit
			if _, _, _, err := open(o, bad); err == nil {
				t.Fatalf("byte %d, bit %d altered: accepted", i, bit)
			}
		}
	}
	for n := range len(d) {
		if _, _, _, err := open(o, d[:n]); err == nil {
			t.Fatalf("cut to %d bytes: accepted", n)
		}
	}
	other, err := NewOpener([32]byte{4})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := open(other, d); err == nil {
		t.Error("opened with another key")
	}
	// None of that has spoiled the true one.
	if _, _, _, err := open(o, d); err != nil {
		t.Error(err)
	}
}

func TestDatagramsAreBounded(t *testing.T) {
	s, _ := pair(t)
	b := new(Buffer)
	if s.Seal(b, Recv, make([]byte, 32), make([]byte, MaxPacket), 0) == nil {
		t.Error("the largest packet does not fit")
	}
	if s.Seal(b, Recv, make([]byte, 32), make([]byte, MaxPacket+1), 0) != nil || s.Seal(b, Recv, nil, nil, MaxDatagram) != nil || s.Seal(b, Recv, nil, nil, -1) != nil {
		t.Error("more than the largest")
	}
	if d := s.Seal(b, Ping, make([]byte, 10), nil, 100); len(d) != 110+Overhead {
		t.Errorf("padded to %d", len(d))
	}
}

func TestDatagramsAllocateNothing(t *testing.T) {
	s, o := pair(t)
	b, slot, packet := new(Buffer), make([]byte, 32), make([]byte, 1452)
	if n := testing.AllocsPerRun(100, func() {
		d := s.Seal(b, Send, slot, packet, 0)
		if _, _, _, err := o.Open(b, d); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDatagram(f *testing.F) {
	s, _ := pair(f)
	f.Add(seal(f, s, Send, []byte("packet")))
	f.Add(make([]byte, Overhead))
	f.Add([]byte{DatagramSealed})
	f.Fuzz(func(t *testing.T, d []byte) {
		_, o := pair(t)
		Session(d)
		before := o.seen
		ty, body, _, err := o.Open(new(Buffer), bytes.Clone(d))
		if err != nil && o.seen != before {
			t.Fatal("a refused datagram moved the window")
		}
		if err == nil && (ty != Send || string(body) != "packet") {
			t.Fatal("forged")
		}
	})
}
