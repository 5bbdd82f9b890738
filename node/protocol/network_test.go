package protocol

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func status() NetworkStatus {
	return NetworkStatus{Slot: canon.Sum([]byte("slot")), Networks: []Network{{
		Name: "front", ID: canon.Sum([]byte("id")), Version: 2,
		Keys:      []NetworkKey{{Device: "wg0", Engine: EngineKernel, Epoch: 7, PublicKey: make([]byte, 32), Age: 60, Port: 4711}},
		Firewall:  Check{OK: true},
		Resolver:  Check{Detail: "no answer"},
		Workloads: []AttachedWorkload{{Name: "web", Addresses: []string{"10.1.1.2", "fd00::2"}}},
		Peers: []NetworkPeer{{Slot: canon.Sum([]byte("peer")), State: PeerUp, Path: "direct 192.0.2.1:7", RTT: 3, Epoch: 7, PublicKey: make([]byte, 32), UsedEpoch: 6,
			Handshake: &Age{3}, Received: 1, Sent: 2, Code: "x", Message: "y"}, {State: PeerUnknown}},
	}}}
}

func TestNetworkStatusTravelsWhole(t *testing.T) {
	b, err := canon.Marshal(status())
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeNetworkStatus(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := canon.Marshal(got)
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("%v\n%s", err, cmp.Diff(got, status()))
	}
}

// What a node sends is cut to what a client accepts, and not more.
func TestBoundedIsWhatIsAccepted(t *testing.T) {
	if d := cmp.Diff(status().Bounded(), status(), cmp.Transformer("empty", func(b []byte) string { return string(b) })); d != "" {
		t.Errorf("changed although it is small: %s", d)
	}
	long := strings.Repeat("é\xff", MaxText)
	s := status()
	n := &s.Networks[0]
	n.Name, n.Firewall.Detail, n.Resolver.Detail = long, long, long
	for range MaxPeers + MaxAttached + MaxKeys {
		n.Peers = append(n.Peers, NetworkPeer{State: long, Path: long, Code: long, Message: long})
		n.Workloads = append(n.Workloads, AttachedWorkload{Name: long, Addresses: strings.Split(strings.Repeat(long+" ", 9), " ")})
		n.Keys = append(n.Keys, NetworkKey{Device: long, Engine: long})
	}
	for range MaxNetworks {
		s.Networks = append(s.Networks, Network{})
	}
	if s.check() == nil {
		t.Fatal("the limits limit nothing")
	}
	got := s.Bounded()
	if err := got.check(); err != nil {
		t.Error(err)
	}
	if d := got.Networks[0].Firewall.Detail; !utf8.ValidString(d) || len(d) < MaxText-4 {
		t.Errorf("cut to %d bytes, valid: %v", len(d), utf8.ValidString(d))
	}
	b, err := canon.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeNetworkStatus(b); err != nil {
		t.Error(err)
	}
}

func TestALyingNodeIsRefused(t *testing.T) {
	for what, change := range map[string]func(*Network){
		"peers":     func(n *Network) { n.Peers = make([]NetworkPeer, MaxPeers+1) },
		"keys":      func(n *Network) { n.Keys = make([]NetworkKey, MaxKeys+1) },
		"workloads": func(n *Network) { n.Workloads = make([]AttachedWorkload, MaxAttached+1) },
		"addresses": func(n *Network) { n.Workloads[0].Addresses = make([]string, MaxAddresses+1) },
		"text":      func(n *Network) { n.Peers[0].Message = strings.Repeat("x", MaxText+1) },
		"key":       func(n *Network) { n.Keys[0].PublicKey = make([]byte, 31) },
		"peer key":  func(n *Network) { n.Peers[0].PublicKey = make([]byte, 33) },
	} {
		s := status()
		change(&s.Networks[0])
		b, err := canon.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeNetworkStatus(b); problem.Code(err) != "reply-invalid" {
			t.Errorf("too much of %s: %v", what, err)
		}
	}
}

func TestStateOfAPeer(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		epoch     uint64
		handshake time.Time
		want      string
	}{
		{0, time.Time{}, PeerUnknown}, {0, now, PeerUp}, {0, now.Add(-time.Hour), PeerSilent}, {7, time.Time{}, PeerWaiting}, {7, now, PeerUp}, {7, now.Add(time.Hour), PeerUp},
		{7, now.Add(-210 * time.Second), PeerUp}, {7, now.Add(-211 * time.Second), PeerSilent},
	} {
		if got := PeerState(c.epoch, AgeOf(now, c.handshake)); got != c.want {
			t.Errorf("epoch %d, handshake %s: %s, want %s", c.epoch, c.handshake, got, c.want)
		}
	}
}

func FuzzNetworkStatus(f *testing.F) {
	b, err := canon.Marshal(status())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeNetworkStatus(b)
		if err != nil {
			return
		}
		if err := s.Bounded().check(); err != nil {
			t.Fatal(err)
		}
	})
}
