package qemu

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// openTestConsole is a console whose file the test writes and whose machine
// ends when end is called.
func openTestConsole(t *testing.T) (c *Console, write func(string), end func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "console")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	c = &Console{f: f, done: done}
	t.Cleanup(func() { c.Close(); w.Close() })
	return c, func(s string) {
		if _, err := w.WriteString(s); err != nil {
			t.Error(err)
		}
	}, func() { close(done) }
}

func wantLine(t *testing.T, c *Console, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	got, err := c.Line(ctx)
	if err != nil || got != want {
		t.Errorf("line %q, %v; want %q", got, err, want)
	}
}

func TestConsoleLinesAreWhole(t *testing.T) {
	c, write, end := openTestConsole(t)
	write("first\r\nsec")
	wantLine(t, c, "first")
	go func() {
		time.Sleep(30 * time.Millisecond) // while Line waits
		write("ond\r\n\x1b[2J\x1b[01;01Hthird\n\xff\nlast without an end")
	}()
	wantLine(t, c, "second")
	wantLine(t, c, "third")
	wantLine(t, c, "\ufffd")
	end()
	wantLine(t, c, "last without an end")
	if _, err := c.Line(context.Background()); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestEndlessLineIsCut(t *testing.T) {
	c, write, _ := openTestConsole(t)
	write(strings.Repeat("x", 3*maxConsoleLine))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	line, err := c.Line(ctx)
	if err != nil || len(line) < maxConsoleLine || len(line) > 2*maxConsoleLine {
		t.Errorf("line of %d bytes, %v", len(line), err)
	}
}

func TestWaitingHasADeadlineAndShowsWhatWasSeen(t *testing.T) {
	c, write, end := openTestConsole(t)
	write("booting\npanic: no root\n")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := c.WaitLine(ctx, regexp.MustCompile("ready"))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "panic: no root") {
		t.Errorf("error is %v", err)
	}
	end()
	if _, err = c.WaitLine(context.Background(), regexp.MustCompile("ready")); err == nil || !strings.Contains(err.Error(), "the machine ended") {
		t.Errorf("error is %v", err)
	}
}
