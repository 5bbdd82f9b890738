package supervise

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// node is one run of a runnable; it travels in the runnable's context.
type node struct {
	tree *Tree
	name string
	ctx  context.Context

	mu       sync.Mutex
	done     bool
	ended    bool
	children sync.WaitGroup
	names    map[string]bool
}

type nodeKey struct{}

func nodeOf(ctx context.Context) *node {
	n, _ := ctx.Value(nodeKey{}).(*node)
	if n == nil {
		panic("supervise: this context is not a runnable's")
	}
	return n
}

// Run starts a child of the runnable whose context is given. It fails if that
// has a child of this name or is ending.
func Run(ctx context.Context, name string, r Runnable) error {
	return RunGroup(ctx, map[string]Runnable{name: r})
}

// RunGroup starts children that end and start again together.
func RunGroup(ctx context.Context, members map[string]Runnable) error {
	n := nodeOf(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended || n.ctx.Err() != nil {
		return fmt.Errorf("start a child of %s: it is ending", n.name)
	}
	for name := range members {
		if n.names[name] {
			return fmt.Errorf("start a child of %s: it has one named %s", n.name, name)
		}
	}
	for name := range members {
		n.names[name] = true
	}
	g := &group{tree: n.tree, prefix: n.name + ".", members: members}
	n.children.Go(func() { g.keep(n.ctx) })
	return nil
}

// Signal says how the runnable whose context is given is.
func Signal(ctx context.Context, s Sign) {
	n := nodeOf(ctx)
	if s == Done {
		n.mu.Lock()
		n.done = true
		n.mu.Unlock()
	}
	n.tree.set(n.name, Running, nil)
}

// group is runnables that live and die together.
type group struct {
	tree    *Tree
	prefix  string
	members map[string]Runnable
}

// keep runs the group until ctx ends or every member is done.
func (g *group) keep(ctx context.Context) {
	for failed := 0; ; {
		began := time.Now()
		if g.once(ctx) || ctx.Err() != nil {
			return
		}
		var pause time.Duration
		failed, pause = g.tree.backoff.Failed(failed, time.Since(began))
		for name := range g.members {
			g.tree.set(g.prefix+name, Waiting, nil)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// once runs all members and waits for all. It returns true if every one is done
// for good.
func (g *group) once(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	alldone := true
	for name, r := range g.members {
		wg.Go(func() {
			if err := g.tree.run(ctx, g.prefix+name, r); err != nil {
				mu.Lock()
				alldone = false
				mu.Unlock()
				cancel()
			}
		})
	}
	wg.Wait()
	return alldone
}

// run calls one runnable and, when it has returned, ends its children. The error
// is nil only if it signalled Done.
func (t *Tree) run(ctx context.Context, name string, r Runnable) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n := &node{tree: t, name: name, names: map[string]bool{}}
	n.ctx = context.WithValue(ctx, nodeKey{}, n)
	t.set(name, Starting, nil)
	err := call(n.ctx, r)
	n.mu.Lock()
	n.ended = true
	done := n.done && err == nil
	n.mu.Unlock()
	if done {
		// A runnable that is done may leave children that do the work.
		t.set(name, Finished, nil)
		n.children.Wait()
		return nil
	}
	if err == nil {
		err = errors.New("returned without being done")
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("cancelled: %w", err)
	}
	cancel()
	n.children.Wait()
	t.forget(name)
	t.set(name, Dead, err)
	return err
}

func call(ctx context.Context, r Runnable) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return r(ctx)
}
