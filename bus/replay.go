package bus

import (
	"github.com/zero-os/zos/problem"
)

// Bounds of the memory of request ids.
const (
	replayMost      = 16384 // ids in all
	replayPerCaller = 2048  // ids of one account
)

// replay remembers the ids of requests until they expire. It is bounded, and
// full it refuses: forgetting an id that is still valid would let it in again.
type replay struct {
	seen    map[replayKey]uint64 // expiry
	callers tally[string]
	swept   uint64 // when the last sweep was, Unix seconds
}

type replayKey struct {
	caller string
	id     [NonceSize]byte
}

func newReplay() *replay {
	return &replay{seen: map[replayKey]uint64{}, callers: tally[string]{}}
}

// admit takes an id, once. Errors have the codes "request-replayed" and
// "node-busy". The id's length and the expiry are already judged.
func (r *replay) admit(caller []byte, id []byte, expiry, now uint64) error {
	if now > r.swept {
		r.sweep(now)
	}
	k := replayKey{string(caller), [NonceSize]byte(id)}
	if _, ok := r.seen[k]; ok {
		return problem.New("request-replayed", "request: its id was used before")
	}
	if len(r.seen) >= replayMost || r.callers[k.caller] >= replayPerCaller {
		return problem.New("node-busy", "request: too many within %d s", MaxAhead).WithFix("wait a moment")
	}
	r.seen[k] = expiry
	r.callers[k.caller]++
	return nil
}

// sweep forgets ids whose requests would be refused as expired anyway. It looks
// at every id, at most once a second.
func (r *replay) sweep(now uint64) {
	for k, expiry := range r.seen {
		if expiry <= now {
			delete(r.seen, k)
			r.callers.less(k.caller)
		}
	}
	r.swept = now
}
