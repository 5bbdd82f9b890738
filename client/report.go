package client

import (
	"context"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// check encodes v and has decode judge it: what the node would refuse is refused
// here, before a key is used.
func check[T any](v T, decode func([]byte) (T, error)) (T, error) {
	b, err := canon.Marshal(v)
	if err != nil {
		return v, err
	}
	return decode(b)
}

// Events calls fn for what happened to workloads of a contract on one node, in
// order, until the end, or for ever with Follow. Members may.
func (c *Client) Events(ctx context.Context, slot, contractID canon.Hash, params protocol.EventsParams, by sign.Signer, fn func(protocol.Event) error) error {
	b, err := canon.Marshal(params)
	if err != nil {
		return err
	}
	asker, err := c.reader(ctx, by)
	if err != nil {
		return err
	}
	ask := bus.Ask{Slot: slot, Contract: contractID, Method: bus.MethodEvents, Params: b}
	return chunks(ctx, asker, ask, func(chunk []byte) error {
		events, err := protocol.DecodeEventChunk(chunk)
		if err != nil {
			return err
		}
		for _, e := range events.Events {
			if err := fn(e); err != nil {
				return err
			}
		}
		return nil
	})
}

// Metrics asks a node what the workloads of a contract use now. Members may.
func (c *Client) Metrics(ctx context.Context, slot, contractID canon.Hash, workload string, by sign.Signer) (protocol.Metrics, error) {
	return report(ctx, c, bus.Ask{Slot: slot, Contract: contractID, Method: bus.MethodMetrics}, protocol.MetricsParams{Workload: workload}, by, protocol.DecodeMetrics)
}

// NodeMetrics asks a node what it has and uses. Only the farm's key may.
func (c *Client) NodeMetrics(ctx context.Context, slot canon.Hash, by sign.Signer) (protocol.NodeMetrics, error) {
	return report(ctx, c, bus.Ask{Slot: slot, Method: bus.MethodNodeMetrics}, struct{}{}, by, protocol.DecodeNodeMetrics)
}

func report[T any](ctx context.Context, c *Client, a bus.Ask, params any, by sign.Signer, decode func([]byte) (T, error)) (v T, err error) {
	if a.Params, err = canon.Marshal(params); err != nil {
		return v, err
	}
	asker, err := c.reader(ctx, by)
	if err != nil {
		return v, err
	}
	b, err := asker.Call(ctx, a)
	if err != nil {
		return v, err
	}
	return decode(b)
}

// Restart ends a workload gracefully and has it started again. It returns when the
// workload has been told to. It takes the own key of a member, and a plan that
// grants restart; Signal likewise.
func (c *Client) Restart(ctx context.Context, r Running) error {
	return c.act(ctx, r, bus.MethodRestart, protocol.RestartParams{})
}

// Signal sends a signal to the first process of a workload.
func (c *Client) Signal(ctx context.Context, r Running, signal uint64) error {
	if signal < 1 || signal > protocol.MaxSignal {
		return problem.New("request-invalid", "signal %d, want 1 to %d", signal, protocol.MaxSignal)
	}
	return c.act(ctx, r, bus.MethodSignal, protocol.SignalParams{Signal: signal})
}

func (c *Client) act(ctx context.Context, r Running, method string, params any) error {
	a, err := r.ask(method, params)
	if err != nil {
		return err
	}
	asker, err := c.asker(ctx, r.By)
	if err != nil {
		return err
	}
	if _, err = asker.Call(ctx, a); err != nil {
		return advise(err, r)
	}
	return nil
}

// UseSession makes a session key with which reports are asked from now on in by's
// name, so that a key that must be touched is touched once. It lasts eight hours;
// past its last minute by is asked again.
func (c *Client) UseSession(ctx context.Context, by sign.Signer) error {
	if c.session(by) != nil {
		return nil
	}
	s, err := bus.NewSession(ctx, c.Grid(), by, time.Now(), bus.MaxSession*time.Second)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions == nil {
		c.sessions = map[string]*bus.Credential{}
	}
	c.sessions[string(by.Public())] = s
	return nil
}

func (c *Client) session(by sign.Signer) *bus.Credential {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions[string(by.Public())]; s != nil && time.Until(s.Expiry()) > time.Minute {
		return s
	}
	return nil
}

// reader is asker, by a session if there is one.
func (c *Client) reader(ctx context.Context, by sign.Signer) (*bus.Client, error) {
	conn, err := c.Bus(ctx)
	if err != nil {
		return nil, err
	}
	return bus.NewClient(bus.ClientConfig{Conn: conn, Grid: c.Grid(), Bound: c.Bound, Signer: by, Session: c.session(by), Logger: c.log})
}
