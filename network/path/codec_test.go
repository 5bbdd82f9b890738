package path

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
)

func pairOfChannels() (a, b *Channel) {
	id, k1, k2 := KeyID{1}, [32]byte{1}, [32]byte{2}
	return NewChannel(id, k1, k2), NewChannel(id, k2, k1)
}

func sampleTell() Tell {
	return Tell{Number: 7, Punch: true, Candidates: Normal([]Candidate{
		{Private, netip.MustParseAddrPort("192.168.1.2:5")},
		{Global, netip.MustParseAddrPort("[2001:db8::1]:6")},
		{Observed, netip.MustParseAddrPort("198.51.100.7:7")},
	})}
}

func TestMessagesComeBackEqual(t *testing.T) {
	a, b := pairOfChannels()
	for _, m := range []Message{{Type: TypePing, ID: 5}, {Type: TypePong, ID: ^uint64(0)}, {Type: TypePing, ID: 6, Full: true}, {Type: TypePong, ID: 7, Full: true}, {Type: TypeTell, Tell: sampleTell()}, {Type: TypeTell, Tell: Tell{Relay: true}}} {
		sealed := a.Seal(nil, m)
		got, err := b.Open(sealed)
		if err != nil || got.Type != m.Type || got.ID != m.ID || got.Full != m.Full || got.Tell.Number != m.Tell.Number || got.Tell.Relay != m.Tell.Relay ||
			got.Tell.Punch != m.Tell.Punch || !slices.Equal(got.Tell.Candidates, m.Tell.Candidates) {
			t.Errorf("got %+v, %v; want %+v", got, err, m)
		}
		if m.Full && len(sealed)+8 != 1312 {
			t.Errorf("a full ping is %d bytes with its mark, want 1312", len(sealed)+8)
		}
		if len(sealed) > MaxSealed {
			t.Errorf("%d bytes, MaxSealed is %d", len(sealed), MaxSealed)
		}
	}
}

func TestForgedAndRepeatedMessagesDoNotOpen(t *testing.T) {
	a, b := pairOfChannels()
	m := Message{Type: TypePing, ID: 5}
	sealed := a.Seal(nil, m)
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if got, err := b.Open(bad); err == nil {
			t.Fatalf("byte %d flipped: opened as %+v", i, got)
		}
	}
	for _, bad := range [][]byte{nil, sealed[:len(sealed)-1], append(bytes.Clone(sealed), 0), make([]byte, MaxSealed+1)} {
		if _, err := b.Open(bad); err == nil {
			t.Errorf("%d bytes opened", len(bad))
		}
	}
	// A flood of forgeries with high counters doesn't shut the window.
	for i := range 100 {
		bad := bytes.Clone(sealed)
		bad[8+i%8] = 0xff
		_, _ = b.Open(bad)
	}
	if _, err := b.Open(sealed); err != nil {
		t.Errorf("the true one after forgeries: %v", err)
	}
	if _, err := b.Open(sealed); err == nil {
		t.Error("opened twice")
	}
	if _, err := a.Open(a.Seal(nil, m)); err == nil {
		t.Error("its own message opened at the sender: reflection")
	}
	// Out of order is no crime.
	first, second := a.Seal(nil, m), a.Seal(nil, m)
	for _, s := range [][]byte{second, first} {
		if _, err := b.Open(s); err != nil {
			t.Errorf("out of order: %v", err)
		}
	}
}

func TestAddressesOfEveryKindRemainWhenThereAreManyAndNoneIsDangerous(t *testing.T) {
	var cs []Candidate
	for i := range 100 {
		cs = append(cs, Candidate{Private, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 5)})
	}
	cs = append(cs, Candidate{Observed, netip.MustParseAddrPort("198.51.100.7:7")}, Candidate{Global, netip.MustParseAddrPort("[2001:db8::1]:6")})
	for _, bad := range []string{"127.0.0.1:5", "[::1]:5", "224.0.0.1:5", "[ff02::1]:5", "0.0.0.0:5", "255.255.255.255:5", "169.254.1.1:5", "[fe80::1]:5", "[::ffff:10.0.0.1]:5", "10.0.0.1:0"} {
		cs = append(cs, Candidate{Global, netip.MustParseAddrPort(bad)})
	}
	got := Normal(cs)
	count := map[Kind]int{}
	for _, c := range got {
		count[c.Kind]++
	}
	if len(got) != MaxCandidates || count[Observed] != 1 || count[Global] != 1 || count[Private] != MaxCandidates-2 {
		t.Errorf("got %v", got)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(Message{Type: TypePing, ID: 1}.Encode())
	f.Add(Message{Type: TypeTell, Tell: sampleTell()}.Encode())
	f.Add([]byte{3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1, 0, 5})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMessage(b)
		if err != nil {
			return
		}
		if again := m.Encode(); !bytes.Equal(again, b) {
			t.Errorf("accepted %x, which encodes as %x", b, again)
		}
	})
}

func FuzzOpen(f *testing.F) {
	a, _ := pairOfChannels()
	f.Add(a.Seal(nil, Message{Type: TypePing, ID: 1}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, other := pairOfChannels()
		stranger := NewChannel(KeyID{1}, [32]byte{9}, [32]byte{8})
		if _, err := stranger.Open(b); err == nil {
			t.Errorf("opened %x without its key", b)
		}
		_, _ = other.Open(b)
	})
}
