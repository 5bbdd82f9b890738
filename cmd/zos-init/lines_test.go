package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/boot/firststage"
)

// stuck is a console that takes nothing until it is released.
type stuck struct {
	mu   sync.Mutex
	gate chan struct{}
	out  bytes.Buffer
}

func (s *stuck) Write(b []byte) (int, error) {
	<-s.gate
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(b)
}

func (s *stuck) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

func TestChildNeverWaitsForAStuckConsole(t *testing.T) {
	console := &stuck{gate: make(chan struct{})}
	l := newLines(firststage.NewConsole(console))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l.follow("zosd", r)
	wrote := make(chan error, 1)
	go func() {
		// More than a pipe and the queue hold together.
		_, err := io.WriteString(w, strings.Repeat(strings.Repeat("x", 99)+"\n", 20000))
		wrote <- err
	}()
	select {
	case err := <-wrote:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the child waits for the console")
	}
	close(console.gate)
	if _, err := io.WriteString(w, "last\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	deadline := time.Now().Add(30 * time.Second)
	for !strings.Contains(console.String(), "xxx") {
		if time.Now().After(deadline) {
			t.Fatalf("nothing came through: %q", console.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := strings.Count(console.String(), "\n"); n > 2*burst {
		t.Errorf("%d lines came through", n)
	}
}

func TestLongLinesAreCutNotSplit(t *testing.T) {
	br := bufio.NewReaderSize(strings.NewReader(strings.Repeat("y", 10*maxLine)+"\nnext\nend"), maxLine)
	var got []string
	for {
		text, err := readLine(br)
		if text != "" {
			got = append(got, text)
		}
		if err != nil {
			break
		}
	}
	if len(got) != 3 || len(got[0]) != maxLine || got[1] != "next" || got[2] != "end" {
		t.Errorf("%d lines, the first of %d bytes", len(got), len(got[0]))
	}
}

func TestRateIsBoundedInTheLongRun(t *testing.T) {
	now := time.Now()
	b := &limiter{tokens: burst, last: now}
	passed := 0
	for range 10000 {
		if b.allow(now) {
			passed++
		}
		now = now.Add(time.Millisecond)
	}
	if want := burst + 10*perSecond; passed < want-2 || passed > want+2 {
		t.Errorf("%d lines in 10 s, want %d", passed, want)
	}
}

func TestWaitGrowsAndIsForgottenAfterASteadyRun(t *testing.T) {
	p := &process{started: time.Now()}
	var waits []time.Duration
	for range 9 {
		p.ended()
		waits = append(waits, p.wait)
	}
	if waits[0] != firstWait || waits[1] != 2*firstWait || waits[8] != lastWait {
		t.Errorf("waits %v", waits)
	}
	p.started = time.Now().Add(-2 * steady)
	if p.ended(); p.wait != firstWait {
		t.Errorf("after a steady run: %s", p.wait)
	}
}

func TestOutsideProcessOneItDoesNothing(t *testing.T) {
	for _, args := range [][]string{nil, {"x"}, {"network", "x"}, {"second"}} {
		if code := child(args); code != 2 {
			t.Errorf("%q: code %d", args, code)
		}
	}
}
