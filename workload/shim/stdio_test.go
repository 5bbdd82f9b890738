package shim

import (
	"testing"
	"time"
)

// A container that floods its log costs its neighbours little at any moment, not only
// over a second.
func TestAFloodIsTakenEvenly(t *testing.T) {
	const rate = 4 << 20
	p := pace{rate: rate}
	began := time.Now()
	now, taken := began, int64(0)
	window, most := map[int64]int64{}, int64(0)
	for now.Sub(began) < 2*time.Second {
		taken += readSize
		at := int64(now.Sub(began) / (50 * time.Millisecond))
		window[at] += readSize
		most = max(most, window[at])
		if wait := p.took(now, readSize, 0); wait > 0 {
			now = now.Add(wait)
		}
	}
	if limit := int64(2*rate + burst + readSize); taken > limit || taken < 2*rate {
		t.Errorf("%d bytes in two seconds, want %d to %d", taken, 2*rate, limit)
	}
	if limit := int64(rate/20 + burst + 2*readSize); most > limit {
		t.Errorf("%d bytes within 50 ms, want at most %d", most, limit)
	}
	// After a quiet time it is taken as it comes.
	now = now.Add(time.Minute)
	for range burst / readSize {
		if wait := p.took(now, readSize, 0); wait > 0 {
			t.Fatalf("after a minute of silence it waits for %v", wait)
		}
	}
	if p.took(now, readSize, 0) <= 0 {
		t.Error("a burst without end")
	}
}

// Where the processor is slow, its time is the bound: a flood costs a twentieth of it.
func TestAFloodCostsATwentiethOfAProcessor(t *testing.T) {
	const each = 5 * time.Millisecond // of processor time for 32 KiB
	p := pace{rate: 4 << 20}
	began := time.Now()
	now, used := began, time.Hour
	for now.Sub(began) < time.Minute {
		now, used = now.Add(each), used+each
		if wait := p.took(now, readSize, used); wait > 0 {
			now = now.Add(wait)
		}
	}
	if got := used - time.Hour; got > now.Sub(began)/share+2*each || got < now.Sub(began)/share/2 {
		t.Errorf("%v of %v", got, now.Sub(began))
	}
	// A shim that did something else for long does not keep its container waiting.
	if wait := p.took(now.Add(time.Hour), 10, used+time.Minute); wait > rest {
		t.Errorf("it waits for %v", wait)
	}
}
