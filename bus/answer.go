package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

// answer is the numbered series of replies to one request.
type answer struct {
	node    *Node
	to      message
	replyTo []byte
	request canon.Hash
	keep    bool // the last reply's bytes stay in kept

	mu   sync.Mutex
	next uint64
	done bool
	kept []byte
}

// chunk sends the next reply; after the last one it sends nothing more.
func (a *answer) chunk(ctx context.Context, r Reply, body []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return errors.New("reply: the answer is complete")
	}
	n := a.node
	r.Header = header(contract.KindReply, n.cfg.Grid)
	r.Slot, r.Epoch, r.Request, r.Sequence = n.cfg.Slot, n.cfg.Epoch, a.request, a.next
	r.Body = canon.Sum(body)
	ctx, cancel := context.WithTimeout(ctx, sendDeadline)
	defer cancel()
	signed, err := contract.Sign(ctx, r, contract.KindReply, n.cfg.Signer)
	if err != nil {
		return fmt.Errorf("sign reply: %w", err)
	}
	sealed, err := sealReply(a.replyTo, a.request, chunk{signed, body})
	if err != nil {
		return fmt.Errorf("seal reply: %w", err)
	}
	if a.keep {
		a.kept = sealed
	}
	if err := a.to.respond(sealed); err != nil && !a.keep {
		return err
	}
	a.next++
	a.done = r.Last
	return nil
}

// sent is how many chunks went out.
func (a *answer) sent() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.next
}

// finish sends body, or err, as the end of the answer.
func (a *answer) finish(ctx context.Context, body []byte, err error) {
	if err == nil && len(body) > MaxAnswer {
		err = problem.New("answer-too-large", "the answer has %d bytes, at most %d are allowed", len(body), MaxAnswer)
	}
	ctx, cancel := lastWord(ctx)
	defer cancel()
	if err != nil {
		r := Reply{Last: true}
		r.Code, r.Message = told(err)
		a.send(ctx, r, nil)
		return
	}
	for len(body) > MaxChunk {
		if !a.send(ctx, Reply{}, body[:MaxChunk]) {
			return
		}
		body = body[MaxChunk:]
	}
	a.send(ctx, Reply{Last: true}, body)
}

func (a *answer) send(ctx context.Context, r Reply, body []byte) bool {
	if err := a.chunk(ctx, r, body); err != nil {
		a.node.log.Debug("bus reply", "error", err)
		return false
	}
	return true
}

// lastWord is for the end of an answer: it gives it a second more when the daemon
// ends, since who asked would otherwise wait for nothing.
func lastWord(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), time.Second)
}
