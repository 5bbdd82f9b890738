package control

import (
	"context"
	"errors"
	"net"
	"sync"
)

// Handler answers one request. It returns an error instead of sending one: Serve
// sends it. ctx ends when the server's does; the connection is closed after it.
type Handler func(ctx context.Context, c *Conn, r Request) error

// Serve accepts connections from l and hands each to handle in a goroutine of its
// own, at most n at a time; further ones wait. It returns when ctx ends, which
// closes l and all connections, or l fails, and when every handler has returned.
func Serve(ctx context.Context, l net.Listener, n int, handle Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	room := make(chan struct{}, n)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		raw, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		all.Add(1)
		go func() {
			defer func() { <-room; all.Done() }()
			ServeConn(ctx, raw, handle)
		}()
	}
}

// ServeConn answers the one request of raw and closes it.
func ServeConn(ctx context.Context, raw net.Conn, handle Handler) {
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	c, r, err := Accept(raw)
	if err != nil {
		_ = (&Conn{raw: raw}).Fail(err) // it may be gone already
		return
	}
	if err := handle(ctx, c, r); err != nil {
		_ = c.Fail(err)
	}
}
