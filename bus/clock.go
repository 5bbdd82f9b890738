package bus

import "sync/atomic"

// rising makes a clock that never runs back out of one that may: an id whose
// request has expired is forgotten, so an expiry must stay in the past for good.
type rising struct{ highest atomic.Uint64 }

// read returns t, or the highest before it; nothing is below 0.
func (r *rising) read(t int64) uint64 {
	now := uint64(max(t, 0))
	for {
		seen := r.highest.Load()
		if now <= seen {
			return seen
		}
		if r.highest.CompareAndSwap(seen, now) {
			return now
		}
	}
}
