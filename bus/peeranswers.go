package bus

import (
	"sync"

	"github.com/zero-os/zos/canon"
)

// answers remembers requests that are being answered or were, by the hash of
// their sealed bytes, with the answer: a request that comes again, over another
// link or because an answer was lost, gets the same one, over the link that
// brought it. It is bounded; what is not remembered is not answered again, and
// never runs again.
type answers struct {
	by    map[canon.Hash]*kept
	order map[canon.Hash]*keptOrder // by caller
	size  int
}

type keptOrder struct {
	keys []canon.Hash // the oldest first
	size int
}

// kept is one request. Its answer goes to each link that brought it.
type kept struct {
	mu     sync.Mutex
	to     []message // who waits for the answer
	sealed []byte    // the answer, once there is one
	again  int       // how often it was sent after that

	expiry uint64 // set before it is kept
}

// maxWaiting bounds the links that wait for one answer, maxAgain how often a bus
// that repeats a request gets it answered.
const (
	maxWaiting = maxURLs
	maxAgain   = 32
)

func newAnswers() *answers {
	return &answers{by: map[canon.Hash]*kept{}, order: map[canon.Hash]*keptOrder{}}
}

// join answers m with the answer to the same request, or lets it wait for that.
func (k *kept) join(m message) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sealed != nil {
		if k.again >= maxAgain {
			return nil
		}
		k.again++
		return m.respond(k.sealed)
	}
	for _, w := range k.to {
		if w.link == m.link && w.reply == m.reply {
			return nil
		}
	}
	if len(k.to) < maxWaiting {
		k.to = append(k.to, m)
	}
	return nil
}

// finish sends the answer to all who wait. It returns the first error, if none
// could be sent.
func (k *kept) finish(sealed []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sealed = sealed
	var failed error
	sent := false
	for _, m := range k.to {
		if err := m.respond(sealed); err != nil {
			if failed == nil {
				failed = err
			}
			continue
		}
		sent = true
	}
	k.to = nil
	if sent {
		return nil
	}
	return failed
}

// keep holds on to a finished answer for as long as its request is valid, and
// lets the oldest ones of the same caller go when there is no room.
func (a *answers) keep(key, caller canon.Hash, size int) {
	o := a.order[caller]
	if o == nil {
		o = &keptOrder{}
		a.order[caller] = o
	}
	o.keys = append(o.keys, key)
	o.size += size
	a.size += size
	for len(o.keys) > 0 && (len(o.keys) > keptPerCaller || o.size > keptCallerSize || a.size > keptSize) {
		a.drop(o, 0)
	}
	if len(o.keys) == 0 {
		delete(a.order, caller)
	}
}

func (a *answers) drop(o *keptOrder, i int) {
	n := len(a.by[o.keys[i]].sealed)
	o.size -= n
	a.size -= n
	delete(a.by, o.keys[i])
	o.keys = append(o.keys[:i], o.keys[i+1:]...)
}

// sweep forgets the answers to requests that have expired.
func (a *answers) sweep(now uint64) {
	for caller, o := range a.order {
		for i := len(o.keys) - 1; i >= 0; i-- {
			if a.by[o.keys[i]].expiry <= now {
				a.drop(o, i)
			}
		}
		if len(o.keys) == 0 {
			delete(a.order, caller)
		}
	}
}
