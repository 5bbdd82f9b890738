package device

import (
	"net/netip"
	"time"
)

// When an endpoint is taken for silent.
const (
	firstPatience = 1500 * time.Millisecond // with an endpoint that never answered, in the first round
	mostPatience  = 6 * time.Second         // in later rounds: a handshake is repeated after five
	idleTime      = 3 * time.Second         // without a packet from there, after which something is asked
	askEvery      = time.Second
	// A resolver answers at once. Without its answers, WireGuard itself says within
	// ten seconds of a packet that it has come.
	silentAnswered  = 3 * time.Second
	silentOtherwise = 13 * time.Second
)

// step is what is to be done about the way to the entry.
type step int

const (
	stay step = iota
	ask       // send something that is answered
	next      // take the next endpoint
)

// way is the endpoint in use, and what was heard through it. It decides and does
// nothing, and asks no clock.
type way struct {
	endpoints []netip.AddrPort
	at        int       // index of the one in use
	tries     int       // endpoints taken since one answered
	taken     time.Time // when it was
	rx        uint64    // bytes from it
	heard     time.Time // when rx last grew; zero: not since it was taken
	asked     time.Time // the first question since then; zero: none
	last      time.Time // the last question
	answered  bool      // something ever came right after a question
}

// endpoint is the one in use.
func (w *way) endpoint() netip.AddrPort { return w.endpoints[w.at] }

// take notes that the next endpoint is in use; at the beginning, the first.
func (w *way) take(now time.Time) {
	if !w.taken.IsZero() {
		w.at = (w.at + 1) % len(w.endpoints)
		w.tries++
	}
	w.taken, w.rx, w.heard, w.asked, w.last = now, 0, time.Time{}, time.Time{}, time.Time{}
}

// see takes into account how many bytes have come by now.
func (w *way) see(now time.Time, rx uint64) {
	if rx > w.rx {
		w.answered = w.answered || !w.last.IsZero() && now.Sub(w.last) <= askEvery
		w.heard, w.asked, w.tries = now, time.Time{}, 0
	}
	w.rx = rx
}

// moved makes the next step a question: the machine is in another network.
func (w *way) moved(now time.Time) {
	if !w.heard.IsZero() && w.asked.IsZero() {
		w.heard = now.Add(-idleTime)
	}
}

// step decides.
func (w *way) step(now time.Time) step {
	if w.heard.IsZero() {
		patience := firstPatience
		if w.tries >= len(w.endpoints) {
			patience = mostPatience
		}
		if now.Sub(w.taken) >= patience {
			return next
		}
		return stay
	}
	silent := silentOtherwise
	if w.answered {
		silent = silentAnswered
	}
	switch {
	case !w.asked.IsZero() && now.Sub(w.asked) >= silent:
		return next
	case now.Sub(w.heard) >= idleTime && now.Sub(w.last) >= askEvery:
		if w.asked.IsZero() {
			w.asked = now
		}
		w.last = now
		return ask
	}
	return stay
}
