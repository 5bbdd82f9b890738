package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// texts are the text records that the name server answers, for those who wait for
// one.
type texts struct {
	mu      sync.Mutex
	now     map[string][]string
	changed chan struct{} // closed and made anew when they change
}

func newTexts() *texts { return &texts{changed: make(chan struct{})} }

func (t *texts) set(now map[string][]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = now
	close(t.changed)
	t.changed = make(chan struct{})
}

// await waits until text is among the records of name.
func (t *texts) await(ctx context.Context, name, text string) error {
	for {
		t.mu.Lock()
		there, changed := slices.Contains(t.now[name], text), t.changed
		t.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the record: %w", context.Cause(ctx))
		}
	}
}
