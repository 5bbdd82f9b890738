package gateway

import (
	"net/netip"
	"sync"
)

// clients counts what each client has at a time. A client is an IPv4 address or
// an IPv6 /64, which is what one customer of a provider has at least. The table
// is as large as what it counts: who has nothing isn't in it.
type clients struct {
	most   int
	shards [16]clientShard
}

type clientShard struct {
	mu sync.Mutex
	n  map[netip.Addr]int32
}

// clientOf is the address that a client is counted under.
func clientOf(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is4() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

func (c *clients) shard(client netip.Addr) *clientShard {
	b := client.As16()
	var sum byte
	for _, x := range b {
		sum = sum*31 + x
	}
	return &c.shards[sum%16]
}

// enter counts one more, or returns false if the client has enough.
func (c *clients) enter(client netip.Addr) bool {
	s := c.shard(client)
	s.mu.Lock()
	defer s.mu.Unlock()
	if int(s.n[client]) >= c.most {
		return false
	}
	if s.n == nil {
		s.n = map[netip.Addr]int32{}
	}
	s.n[client]++
	return true
}

func (c *clients) leave(client netip.Addr) {
	s := c.shard(client)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n[client]--; s.n[client] == 0 {
		delete(s.n, client)
	}
}
