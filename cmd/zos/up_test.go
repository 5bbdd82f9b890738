package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/grid"
)

func writeState(t *testing.T, dir string, s grid.State) {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "up.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestADetachedGridIsAwaited plays what a starting grid may leave in its
// directory, and its early end.
func TestADetachedGridIsAwaited(t *testing.T) {
	dir := t.TempDir()
	// A grid that was killed has left its state: it is not ours.
	writeState(t, dir, grid.State{PID: 1, Ready: true})
	short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := awaitGrid(short, dir, 2, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a stale state gave %v", err)
	}
	writeState(t, dir, grid.State{PID: 2, Ready: true})
	if s, err := awaitGrid(t.Context(), dir, 2, nil); err != nil || s.PID != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	ended := make(chan error, 1)
	ended <- errors.New("exit status 1")
	if _, err := awaitGrid(t.Context(), t.TempDir(), 2, ended); !errors.Is(err, errGridEnded) || !strings.Contains(err.Error(), "exit status 1") {
		t.Fatalf("an early end gave %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "up.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := awaitGrid(t.Context(), dir, 2, nil); err == nil {
		t.Fatal("a damaged state was taken")
	}
}

// TestAnUnwantedGridIsWaitedFor plays a detached process that needs a moment to
// end: when endGrid returns it is gone.
func TestAnUnwantedGridIsWaitedFor(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := endGrid(cmd.Process, ended); err != nil {
		t.Fatal(err)
	}
	if cmd.ProcessState == nil {
		t.Fatal("the process still runs")
	}
}

func TestPublicAddressesAreToldWithTheirPorts(t *testing.T) {
	var b bytes.Buffer
	a := &app{out: &b, err: &b}
	a.publicSide(grid.State{Nodes: []grid.NodeState{{}, {Public: map[string]string{
		"198.51.100.17:443/tcp": "127.0.0.1:7/tcp", "198.51.100.16:30000/udp": "127.0.0.1:30/udp", "198.51.100.16:443/tcp": "127.0.0.1:9/tcp", "198.51.100.16:53/udp": "127.0.0.1:8/udp",
	}}}})
	if got, want := b.String(), "\nPublic addresses are ports of 127.0.0.1 here:\n  198.51.100.16  53/udp=8 443/tcp=9 30000/udp=30\n  198.51.100.17  443/tcp=7\n"; got != want {
		t.Errorf("%q", got)
	}
	b.Reset()
	if a.publicSide(grid.State{}); b.Len() != 0 {
		t.Errorf("%q", b.String())
	}
}

func TestAProofIsTakenAsItStandsInAZone(t *testing.T) {
	for _, text := range []string{`zos1 a b`, `"zos1 a b"`, `"zos1 a" " b"`, `_zos.x. TXT "zos1" " a b"`} {
		if got := unquoted(text); got != "zos1 a b" {
			t.Errorf("%s: %q", text, got)
		}
	}
}
