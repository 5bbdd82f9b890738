package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

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

	mu   sync.Mutex
	next uint64
	done bool
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
	if err := a.to.respond(sealed); err != nil {
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
	if ctx.Err() != nil { // the daemon ends: one last word
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
	}
	if err != nil {
		a.send(ctx, Reply{Last: true, Code: clip(code(err), MaxCode), Message: clip(err.Error(), MaxMessage)}, nil)
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

// clip makes s one line of valid text of at most n bytes.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\n", " "), "?")
	if len(s) <= n {
		return s
	}
	s = s[:n]
	for len(s) > 0 && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}
