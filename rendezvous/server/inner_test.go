package server

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	busserver "github.com/zero-os/zos/bus/server"
)

func TestBucketAllowsItsRateAndABurst(t *testing.T) {
	now := time.Unix(1000, 0)
	clock := func() time.Time { return now }
	b := newBucket(1_000_000, now)
	sent := 0
	for b.take(800, clock) {
		sent++
	}
	if sent != 125 { // an eighth of a second
		t.Errorf("%d packets at once", sent)
	}
	for range 10 {
		now = now.Add(100 * time.Millisecond)
		for b.take(800, clock) {
			sent++
		}
	}
	if sent != 125+1000 {
		t.Errorf("%d packets in a second", sent)
	}
	now = now.Add(-time.Hour) // a clock set back gives nothing and takes nothing
	if b.take(800, clock) {
		t.Error("a clock that was set back filled the bucket")
	}
	free := newBucket(-1, now)
	for range 1_000_000 {
		if !free.take(1<<20, clock) {
			t.Fatal("no bound was asked for")
		}
	}
}

func TestSitesCanNotTakeEachOthersPlaces(t *testing.T) {
	g := newGuard(10, 4)
	enter := func(format string, n int) (leaves []func()) {
		for i := range n {
			if leave, ok := g.enter(netip.MustParseAddr(fmt.Sprintf(format, i))); ok {
				leaves = append(leaves, leave)
			}
		}
		return leaves
	}
	if n := len(enter("2001:db8:1:2::%x", 100)); n != 4 {
		t.Errorf("one /64 took %d places", n)
	}
	if n := len(enter("::ffff:192.0.2.%d", 3)) + len(enter("192.0.2.%d", 3)); n != 6 {
		t.Errorf("six of one address each took %d places", n)
	}
	if n := len(enter("198.51.100.%d", 3)); n != 0 {
		t.Errorf("%d more than all places", n)
	}
	g = newGuard(10, 4)
	leaves := enter("2001:db8::%x", 4)
	for _, l := range leaves {
		l()
		l() // again does nothing
	}
	if g.all != 0 || len(g.sites) != 0 {
		t.Errorf("%d of %d sites are left", g.all, len(g.sites))
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(appendMessage(busserver.Message{Subject: "request.x", Reply: "inbox.y", Data: []byte("data")}))
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err == nil && !bytes.Equal(appendMessage(m), b) {
			t.Fatal("not what was encoded")
		}
	})
}
