package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// screen gathers what a terminal shows.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	done chan struct{}
}

func watch(r io.Reader) *screen {
	s := &screen{done: make(chan struct{})}
	go func() {
		defer close(s.done)
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			s.mu.Lock()
			s.text.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

// until waits until the screen has shown text, and forgets what came before.
func (s *screen) until(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		shown := s.text.String()
		if i := strings.Index(shown, text); i >= 0 {
			s.text.Next(i + len(text))
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if time.Now().After(end) {
			t.Fatalf("the terminal shows %q, not %q", shown, text)
		}
	}
}

// terminal plays a person at a terminal, and one with a browser.
func (w *world) terminal(t *testing.T) {
	dir := t.TempDir()
	spec := filepath.Join(dir, "term.yaml")
	w.must(os.MkdirAll(filepath.Join(dir, "root"), 0o755))
	w.must(os.WriteFile(filepath.Join(dir, "root", "hello"), []byte("#!/bin/sh\n"), 0o755))
	w.must(os.WriteFile(spec, []byte("apiVersion: zos/v1\nname: term\ngroup: demo\nworkloads:\n  - {name: web, kind: container, image: red/term:1, resources: {cpu: 0.1, memory: 16MiB, disk: 16MiB, pids: 32}}\n"), 0o644))
	w.zos("flist", "build", "--from", filepath.Join(dir, "root"), "--root-owned", "--entrypoint", "/hello", "--tag", "red/term:1")
	out := w.zos("deploy", spec, "--as", "red")
	var proposal string
	for word := range strings.FieldsSeq(w.zos("proposals")) {
		if len(word) >= 8 && strings.Trim(word, "0123456789abcdef") == "" {
			proposal = word
			break
		}
	}
	if proposal == "" {
		t.Fatalf("no proposal in %s", out)
	}
	hash := jsonOf(t, w.zos("proposals", "-o", "json"), ".[0].plan_hash")
	w.zos("approve", proposal, "--as", "green", "--yes", "--plan-hash", hash)
	t.Run("exec", w.typeIntoExec)
	t.Run("console", w.typeIntoConsole)
	t.Run("metrics", w.scrape)
}

func jsonOf(t *testing.T, text, filter string) string {
	t.Helper()
	cmd := exec.Command("jq", "-r", filter)
	cmd.Stdin = strings.NewReader(text)
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("jq %s: %v (make deps installs it)\n%s", filter, err, text)
	}
	return strings.TrimSpace(string(b))
}

// open starts a shell command in a terminal of 24 by 80.
func (w *world) open(t *testing.T, command string) (*os.File, *screen, *exec.Cmd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := w.command(ctx, "sh", "-c", command)
	term, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		t.Fatal(err)
	}
	s := watch(term)
	t.Cleanup(func() { _ = term.Close(); <-s.done })
	return term, s, cmd
}

func (w *world) typeIntoExec(t *testing.T) {
	term, s, cmd := w.open(t, "zos exec -it -e PS1='here> ' demo/term/web -- sh; echo left $?; stty -a")
	keys := func(k string) {
		t.Helper()
		if _, err := io.WriteString(term, k); err != nil {
			t.Fatal(err)
		}
	}
	s.until(t, "here> ")
	keys("stty size\r")
	s.until(t, "24 80")
	s.until(t, "here> ")
	if err := pty.Setsize(term, &pty.Winsize{Rows: 40, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	// The new size takes its way by the node; what is typed meanwhile may be earlier.
	keys("until test \"$(stty size)\" = '40 100'; do sleep 0.1; done; echo resi''zed\r")
	s.until(t, "resized")
	keys("echo wai''ting; sleep 100\r")
	s.until(t, "waiting")
	keys("\x03")
	keys("echo code $?\r")
	s.until(t, "code 130")
	keys("\x10\x11")
	s.until(t, "left 0")
	s.until(t, " icanon") // the terminal is as it was
	s.until(t, " echo")
	if err := cmd.Wait(); err != nil {
		t.Errorf("the shell ended with %v", err)
	}
}

func (w *world) typeIntoConsole(t *testing.T) {
	term, s, cmd := w.open(t, "zos console demo/term; echo left $?")
	s.until(t, "Ctrl-P Ctrl-Q leaves")
	if _, err := io.WriteString(term, "hello\r"); err != nil {
		t.Fatal(err)
	}
	s.until(t, "hello")
	if _, err := io.WriteString(term, "\x10\x11"); err != nil {
		t.Fatal(err)
	}
	s.until(t, "left 0")
	if err := cmd.Wait(); err != nil {
		t.Errorf("the shell ended with %v", err)
	}
}

// scrape asks the exporter like Prometheus, also while a node is unknown.
func (w *world) scrape(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := w.command(ctx, "zos", "metrics", "--listen", "127.0.0.1:0", "-o", "json")
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	line := make([]byte, 200)
	n, err := out.Read(line)
	w.must(err)
	url := jsonOf(t, string(line[:n]), ".url")
	for range 2 {
		r, err := http.Get(url)
		w.must(err)
		b, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		w.must(err)
		if r.StatusCode != 200 || !strings.Contains(string(b), `zos_workload_memory_bytes{contract="demo/term",workload="web",node="node-1"}`) {
			t.Errorf("%s: %s\n%s", url, r.Status, b)
		}
	}
	w.must(cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		t.Errorf("the exporter ended with %v", err)
	}
}

func TestDetachKeysAreHeldBackOnlyAsLongAsNeeded(t *testing.T) {
	for typed, want := range map[string]struct {
		out  string
		left bool
	}{
		"abc": {"abc", false}, "\x10\x11": {"", true}, "a\x10\x11b": {"a", true}, "\x10a": {"\x10a", false}, "\x10\x10\x11": {"\x10", true},
		"\x11\x10": {"\x11", false}, "\x10\x03": {"\x10\x03", false},
	} {
		// As one piece, and key by key.
		for _, pieces := range [][]string{{typed}, strings.Split(typed, "")} {
			var k detachKeys
			var out []byte
			for _, p := range pieces {
				if !k.left {
					out = append(out, k.filter([]byte(p))...)
				}
			}
			if string(out) != want.out || k.left != want.left {
				t.Errorf("%q in %d pieces: %q, left %v; want %q, %v", typed, len(pieces), out, k.left, want.out, want.left)
			}
		}
	}
}
