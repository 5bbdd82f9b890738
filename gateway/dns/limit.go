package dns

import (
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"
)

type verdict int

const (
	pass verdict = iota
	slip         // answer by "come by TCP"
	drop
)

// limiter bounds the answers over UDP that one client network is sent: whoever
// forges its address to flood it gets little. Its memory is fixed: networks share
// buckets by a hash that nobody outside knows.
type limiter struct {
	rate float64
	now  func() time.Time
	seed maphash.Seed

	mu      sync.Mutex
	buckets [1 << 12]bucket
}

type bucket struct {
	tokens float64
	last   time.Time
	over   uint32
}

func newLimiter(rate int, now func() time.Time) *limiter {
	return &limiter{rate: float64(rate), now: now, seed: maphash.MakeSeed()}
}

func (l *limiter) take(from net.Addr) verdict {
	a := clientNet(from)
	b := &l.buckets[maphash.Comparable(l.seed, a)%uint64(len(l.buckets))]
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	// A second's worth is saved up.
	b.tokens = min(l.rate, b.tokens+now.Sub(b.last).Seconds()*l.rate)
	if b.last.IsZero() {
		b.tokens = l.rate
	}
	b.last = now
	if b.tokens >= 1 {
		b.tokens--
		return pass
	}
	if b.over++; b.over%2 == 0 {
		return slip
	}
	return drop
}

// clientNet is the network of a client whose addresses count as one.
func clientNet(from net.Addr) netip.Addr {
	var a netip.Addr
	if u, ok := from.(*net.UDPAddr); ok {
		a = u.AddrPort().Addr().Unmap()
	}
	bits := 56
	if a.Is4() {
		bits = 24
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.IPv6Unspecified()
	}
	return p.Addr()
}
