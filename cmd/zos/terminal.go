package main

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/term"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/node/protocol"
)

// terminal is a person's, lent to a program far away: every key goes there, and its
// size is told when it changes.
type terminal struct {
	in      *os.File
	before  *term.State // nil: it was not changed
	control chan protocol.UpFrame
	resized chan os.Signal
	stop    chan struct{}
	done    sync.WaitGroup
	keys    detachKeys
}

// openTerminal lends the terminal on standard input, raw if its keys are to go
// there. The caller gives it back with close.
func openTerminal(raw bool) (*terminal, error) {
	t := &terminal{in: os.Stdin, control: make(chan protocol.UpFrame, 1), resized: make(chan os.Signal, 1), stop: make(chan struct{})}
	if raw && term.IsTerminal(int(t.in.Fd())) {
		before, err := term.MakeRaw(int(t.in.Fd()))
		if err != nil {
			return nil, fmt.Errorf("use the terminal: %w", err)
		}
		t.before = before
	}
	signal.Notify(t.resized, syscall.SIGWINCH)
	t.done.Go(t.follow)
	return t, nil
}

// close gives the terminal back as it was.
func (t *terminal) close() {
	signal.Stop(t.resized)
	close(t.stop)
	t.done.Wait()
	if t.before != nil {
		_ = term.Restore(int(t.in.Fd()), t.before) // the terminal may be gone
	}
}

// size is the terminal's; 24 by 80 where there is none.
func (t *terminal) size() (rows, cols uint64) {
	for _, f := range []*os.File{os.Stdout, t.in} {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			return uint64(min(h, protocol.MaxWindow-1)), uint64(min(w, protocol.MaxWindow-1))
		}
	}
	return 24, 80
}

// follow tells each new size.
func (t *terminal) follow() {
	for {
		select {
		case <-t.resized:
		case <-t.stop:
			return
		}
		rows, cols := t.size()
		select {
		case t.control <- protocol.UpFrame{Kind: protocol.FrameResize, Rows: rows, Cols: cols}:
		case <-t.stop:
			return
		}
	}
}

// Read gives what is typed, until the keys that leave.
func (t *terminal) Read(b []byte) (int, error) {
	if t.keys.left {
		return 0, client.Detached{}
	}
	for {
		// One place is kept for a Ctrl-P that was held back.
		n, err := t.in.Read(b[:len(b)-1])
		out := t.keys.filter(b[:n:len(b)])
		n = copy(b, out)
		if t.keys.left && n == 0 {
			return 0, client.Detached{}
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// detachKeys looks for Ctrl-P Ctrl-Q in what is typed.
type detachKeys struct {
	held bool // a Ctrl-P came last
	left bool
}

const (
	ctrlP = 'P' - '@'
	ctrlQ = 'Q' - '@'
)

// filter returns what goes on to the program.
func (k *detachKeys) filter(typed []byte) []byte {
	out := make([]byte, 0, len(typed)+1)
	for _, b := range typed {
		switch {
		case k.held && b == ctrlQ:
			k.left = true
			return out
		case k.held && b == ctrlP:
			out = append(out, ctrlP)
		case k.held:
			out = append(out, ctrlP, b)
			k.held = false
		case b == ctrlP:
			k.held = true
		default:
			out = append(out, b)
		}
	}
	return out
}
