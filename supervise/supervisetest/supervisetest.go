// Package supervisetest runs supervised code in tests and fails the test when
// something of it outlives the test.
package supervisetest

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zero-os/zos/supervise"
)

// Limit is how long runnables may take to return once cancelled.
const Limit = 10 * time.Second

// Start runs root under a tree with short pauses. When the test ends, it stops the
// tree and reports each runnable that does not return within Limit, and each
// goroutine that was not there before.
func Start(t testing.TB, root supervise.Runnable) *supervise.Tree {
	t.Helper()
	before := goleak.IgnoreCurrent()
	b := supervise.Backoff{First: time.Millisecond, Max: 20 * time.Millisecond, Reset: time.Minute}
	tree := supervise.Start(context.Background(), root, b, nil)
	t.Cleanup(func() { check(t, tree, Limit, before) })
	return tree
}

type reporter interface {
	Helper()
	Errorf(format string, args ...any)
	Error(args ...any)
}

func check(t reporter, tree *supervise.Tree, limit time.Duration, before goleak.Option) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := tree.Stop(ctx); err != nil {
		t.Errorf("a runnable outlives the test: %v", err)
		return
	}
	if err := goleak.Find(before); err != nil {
		t.Error("a goroutine outlives the test:", err)
	}
}
