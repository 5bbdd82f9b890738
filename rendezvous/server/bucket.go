package server

import (
	"sync"
	"time"
)

// packetCost is what a packet costs beside its bytes, so that small ones are
// bounded too.
const packetCost = 200

// bucket bounds the rate of one client. It asks for the time only when it has
// run empty, so that after a rest two bursts may pass at once.
type bucket struct {
	rate  float64 // bytes/s; 0: no bound
	burst float64
	mu    sync.Mutex
	left  float64
	at    time.Time
}

// newBucket allows rate bytes per second, with bursts of an eighth of a second.
func newBucket(rate int, now time.Time) *bucket {
	b := &bucket{rate: float64(max(0, rate)), burst: max(float64(rate)/8, 64<<10), at: now}
	b.left = b.burst
	return b
}

// take tells whether n more bytes may pass.
func (b *bucket) take(n int, now func() time.Time) bool {
	if b.rate == 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	cost := float64(n + packetCost)
	if b.left < cost {
		t := now()
		b.left = min(b.burst, b.left+b.rate*max(0, t.Sub(b.at).Seconds()))
		b.at = t
		if b.left < cost {
			return false
		}
	}
	b.left -= cost
	return true
}
