package supervisetest

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zero-os/zos/supervise"
)

// complaints is a test that may fail.
type complaints struct{ n []string }

func (c *complaints) Helper()                   {}
func (c *complaints) Errorf(f string, _ ...any) { c.n = append(c.n, f) }
func (c *complaints) Error(args ...any)         { c.n = append(c.n, args[0].(string)) }
func (c *complaints) hasOne(words ...string) bool {
	return len(c.n) == 1 && strings.Contains(c.n[0], words[0])
}

func run(t *testing.T, root supervise.Runnable) *complaints {
	t.Helper()
	before := goleak.IgnoreCurrent()
	began := make(chan struct{}, 1)
	tree := supervise.Start(context.Background(), func(ctx context.Context) error {
		began <- struct{}{}
		return root(ctx)
	}, supervise.DefaultBackoff, nil)
	<-began
	var c complaints
	check(&c, tree, 50*time.Millisecond, before)
	return &c
}

func TestRunnableThatOutlivesTheTestFailsIt(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	if c := run(t, func(context.Context) error { <-release; return nil }); !c.hasOne("a runnable outlives") {
		t.Errorf("complaints: %q", c.n)
	}
}

func TestGoroutineThatOutlivesTheTestFailsIt(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	c := run(t, func(ctx context.Context) error {
		go func() { <-release }()
		<-ctx.Done()
		return ctx.Err()
	})
	if !c.hasOne("a goroutine outlives") {
		t.Errorf("complaints: %q", c.n)
	}
}

func TestWellBehavedRunnablePasses(t *testing.T) {
	if c := run(t, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }); len(c.n) != 0 {
		t.Errorf("complaints: %q", c.n)
	}
	Start(t, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }) // judged at the end of this test
}
