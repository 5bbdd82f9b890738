package node

import (
	"context"
	"fmt"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	publish "github.com/zero-os/zos/workload/gateway"
)

// challengeLife is how long an answer to an authority stands if nobody takes it back:
// longer than an authority takes to ask.
const challengeLife = 15 * time.Minute

// challenges puts answers to certificate authorities on the ledger, signed by this
// slot's key. It implements publish.Challenges.
type challenges struct {
	grid, slot canon.Hash
	signer     sign.Signer
	// ledger is what to ask and where to send, and the epoch of the slot; nil or 0 as
	// long as there is none.
	ledger func() (l submitter, epoch uint64)
	// said is called when the ledger has another answer of this slot.
	said func()
	turn chan struct{} // full while one is sent: sequences rise one by one
}

var _ publish.Challenges = (*challenges)(nil)

func newChallenges(grid, slot canon.Hash, signer sign.Signer, ledger func() (submitter, uint64), said func()) *challenges {
	return &challenges{grid: grid, slot: slot, signer: signer, ledger: ledger, said: said, turn: make(chan struct{}, 1)}
}

// Answer implements publish.Challenges. It returns when a block has the answer.
// Codes: "node-unbound", light's, and those of the rules for challenges.
func (c *challenges) Answer(ctx context.Context, id canon.Hash, host, value string) error {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l, epoch := c.ledger()
	if l == nil {
		return problem.New(light.CodeUnreachable, "answer a challenge: the ledger was not read yet").WithFix("nothing; it is tried again")
	}
	if epoch == 0 {
		return problem.New("node-unbound", "answer a challenge: this node has not joined its slot yet").WithFix("wait for the farm's agent")
	}
	next := contract.NewChallenge(c.grid, contract.Challenge{Slot: c.slot, Epoch: epoch, Contract: id, Host: host, Value: value})
	err := c.send(ctx, l, next)
	if problem.Code(err) == "stale-sequence" {
		// One whose fate was not known was taken after all, or the head was old.
		err = c.send(ctx, l, next)
	}
	if problem.Code(err) == "challenge-absent" && value == "" {
		return nil
	}
	if err == nil {
		c.said()
	}
	return err
}

// send writes c with the next sequence, and an end by the ledger's own time.
func (c *challenges) send(ctx context.Context, l submitter, next contract.Challenge) error {
	b, found, head, err := l.Get(ctx, contract.KeyChallenges(c.slot))
	if err != nil {
		return err
	}
	var last contract.ChallengesRecord
	if found {
		if err := canon.Unmarshal(b, &last); err != nil {
			return problem.New("record-mismatch", "read this slot's challenges: %w", err)
		}
	}
	next.Sequence = 1
	if last.Epoch == next.Epoch {
		next.Sequence = last.Sequence + 1
	}
	next.Expiry = uint64(max(0, head.Time.Add(challengeLife).Unix()))
	if err := next.Validate(); err != nil {
		return err
	}
	signed, err := contract.Sign(ctx, next, contract.KindChallenge, c.signer)
	if err != nil {
		return err
	}
	tx, err := signed.Encode()
	if err != nil {
		return err
	}
	if _, err := l.Submit(ctx, tx); err != nil {
		return fmt.Errorf("send a challenge: %w", err)
	}
	return nil
}

// submitTo is where this node sends what it signs.
func (n *Node) submitTo() (submitter, uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ledger == nil {
		return nil, n.epoch
	}
	return n.ledger, n.epoch
}

// challengeSaid makes the grid's domain be read again at once.
func (n *Node) challengeSaid() {
	n.facing.zoneAgain()
	n.wakeGateways()
}
