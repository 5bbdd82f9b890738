package netnode

import (
	"sync"
	"time"
)

// pulse counts what comes back from the other end, and for how long nothing did.
type pulse struct {
	mu      sync.Mutex
	beats   int
	last    time.Time
	longest time.Duration
}

func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.longest, p.last = max(p.longest, now.Sub(p.last)), now
	p.beats++
}

func (p *pulse) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.beats
}

// Silence is the longest time in which nothing came back since Reset, up to now.
func (p *pulse) Silence() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.longest, time.Since(p.last))
}

// Reset forgets how long silences were.
func (p *pulse) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longest, p.last = 0, time.Now()
}
