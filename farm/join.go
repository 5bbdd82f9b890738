package farm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Kinds of statement between a node and its farm's agent.
const (
	KindJoin   = "zos-join-v1"
	KindAnswer = "zos-join-answer-v1"
)

// Join is what a booting node asks. It is signed by the key that it asks for.
type Join struct {
	contract.Header
	Farm  canon.Hash      `cbor:"farm"`
	ID    []byte          `cbor:"id"`    // 16 random bytes
	Hints []string        `cbor:"hints"` // what the hardware says of itself, at most MaxHints
	Node  contract.Signed `cbor:"node"`  // a contract.Node, signed by the same key
}

// Answer is what the agent says to one Join, signed by the delegated key.
type Answer struct {
	contract.Header
	Farm       canon.Hash `cbor:"farm"`
	Slot       canon.Hash `cbor:"slot"`
	Join       canon.Hash `cbor:"join"`    // hash of the Join statement
	Outcome    string     `cbor:"outcome"` // a Reply… constant
	Code       string     `cbor:"code"`    // problem code, for ReplyRefused
	Message    string     `cbor:"message"` // one line for people
	Epoch      uint64     `cbor:"epoch"`   // bound, submitted, or to be signed
	Delegation canon.Hash `cbor:"delegation"`
	Time       uint64     `cbor:"time"`  // the agent's clock, Unix seconds
	Retry      uint64     `cbor:"retry"` // seconds until it makes sense to ask again
}

// Outcomes of an Answer.
const (
	ReplyBound     = "bound"     // the ledger binds these keys, at Epoch
	ReplySubmitted = "submitted" // the statement is on its way to the ledger
	ReplySign      = "sign"      // sign the statement with this Epoch, Delegation and an expiry after Time
	ReplyWait      = "wait"      // ask again after Retry
	ReplyRefused   = "refused"   // Code says why; asking again may help when the farm has acted
)

// answerWire is an answer with the farm's delegation, by which it counts.
type answerWire struct {
	Answer     contract.Signed `cbor:"answer"`
	Delegation contract.Signed `cbor:"delegation"`
}

// Limits.
const (
	MaxHints  = 16
	maxHint   = 128
	maxJoin   = 24 << 10 // bytes on the wire
	maxAnswer = 40 << 10
	idSize    = 16
)

// openJoin verifies a Join and the statement inside it. Its errors have the
// code "join-invalid" and concern the form; nothing is decided here.
func openJoin(grid, farm canon.Hash, data []byte) (Join, canon.Hash, contract.Node, error) {
	fail := func(err error) (Join, canon.Hash, contract.Node, error) {
		return Join{}, canon.Hash{}, contract.Node{}, problem.New("join-invalid", "join request: %w", err)
	}
	if len(data) > maxJoin {
		return fail(fmt.Errorf("%d bytes, at most %d are allowed", len(data), maxJoin))
	}
	signed, err := contract.DecodeSigned(data)
	if err != nil {
		return fail(err)
	}
	j, id, by, err := openOne[Join](signed, KindJoin, grid)
	if err != nil {
		return fail(err)
	}
	n, _, nodeBy, err := openOne[contract.Node](j.Node, contract.KindNode, grid)
	if err != nil {
		return fail(err)
	}
	if err := n.Validate(); err != nil {
		return fail(err)
	}
	switch {
	case j.Farm != farm:
		return fail(errors.New("it is for another farm"))
	case len(j.ID) != idSize:
		return fail(fmt.Errorf("id of %d bytes, want %d", len(j.ID), idSize))
	case len(j.Hints) > MaxHints:
		return fail(fmt.Errorf("%d hints, at most %d are allowed", len(j.Hints), MaxHints))
	case !by.Equal(n.SigningKey) || !nodeBy.Equal(n.SigningKey):
		return fail(errors.New("it is signed by another key than the one that it asks for"))
	}
	for _, h := range j.Hints {
		if len(h) > maxHint {
			return fail(fmt.Errorf("hint of %d bytes, at most %d are allowed", len(h), maxHint))
		}
	}
	return j, id, n, nil
}

// openAnswer verifies an answer to the join with hash join: signed by a key to
// which the farm delegated.
func openAnswer(grid, farm canon.Hash, farmKey sign.PublicKey, slot, join canon.Hash, data []byte) (Answer, error) {
	fail := func(err error) (Answer, error) {
		return Answer{}, problem.New("answer-invalid", "answer of the farm's agent: %w", err)
	}
	if len(data) > maxAnswer {
		return fail(fmt.Errorf("%d bytes, at most %d are allowed", len(data), maxAnswer))
	}
	var w answerWire
	if err := canon.UnmarshalLimit(data, maxAnswer, &w); err != nil {
		return fail(err)
	}
	d, id, by, err := openOne[contract.Delegation](w.Delegation, contract.KindDelegation, grid)
	if err != nil {
		return fail(err)
	}
	if !by.Equal(farmKey) || d.Farm != farm {
		return fail(errors.New("its delegation is not of this farm"))
	}
	a, _, by, err := openOne[Answer](w.Answer, KindAnswer, grid)
	if err != nil {
		return fail(err)
	}
	switch {
	case !bytes.Equal(by, d.Key):
		return fail(errors.New("signed by another key than the farm's agent's"))
	case a.Farm != farm || a.Slot != slot || a.Join != join || a.Delegation != id:
		return fail(errors.New("it answers something else"))
	}
	return a, nil
}

func openOne[T contract.Statement](s contract.Signed, kind string, grid canon.Hash) (T, canon.Hash, sign.PublicKey, error) {
	var zero T
	if len(s.Signatures) != 1 {
		return zero, canon.Hash{}, nil, fmt.Errorf("open %s: want one signature, have %d", kind, len(s.Signatures))
	}
	st, id, keys, err := contract.Open[T](s, kind, grid)
	if err != nil {
		return zero, canon.Hash{}, nil, err
	}
	return st, id, keys[0], nil
}
