package rendezvous

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
)

// A server that invents senders can't use up the places of those who are sent to.
func TestInventedPeersGiveWay(t *testing.T) {
	c := &Client{start: time.Now(), peers: map[canon.Hash]*peer{}}
	known := canon.Hash{1}
	c.peer(known, true).sentAt.Store(c.now())
	for i := range uint64(2 * maxPeers) {
		var slot canon.Hash
		binary.BigEndian.PutUint64(slot[8:], i+1)
		c.peer(slot, false)
	}
	if len(c.peers) != maxPeers {
		t.Fatalf("%d peers are remembered, want %d", len(c.peers), maxPeers)
	}
	if c.peer(canon.Hash{2}, true) == nil || c.peers[known] == nil {
		t.Error("who is sent to has no place")
	}
}

// What answers to probes say of a way: each step is packets sent since the step
// before, and how many of all have arrived by its answer.
func TestWaysAreJudged(t *testing.T) {
	type step struct{ sent, arrived uint64 }
	for _, tc := range []struct {
		name  string
		steps []step
		bad   bool
	}{
		{"nothing is sent", []step{{0, 0}, {0, 0}, {0, 0}}, false},
		{"all arrives", []step{{0, 0}, {20, 20}, {20, 40}}, false},
		{"what was on the way arrives", []step{{0, 0}, {20, 0}, {20, 40}}, false},
		{"most is lost", []step{{0, 0}, {20, 5}, {20, 10}}, true},
		{"a third is lost", []step{{0, 0}, {21, 14}, {21, 28}}, false},
		{"all is lost", []step{{0, 0}, {20, 0}, {20, 0}}, true},
		{"few are sent and none arrives", []step{{0, 0}, {3, 0}, {1, 0}}, true},
		{"few are sent and none arrives, after many that did", []step{{0, 0}, {20, 20}, {3, 20}, {1, 20}}, true},
		{"one is lost", []step{{0, 0}, {1, 0}, {0, 0}, {0, 0}}, false},
		{"few are on the way", []step{{0, 0}, {3, 0}, {1, 4}, {3, 7}}, false},
		{"few of few arrive", []step{{0, 0}, {4, 1}, {3, 1}, {3, 3}, {3, 4}, {10, 5}}, true},
		{"lost, and silent since", []step{{0, 0}, {3, 0}, {1, 0}, {0, 0}, {0, 0}}, true},
		{"lost, and well again", []step{{0, 0}, {3, 0}, {1, 0}, {1, 1}}, false},
		{"the peer began anew", []step{{0, 0}, {20, 20}, {20, 3}, {4, 7}}, false},
	} {
		w := &way{}
		for _, s := range tc.steps {
			w.atProbe += s.sent
			w.judge(1, s.arrived)
		}
		if bad := w.badUntil > 0; bad != tc.bad {
			t.Errorf("%s: bad is %v, want %v: %+v", tc.name, bad, tc.bad, tc.steps)
		}
	}
}
