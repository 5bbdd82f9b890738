package machine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestMachinesStartInTurns(t *testing.T) {
	run := t.TempDir()
	dir := func(name string) string { return filepath.Join(run, name) }
	var held []*os.File
	for range runtime.NumCPU() {
		f, err := takeTurn(t.Context(), dir("a"))
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, f)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := takeTurn(ctx, dir("b")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("one more than there are processors: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		f, err := takeTurn(t.Context(), dir("c"))
		if err == nil {
			err = f.Close()
		}
		got <- err
	}()
	if err := held[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	for _, f := range held[1:] {
		f.Close()
	}
}
