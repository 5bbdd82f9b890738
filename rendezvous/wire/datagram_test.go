package wire

import (
	"bytes"
	"crypto/tls"
	"testing"
)

func pair(t testing.TB) (*Sealer, *Opener) {
	t.Helper()
	return pairOf(t, Key{secret: [32]byte{1, 2, 3}})
}

func pairOf(t testing.TB, key Key) (*Sealer, *Opener) {
	t.Helper()
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
	d := bytes.Repeat([]byte{0xff}, Overhead+len(body)) // memory that was used before
	s.Seal(d, &Nonce{0xff}, ty, body[:len(body)/2], body[len(body)/2:])
	return d
}

func open(o *Opener, d []byte) (Type, []byte, bool, error) {
	ty, body, newest, err := o.Open(bytes.Clone(d))
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
	other, err := NewOpener(Key{secret: [32]byte{4}})
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

// suites are the ciphers that TLS may agree on.
var suites = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}

// TestAllCiphersKeepTheFormat, and none opens what another one sealed.
func TestAllCiphersKeepTheFormat(t *testing.T) {
	secret := [32]byte{1, 2, 3}
	body := make([]byte, 10)
	for i, suite := range suites {
		s, o := pairOf(t, Key{secret, suite})
		_, other := pairOf(t, Key{secret, suites[(i+1)%len(suites)]})
		d := bytes.Repeat([]byte{0xff}, 110+Overhead)
		s.Seal(d, new(Nonce), Ping, body, nil)
		if _, _, _, err := open(other, d); err == nil {
			t.Error("another cipher opens it")
		}
		if ty, got, _, err := open(o, d); err != nil || ty != Ping || !bytes.Equal(got, make([]byte, 110)) {
			t.Errorf("%s: %d %x %v", tls.CipherSuiteName(suite), ty, got, err)
		}
	}
}

func TestKeyIsSpentAfterItsLastDatagram(t *testing.T) {
	s, o := pair(t)
	s.counter.Store(maxSealed - 1)
	if s.Spent() {
		t.Error("spent before")
	}
	if _, _, _, err := open(o, seal(t, s, Send, []byte("the last"))); err != nil {
		t.Error(err)
	}
	if !s.Spent() {
		t.Error("more than it may")
	}
}

func TestDatagramsAllocateNothing(t *testing.T) {
	for _, suite := range suites {
		s, o := pairOf(t, Key{suite: suite})
		nonce, slot, packet := new(Nonce), make([]byte, 32), make([]byte, 1452)
		d := make([]byte, PacketOverhead+len(packet))
		if n := testing.AllocsPerRun(100, func() {
			s.Seal(d, nonce, Send, slot, packet)
			if _, _, _, err := o.Open(d); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", tls.CipherSuiteName(suite), n)
		}
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
		ty, body, _, err := o.Open(bytes.Clone(d))
		if err != nil && o.seen != before {
			t.Fatal("a refused datagram moved the window")
		}
		if err == nil && (ty != Send || string(body) != "packet") {
			t.Fatal("forged")
		}
	})
}
