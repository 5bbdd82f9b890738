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
