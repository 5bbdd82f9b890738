package bus

import (
	"bytes"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// peerSelf is what a request must name, and when it came by the clock of this run.
type peerSelf struct {
	slot  canon.Hash
	epoch uint64
	run   [NonceSize]byte
	now   uint64
}

// peerAhead is by how much a caller's idea of our clock may run ahead, in
// nanoseconds: two clocks that nobody sets drift by less in hours, and every
// reply sets it right.
const peerAhead = uint64(2 * time.Second)

// judgePeer decides whether a properly signed request was meant for this run of
// this node, now, and comes from the node that the ledger binds to the slot that
// it names. Replay and order are not its concern.
func judgePeer(r PeerRequest, signer sign.PublicKey, from Binding, me peerSelf) error {
	switch {
	case r.To != me.slot || r.ToEpoch != me.epoch:
		return problem.New("request-misdirected", "peer request: it names another slot or epoch")
	case r.From.IsZero() || r.From == me.slot:
		return problem.New("request-invalid", "peer request: it names no other node as its caller")
	case len(r.FromRun) != NonceSize || len(r.ToRun) != NonceSize || len(r.ID) != NonceSize || len(r.ReplyKey) != replyKeySize:
		return problem.New("request-invalid", "peer request: a nonce or key has the wrong length")
	case r.Method == "" || len(r.Method) > MaxMethod:
		return problem.New("request-invalid", "peer request: the method has %d bytes", len(r.Method))
	case r.FromTime > maxPeerTime || r.Issued > maxPeerTime || r.Expiry <= r.Issued || r.Expiry-r.Issued > uint64(MaxPeerLife):
		return problem.New("request-invalid", "peer request: its times are absurd")
	case len(from.SigningKey) == 0 || !signer.Equal(from.SigningKey) || r.FromEpoch != from.Epoch:
		return problem.New("node-rekeyed", "peer request: node %s has another key or epoch than the ledger says", r.From.Short())
	case !bytes.Equal(r.ToRun, me.run[:]):
		return problem.New("request-stale", "peer request: it was made for an earlier run of the node")
	case r.Issued > me.now+peerAhead:
		return problem.New("request-stale", "peer request: its caller's idea of our clock is ahead")
	case r.Expiry <= me.now:
		return problem.New("request-expired", "peer request: it came after its expiry")
	}
	return nil
}

// answerable tells whether a caller learns why he was refused: when it is proven
// that he is who he says, and knowing mends it.
func answerable(code string) bool {
	switch code {
	case "request-stale", "request-expired", "node-busy", "unknown-method", "request-old":
		return true
	}
	return false
}
