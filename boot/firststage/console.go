package firststage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/problem"
)

// Console is where people read what the machine does. Every line begins with who
// speaks and is written with one call, so lines of the kernel fall between
// ours, not into them.
type Console struct {
	mu  sync.Mutex
	w   io.Writer
	who string
}

// NewConsole writes to w, normally /dev/console.
func NewConsole(w io.Writer) *Console { return &Console{w: w, who: "zos: "} }

// NewOutput is for a child of process 1, which puts the name of the child before
// each line itself.
func NewOutput(w io.Writer) *Console { return &Console{w: w} }

// reopen goes on with w, after the first console was covered by a mount.
func (c *Console) reopen(w io.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.w = w
}

// Printf prints one line.
func (c *Console) Printf(format string, args ...any) {
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	c.mu.Lock()
	defer c.mu.Unlock()
	// Nothing can be done about a console that takes no line.
	_, _ = io.WriteString(c.w, c.who+printable(line, 800)+"\r\n")
}

// Steps runs steps one after another and remembers how they went.
type Steps struct {
	Console *Console
	// MinWait and MaxWait bound the pause between tries: it doubles from the
	// first to the second.
	MinWait, MaxWait time.Duration
	Done             []boot.Step
}

// action is one try of a step. The detail says in a few words what came of it.
type action func(ctx context.Context) (detail string, err error)

// Run tries a step until it succeeds. Only the end of ctx makes it fail, which
// happens in tests alone: a node never gives up.
func (s *Steps) Run(ctx context.Context, name string, try action) error {
	wait := s.MinWait
	for n := uint64(1); ; n++ {
		err := s.Try(ctx, name, n, wait, try)
		if err == nil {
			return nil
		}
		if err := s.pause(ctx, &wait); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// Try runs a step once. next is how long the caller will wait before the next
// try, for the console; 0 if there will be none.
func (s *Steps) Try(ctx context.Context, name string, n uint64, next time.Duration, try action) error {
	start := time.Now()
	detail, err := guarded(ctx, try)
	took := time.Since(start)
	if err != nil {
		line := fmt.Sprintf("%s … failed %.2fs %s", name, took.Seconds(), explain(err))
		if next > 0 {
			line += fmt.Sprintf("; trying again in %s", next)
		}
		s.Console.Printf("%s", line)
		return err
	}
	s.Console.Printf("%s … ok %.2fs %s", name, took.Seconds(), detail)
	s.Done = append(s.Done, boot.Step{Name: name, Millis: uint64(took.Milliseconds()), Tries: n, Detail: printable(detail, 400)})
	return nil
}

// pause waits and doubles the next wait.
func (s *Steps) pause(ctx context.Context, wait *time.Duration) error {
	t := time.NewTimer(*wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
	}
	*wait = min(2**wait, s.MaxWait)
	return nil
}

// guarded turns a panic into an error: in process 1 it would stop the machine.
func guarded(ctx context.Context, try action) (detail string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error, please report it: %v", r)
		}
	}()
	return try(ctx)
}

// explain is an error in one line: what happened, its code, and what mends it.
func explain(err error) string {
	text := err.Error()
	if code := problem.Code(err); code != "" {
		text += " [" + code + "]"
	}
	if fix := problem.Fix(err); fix != "" {
		text += "; " + fix
	} else if errors.Is(err, context.DeadlineExceeded) {
		text += "; no answer in time"
	}
	return text
}
