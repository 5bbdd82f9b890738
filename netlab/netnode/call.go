package netnode

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Call is a call of a node's to another one.
type Call struct {
	Slot   canon.Hash // of the other
	Method string
	Body   []byte
	// AsPerson asks what nodes answer to people, about Contract, signed with the
	// node's own key.
	AsPerson bool
	Contract canon.Hash
	Within   time.Duration // how long it waits for an answer
}

// Outcome is what came of a Call: an answer, or why there is none.
type Outcome struct {
	Answer []byte
	Code   string // problem code of an error, if it has one
	Error  string // "": it was answered
}

// Call makes calls, all at once, and returns what came of each.
func (n *Node) Call(calls ...Call) []Outcome {
	n.tb.Helper()
	var out []Outcome
	n.must("call", calls, &out)
	return out
}

func (n *nodeProcess) call(ctx context.Context, calls []Call) ([]Outcome, error) {
	out := make([]Outcome, len(calls))
	var work sync.WaitGroup
	defer work.Wait()
	for i, c := range calls {
		call := n.peers.Call
		if c.AsPerson {
			p, err := n.person()
			if err != nil {
				return nil, err
			}
			call = func(ctx context.Context, slot canon.Hash, method string, body []byte) ([]byte, error) {
				return p.Call(ctx, bus.Ask{Slot: slot, Contract: c.Contract, Method: method, Params: body})
			}
		}
		work.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, c.Within)
			defer cancel()
			b, err := call(ctx, c.Slot, c.Method, c.Body)
			out[i] = outcomeOf(b, err)
		})
	}
	work.Wait()
	return out, nil
}

func outcomeOf(b []byte, err error) Outcome {
	o := Outcome{Answer: b}
	if err == nil {
		return o
	}
	o.Error = err.Error()
	var p *problem.Error
	if errors.As(err, &p) {
		o.Code = p.Code
	}
	return o
}

// person asks nodes as people do, with the node's key for an account's.
func (n *nodeProcess) person() (*bus.Client, error) {
	if n.people == nil {
		var err error
		if n.people, err = bus.Connect(bus.ConnConfig{URLs: n.cfg.Servers, Role: bus.AsPeople()}); err != nil {
			return nil, err
		}
	}
	return bus.NewClient(bus.ClientConfig{Conn: n.people, Grid: n.who.grid, Bound: n.who.bound, Signer: n.who.signer})
}
