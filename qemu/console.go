package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// maxConsoleLine bounds a line of the console; longer ones are cut in pieces.
const maxConsoleLine = 16 << 10

// pollConsole is how often the console's file is looked at; it is a plain file
// so that it can be read after any crash.
const pollConsole = 10 * time.Millisecond

// Console reads a machine's console from its file, line by line.
type Console struct {
	f    *os.File
	rest []byte
	done <-chan struct{} // closed when nothing more will be written; nil: unknown
}

// Console opens the machine's console at its beginning. Close it after use.
func (vm *VM) Console() (*Console, error) {
	f, err := os.Open(vm.config.Console)
	if err != nil {
		return nil, fmt.Errorf("open console of machine %s: %w", vm.config.Name, err)
	}
	return &Console{f: f, done: vm.done}, nil
}

// Close releases the file.
func (c *Console) Close() error { return c.f.Close() }

// Line returns the next line without its end and without terminal control
// sequences, waiting for it. It returns io.EOF when the machine has ended.
func (c *Console) Line(ctx context.Context) (string, error) {
	tick := time.NewTicker(pollConsole)
	defer tick.Stop()
	for {
		if line, ok := c.take(); ok {
			return line, nil
		}
		// Whether the machine has ended is asked before the last read, so that
		// nothing written in between is lost.
		ended := false
		select {
		case <-c.done:
			ended = true
		default:
		}
		n, err := c.fill()
		if err != nil {
			return "", err
		}
		if n > 0 {
			continue
		}
		if ended {
			if len(c.rest) > 0 {
				line := clean(c.rest)
				c.rest = nil
				return line, nil
			}
			return "", io.EOF
		}
		select {
		case <-tick.C:
		case <-c.done:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (c *Console) take() (string, bool) {
	i := bytes.IndexByte(c.rest, '\n')
	switch {
	case i >= 0:
		line := clean(c.rest[:i])
		c.rest = c.rest[i+1:]
		return line, true
	case len(c.rest) >= maxConsoleLine:
		line := clean(c.rest)
		c.rest = nil
		return line, true
	}
	return "", false
}

func (c *Console) fill() (int, error) {
	buf := make([]byte, 4096)
	n, err := c.f.Read(buf)
	c.rest = append(c.rest, buf[:n]...)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read console: %w", err)
	}
	return n, nil
}

// WaitLine returns the first line from here on that matches, and its submatches
// as regexp.FindStringSubmatch gives them. The error shows the last lines seen.
func (c *Console) WaitLine(ctx context.Context, re *regexp.Regexp) ([]string, error) {
	var last []string
	for {
		line, err := c.Line(ctx)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the machine ended")
			}
			return nil, fmt.Errorf("wait for console line %q: %w; last lines:\n  %s", re, err, strings.Join(last, "\n  "))
		}
		if m := re.FindStringSubmatch(line); m != nil {
			return m, nil
		}
		if last = append(last, line); len(last) > 20 {
			last = last[1:]
		}
	}
}

var controlRE = regexp.MustCompile(`\x1b(\[[0-9;?=]*[A-Za-z]|[=>c])`)

// clean removes what is meant for a terminal: firmware moves the cursor a lot.
func clean(b []byte) string {
	b = controlRE.ReplaceAll(b, nil)
	b = bytes.TrimRight(b, "\r")
	if i := bytes.LastIndexByte(b, '\r'); i >= 0 {
		b = b[i+1:]
	}
	return strings.ToValidUTF8(string(b), "\ufffd")
}
