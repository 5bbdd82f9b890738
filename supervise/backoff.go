package supervise

import (
	"math/rand/v2"
	"time"
)

// Backoff is how long to pause between tries: First, then twice as long each
// time up to Max, spread by ±20 % so that many that failed together don't come
// back together. After a try that lasted at least Reset it begins again at First.
type Backoff struct {
	First time.Duration
	Max   time.Duration
	Reset time.Duration
}

// DefaultBackoff suits parts of a daemon.
var DefaultBackoff = Backoff{First: 250 * time.Millisecond, Max: 30 * time.Second, Reset: time.Minute}

// Pause returns the pause before try number n+1, when n tries in a row have
// failed (n ≥ 1), without the spread.
func (b Backoff) Pause(n int) time.Duration {
	d := b.First
	for i := 1; i < n && d < b.Max; i++ {
		d *= 2
	}
	return min(d, b.Max)
}

// Failed counts one more failed try that lasted for lasted on top of the n
// before it, and returns the new count and the pause, spread.
func (b Backoff) Failed(n int, lasted time.Duration) (int, time.Duration) {
	if lasted >= b.Reset {
		n = 0
	}
	n++
	p := b.Pause(n)
	return n, p - p/5 + time.Duration(rand.Int64N(int64(2*p/5)+1))
}
