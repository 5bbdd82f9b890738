package firststage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/problem"
)

func TestStepIsTriedUntilItSucceedsAndSaysSo(t *testing.T) {
	var out bytes.Buffer
	s := Steps{Console: NewConsole(&out), MinWait: time.Millisecond, MaxWait: 2 * time.Millisecond}
	n := 0
	err := s.Run(context.Background(), "thing", func(context.Context) (string, error) {
		n++
		switch n {
		case 1:
			return "", problem.New("thing-missing", "look for it:\nnot there").WithFix("put it there")
		case 2:
			panic("oops")
		case 3, 4:
			return "", errors.New("again")
		}
		return "found\x1b[2J", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\r\n"), "\r\n")
	if len(lines) != 5 {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	for i, want := range []string{
		"look for it:; not there [thing-missing]; put it there; trying again in 1ms",
		"internal error, please report it: oops; trying again in 2ms",
		"again; trying again in 2ms",
		"again; trying again in 2ms",
		"zos: thing … ok 0.00s found?[2J",
	} {
		if !strings.HasPrefix(lines[i], "zos: thing … ") || !strings.HasSuffix(lines[i], want) {
			t.Errorf("line %d is %q, want … %q", i, lines[i], want)
		}
	}
	if len(s.Done) != 1 || s.Done[0].Tries != 5 || s.Done[0].Name != "thing" {
		t.Errorf("remembered %+v", s.Done)
	}
}

func TestStepEndsOnlyWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	s := Steps{Console: NewConsole(&bytes.Buffer{}), MinWait: time.Hour, MaxWait: time.Hour}
	err := s.Run(ctx, "thing", func(context.Context) (string, error) {
		cancel()
		return "", errors.New("no")
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestRootOfAnyoneButProcessOneIsNeverEmptied(t *testing.T) {
	dir, err := os.MkdirTemp(".", "not-memory-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	emptyRoot(dir, "/nowhere")
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
}
