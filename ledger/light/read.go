package light

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/ledger/merkle"
	"github.com/zero-os/zos/ledger/wire"
	"github.com/zero-os/zos/problem"
)

// KV is a key of the state and its value.
type KV struct {
	Key   string
	Value []byte
}

// Get returns the value of a key, or that there is none, proven against the
// header at, which is at most Config.MaxHeadAge old and never older than one
// that this client returned before.
func (c *Client) Get(ctx context.Context, key string) (value []byte, found bool, at Head, err error) {
	at, err = c.prove(ctx, wire.PathGet, []byte(key), func(root canon.Hash, proof []byte) (err error) {
		value, found, err = merkle.VerifyGet(root, []byte(key), proof)
		return err
	})
	if err != nil {
		return nil, false, Head{}, fmt.Errorf("read %s from the ledger: %w", key, err)
	}
	return value, found, at, nil
}

// List returns all the keys that begin with prefix, in order, with their values,
// proven complete against the header at; see Get. More than merkle.MaxItems keys
// or 8 MiB fail with wire.ProblemTooLarge: ask for a longer prefix.
func (c *Client) List(ctx context.Context, prefix string) (all []KV, at Head, err error) {
	at, err = c.prove(ctx, wire.PathList, []byte(prefix), func(root canon.Hash, proof []byte) error {
		items, err := merkle.VerifyList(root, []byte(prefix), proof)
		if err != nil {
			return err
		}
		all = make([]KV, len(items))
		for i, kv := range items {
			all[i] = KV{Key: string(kv.Key), Value: kv.Value}
		}
		return nil
	})
	if err != nil {
		return nil, Head{}, fmt.Errorf("list %s of the ledger: %w", prefix, err)
	}
	return all, at, nil
}

// prove asks the endpoints in turn until one gives a proof that check accepts
// against a verified, fresh header.
func (c *Client) prove(ctx context.Context, path string, data []byte, check func(canon.Hash, []byte) error) (Head, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var fail error
	for _, e := range c.order() {
		head, err := c.proveBy(ctx, e, path, data, check)
		if err == nil {
			return head, nil
		}
		c.log.Debug("ledger read failed", "endpoint", e.url, "err", text(err))
		// A lie says more than a silence.
		if fail == nil || problem.Code(fail) == CodeUnreachable {
			fail = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return Head{}, fail
}

func (c *Client) proveBy(ctx context.Context, e *endpoint, path string, data []byte, check func(canon.Hash, []byte) error) (Head, error) {
	a, err := c.ask(ctx, e, path, data)
	if err != nil {
		return Head{}, err
	}
	block, err := c.verified(ctx, a.height)
	if err != nil {
		return Head{}, err
	}
	if !c.fresh(block) {
		return Head{}, stale(headOf(block), c.maxAge, c.now())
	}
	if len(block.AppHash) != canon.HashSize {
		return Head{}, lying(e.note(liarError{errors.New("a header without a state")}), "read from %s", e.url)
	}
	head := headOf(block)
	if err := check(head.State, a.value); err != nil {
		err = e.note(liarError{fmt.Errorf("%s: %w", e.url, err)})
		return Head{}, &problem.Error{Code: CodeProof, What: "the ledger's answer is not what its header proves: " + text(err), Err: err,
			Fix: "do not trust this endpoint; configure another one"}
	}
	return head, nil
}

// ask queries e until it answers for a header that is not older than the newest
// one known here, for a moment.
func (c *Client) ask(ctx context.Context, e *endpoint, path string, data []byte) (*answer, error) {
	late := time.NewTimer(e.catchUp)
	defer late.Stop()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		a, err := e.query(ctx, path, data, 0)
		var behind error
		switch {
		case err != nil:
			return nil, unreachable(err, "read from the ledger")
		case a.code != 0 && a.space == wire.ProblemNotYet:
			behind = fmt.Errorf("%s: %s", e.url, a.log)
		case a.code != 0:
			return nil, problem.New(code(a.space), "%s: %s", e.url, text(errors.New(a.log)))
		case a.height < 1:
			return nil, lying(e.note(liarError{fmt.Errorf("answer for height %d", a.height)}), "read from %s", e.url)
		default:
			newest := c.store.newest()
			if newest == nil || a.height >= newest.Height {
				return a, nil
			}
			behind = fmt.Errorf("%s answers for header %d, and %d is known", e.url, a.height, newest.Height)
		}
		select {
		case <-ctx.Done():
			return nil, unreachable(ctx.Err(), "read from the ledger")
		case <-late.C:
			return nil, unreachable(e.note(behind), "read from the ledger")
		case <-time.After(wait):
		}
	}
}

// code returns a problem code that an endpoint gave, if it looks like one.
func code(s string) string {
	if s == "" || len(s) > 64 {
		return wire.ProblemInternal
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return wire.ProblemInternal
		}
	}
	return s
}
