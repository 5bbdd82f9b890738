package main

import (
	"context"
	"errors"

	"sync"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/workload/control"
)

// maxOutput is how much of what the workload prints waits for the node, in bytes. Then
// the workload waits, so nothing is lost while no shim is there.
const maxOutput = 256 << 10

// part is something that the workload printed.
type part struct {
	stream control.Type
	data   []byte
}

// output is what waits for the node, and how the workload ended.
type output struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	parts   []part
	size    int
	open    int // streams that may still bring something
	ended   bool
	code    int
	fault   error // it never ran
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

// wake tells all who wait. The lock is held.
func (o *output) wake() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// add waits until there is room.
func (o *output) add(p part) {
	o.mu.Lock()
	for o.size >= maxOutput {
		changed := o.changed
		o.mu.Unlock()
		<-changed
		o.mu.Lock()
	}
	o.parts = append(o.parts, p)
	o.size += len(p.data)
	o.wake()
	o.mu.Unlock()
}

// read collects a pipe to its end.
func (o *output) read(fd int, stream control.Type) {
	o.mu.Lock()
	o.open++
	o.mu.Unlock()
	go func() {
		defer unix.Close(fd)
		b := make([]byte, 16<<10)
		for {
			n, err := unix.Read(fd, b)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n <= 0 || err != nil {
				break
			}
			o.add(part{stream, append([]byte(nil), b[:n]...)})
		}
		o.mu.Lock()
		o.open--
		o.wake()
		o.mu.Unlock()
	}()
}

// end says how the workload ended, or why it never ran.
func (o *output) end(code int, fault error) {
	o.mu.Lock()
	o.ended, o.code, o.fault = true, code, fault
	o.wake()
	o.mu.Unlock()
}

// wait returns when the workload has ended.
func (o *output) wait(ctx context.Context) error {
	for {
		o.mu.Lock()
		ended, changed := o.ended, o.changed
		o.mu.Unlock()
		if ended {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// errDisplaced ends a stream of output when another has begun.
var errDisplaced = errors.New("another connection gets the output now")

// send passes everything to the node, the end last. A part that could not be sent stays,
// so the node may get the first one after a break twice.
func (o *output) send(ctx context.Context, c *control.Conn) error {
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		o.mu.Lock()
		switch {
		case len(o.parts) > 0:
			p := o.parts[0]
			o.mu.Unlock()
			if err := c.Write(p.stream, p.data); err != nil {
				return err
			}
			o.mu.Lock()
			if len(o.parts) > 0 && &o.parts[0].data[0] == &p.data[0] {
				o.parts, o.size = o.parts[1:], o.size-len(p.data)
				o.wake()
			}
			o.mu.Unlock()
		case o.ended && o.open == 0:
			code, fault := o.code, o.fault
			o.mu.Unlock()
			if fault != nil {
				return c.Fail(fault)
			}
			return c.Exit(code)
		default:
			changed := o.changed
			o.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}

// drain reads what the node says until it closes.
func drain(c *control.Conn) {
	for {
		if _, _, err := c.Read(); err != nil {
			return
		}
	}
}
