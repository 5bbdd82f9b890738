package supervise

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"
)

// Runnable does one thing until its context ends.
type Runnable func(ctx context.Context) error

// Sign is what a runnable says of itself.
type Sign int

// Signs.
const (
	Healthy Sign = iota + 1 // it has started and does its work
	Done                    // it is about to return nil and must not be started again
)

// Phase is where a runnable is in its life.
type Phase string

// Phases.
const (
	Starting Phase = "starting" // runs, has not signalled yet
	Running  Phase = "healthy"
	Finished Phase = "done"
	Dead     Phase = "dead"    // returned, its group is being ended
	Waiting  Phase = "backoff" // will be started again
)

// State is what the tree knows of one runnable.
type State struct {
	Name     string // path from the root, "root.network.dhcp"
	Phase    Phase
	Err      error // why it last ended; nil if it never failed
	Since    time.Time
	Restarts int
}

// Tree is a running supervision tree.
type Tree struct {
	backoff Backoff
	cancel  context.CancelFunc
	done    chan struct{}

	mu     sync.Mutex
	states map[string]*State
	notify func(State)
}

// Start runs root under a new tree until ctx ends or Stop is called. If notify is
// not nil it hears of every change of a state, in order; it must not block nor
// call the tree.
func Start(ctx context.Context, root Runnable, backoff Backoff, notify func(State)) *Tree {
	ctx, cancel := context.WithCancel(ctx)
	t := &Tree{backoff: backoff, cancel: cancel, done: make(chan struct{}), states: map[string]*State{}, notify: notify}
	g := &group{tree: t, members: map[string]Runnable{"root": root}}
	go func() {
		defer close(t.done)
		g.keep(ctx)
	}()
	return t
}

// Stop cancels every runnable and waits until all have returned or ctx ends; then
// the error names those that have not.
func (t *Tree) Stop(ctx context.Context) error {
	t.cancel()
	return t.Wait(ctx)
}

// Wait waits until the tree has ended.
func (t *Tree) Wait(ctx context.Context) error {
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
	}
	var still []string
	for _, s := range t.States() {
		if s.Phase == Starting || s.Phase == Running {
			still = append(still, s.Name)
		}
	}
	return fmt.Errorf("wait for runnables %v: %w", still, context.Cause(ctx))
}

// States returns what runs or waits now, by name.
func (t *Tree) States() []State {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]State, 0, len(t.states))
	for _, s := range t.states {
		out = append(out, *s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func (t *Tree) set(name string, p Phase, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.states[name]
	if s == nil {
		s = &State{Name: name}
		t.states[name] = s
	} else if p == Starting {
		s.Restarts++
	}
	s.Phase, s.Since = p, time.Now()
	if err != nil {
		s.Err = err
	}
	if t.notify != nil {
		t.notify(*s)
	}
}

// forget drops what lay below a runnable that has ended: it may start other
// children next time.
func (t *Tree) forget(parent string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := range t.states {
		if strings.HasPrefix(n, parent+".") {
			delete(t.states, n)
		}
	}
}
