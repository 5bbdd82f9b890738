package bus

import (
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
)

// The kinds of statement with which nodes call each other.
const (
	KindPeerRequest = "zos-peer-request-v1"
	KindPeerReply   = "zos-peer-reply-v1"
	KindPeerHello   = "zos-peer-hello-v1"
)

// PeerRequest is a call of one node to one run of another, signed by the key of
// the calling slot.
//
// All times in it are nanoseconds of a run's own clock, which begins with the
// run and never steps: so that no node needs to know what time it is.
type PeerRequest struct {
	contract.Header
	From      canon.Hash `cbor:"from"`
	FromEpoch uint64     `cbor:"from_epoch"`
	FromRun   []byte     `cbor:"from_run"`  // 16 bytes
	FromTime  uint64     `cbor:"from_time"` // the caller's clock; tells the callee how to call back
	To        canon.Hash `cbor:"to"`
	ToEpoch   uint64     `cbor:"to_epoch"`
	ToRun     []byte     `cbor:"to_run"` // 16 bytes
	ID        []byte     `cbor:"id"`     // 16 random bytes, never used again
	Method    string     `cbor:"method"` // 1 to MaxMethod bytes
	// Issued is the callee's clock, as the caller knows it. It rises with each
	// request of a caller to a callee, also from one run of the caller to the next.
	Issued   uint64     `cbor:"issued"`
	Expiry   uint64     `cbor:"expiry"`    // the same clock; at most MaxPeerLife after Issued
	ReplyKey []byte     `cbor:"reply_key"` // 32 random bytes, which only the callee can open
	Body     canon.Hash `cbor:"body"`      // SHA-256 of the bytes that travel beside it
}

// PeerReply answers a PeerRequest, signed by the key of the slot that was called.
type PeerReply struct {
	contract.Header
	From    canon.Hash `cbor:"from"` // who answers
	Epoch   uint64     `cbor:"epoch"`
	Run     []byte     `cbor:"run"`     // 16 bytes
	Time    uint64     `cbor:"time"`    // the clock of this run
	To      canon.Hash `cbor:"to"`      // who called
	Request canon.Hash `cbor:"request"` // hash of the PeerRequest statement
	Code    string     `cbor:"code"`    // "" or a problem code
	Message string     `cbor:"message"` // what went wrong, one line, at most MaxMessage bytes
	Body    canon.Hash `cbor:"body"`    // SHA-256 of the bytes that travel beside it
}

// PeerHello tells, in answer to a challenge, which run of a node is to be called
// and what its clock says. It is signed by the slot's key, and not sealed.
type PeerHello struct {
	contract.Header
	Slot      canon.Hash `cbor:"slot"`
	Epoch     uint64     `cbor:"epoch"`
	Run       []byte     `cbor:"run"`       // 16 bytes
	Time      uint64     `cbor:"time"`      // the clock of this run
	Challenge []byte     `cbor:"challenge"` // 16 bytes
}

// peerCall is what travels inside the seal of a request, peerAnswer inside that
// of a reply. The body is beside the statement, which names its hash, so that
// statements stay small.
type peerCall struct {
	Request contract.Signed `cbor:"request"`
	Body    []byte          `cbor:"body"`
}

type peerAnswer struct {
	Reply contract.Signed `cbor:"reply"`
	Body  []byte          `cbor:"body"`
}

// Limits of calls between nodes.
const (
	// MaxPeerBody bounds what travels each way, in bytes.
	MaxPeerBody = 32 << 10
	// MaxPeerLife is how long a request may be on its way and answered.
	MaxPeerLife = 60 * time.Second

	maxPeer      = MaxPeerBody + 8<<10 // sealed, on the wire
	maxPeerHello = 2 << 10
	maxPeerTime  = uint64(1) << 62
	replyKeySize = 32
)
