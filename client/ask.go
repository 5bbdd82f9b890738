package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Bus returns the link to the bus, made at first use.
func (c *Client) Bus(ctx context.Context) (*bus.Conn, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	// Without the lock: who waits for the bus must not keep others from the ledger.
	return conn, conn.Ready(ctx)
}

func (c *Client) dial() (*bus.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bus == nil {
		conn, err := bus.Connect(bus.ConnConfig{URLs: c.context.Rendezvous, Role: bus.AsPeople(), Logger: c.log})
		if err != nil {
			return nil, fmt.Errorf("connect to the bus: %w", err)
		}
		c.bus = conn
	}
	return c.bus, nil
}

// Bound reads the keys of a slot from the ledger, for package bus, and judges them
// by the farm's own signatures.
func (c *Client) Bound(ctx context.Context, slot canon.Hash) (bus.Binding, error) {
	return c.bound(ctx, slot)
}

// readLedger gets one record, verified.
func (c *Client) readLedger(ctx context.Context, key string) ([]byte, bool, error) {
	l, err := c.Ledger(ctx)
	if err != nil {
		return nil, false, err
	}
	b, found, _, err := l.Get(ctx, key)
	return b, found, err
}

// asker prepares requests in the name of a key.
func (c *Client) asker(ctx context.Context, by sign.Signer) (*bus.Client, error) {
	conn, err := c.Bus(ctx)
	if err != nil {
		return nil, err
	}
	return bus.NewClient(bus.ClientConfig{Conn: conn, Grid: c.Grid(), Bound: c.Bound, Signer: by, Logger: c.log})
}

// Heartbeat asks the node in a slot whether it is there; the answer is fresh
// and signed by the slot's key.
func (c *Client) Heartbeat(ctx context.Context, slot canon.Hash) (bus.Heartbeat, error) {
	conn, err := c.Bus(ctx)
	if err != nil {
		return bus.Heartbeat{}, err
	}
	to, err := c.Bound(ctx, slot)
	if err != nil {
		return bus.Heartbeat{}, err
	}
	return bus.Hello(ctx, conn, c.Grid(), slot, to)
}

// Resources asks a node what stands on it. Only the farm's key may.
func (c *Client) Resources(ctx context.Context, slot canon.Hash, by sign.Signer) (protocol.Resources, error) {
	return call[protocol.Resources](ctx, c, bus.Ask{Slot: slot, Method: bus.MethodResources}, by)
}

// NodeStatus asks a node for its own state. Only the farm's key may.
func (c *Client) NodeStatus(ctx context.Context, slot canon.Hash, by sign.Signer) (protocol.NodeStatus, error) {
	return call[protocol.NodeStatus](ctx, c, bus.Ask{Slot: slot, Method: bus.MethodNode}, by)
}

// WorkloadStatus asks a node for the workloads of one contract, with the
// progress of their files. Only members of the contract's group may.
func (c *Client) WorkloadStatus(ctx context.Context, slot, contractID canon.Hash, by sign.Signer) (protocol.ContractStatus, error) {
	return call[protocol.ContractStatus](ctx, c, bus.Ask{Slot: slot, Contract: contractID, Method: bus.MethodStatus}, by)
}

func call[T any](ctx context.Context, c *Client, a bus.Ask, by sign.Signer) (T, error) {
	var v T
	asker, err := c.asker(ctx, by)
	if err != nil {
		return v, err
	}
	b, err := asker.Call(ctx, a)
	if err != nil {
		return v, err
	}
	if err := canon.Unmarshal(b, &v); err != nil {
		return v, problem.New("reply-invalid", "read the node's answer to %s: %w", a.Method, err)
	}
	return v, nil
}

// Logs calls fn for every record of a workload's log that matches, in order,
// until the end, or for ever with Follow. Only members of the contract's group
// may.
func (c *Client) Logs(ctx context.Context, slot, contractID canon.Hash, params protocol.LogsParams, by sign.Signer, fn func(protocol.LogRecord) error) error {
	b, err := canon.Marshal(params)
	if err != nil {
		return err
	}
	asker, err := c.asker(ctx, by)
	if err != nil {
		return err
	}
	ask := bus.Ask{Slot: slot, Contract: contractID, Method: bus.MethodLogs, Params: b}
	return chunks(ctx, asker, ask, func(chunk []byte) error {
		var records protocol.LogChunk
		if err := canon.Unmarshal(chunk, &records); err != nil {
			return problem.New("reply-invalid", "read the node's log: %w", err)
		}
		for _, r := range records.Records {
			if err := fn(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// chunks calls fn for what a stream brings, until its end.
func chunks(ctx context.Context, asker *bus.Client, ask bus.Ask, fn func([]byte) error) error {
	stream, err := asker.Stream(ctx, ask)
	if err != nil {
		return err
	}
	defer stream.Close()
	for {
		chunk, err := stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(chunk); err != nil {
			return err
		}
	}
}
