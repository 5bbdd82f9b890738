package reap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// next waits for one ended child.
func next(t *testing.T) Exit {
	t.Helper()
	for range 500 {
		e, ok, err := Next()
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			return e
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("no child ended")
	return Exit{}
}

// start starts a shell without anyone but Next waiting for it.
func start(t *testing.T, script string) (pid int) {
	t.Helper()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	pid, err = syscall.ForkExec(sh, []string{"sh", "-c", script}, &syscall.ProcAttr{Env: os.Environ()})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestExitIsKeptUnderPidAndStartTime(t *testing.T) {
	dir := t.TempDir()
	for script, want := range map[string]Exit{
		"exit 7":        {Code: 7},
		"exit 0":        {Code: 0},
		"kill -KILL $$": {Code: -1, Signal: 9},
	} {
		pid := start(t, script)
		e := next(t)
		if e.PID != pid || e.Code != want.Code || e.Signal != want.Signal || e.Start == 0 || e.Comm != "sh" {
			t.Errorf("%s: %+v", script, e)
		}
		if err := Record(dir, e); err != nil {
			t.Fatal(err)
		}
		got, err := Read(dir, e.PID, e.Start)
		if err != nil {
			t.Fatal(err)
		}
		if got.Code != e.Code || got.Signal != e.Signal || got.Comm != e.Comm || got.Time.Unix() != e.Time.Unix() {
			t.Errorf("read %+v, recorded %+v", got, e)
		}
		if _, err := Read(dir, e.PID, e.Start+1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("another process with this pid: %v", err)
		}
	}
}

func TestOrphansOfASubreaperAreReaped(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	parent := start(t, "(sleep 0.2; exit 9) & exit 1")
	codes := map[int]bool{}
	for range 2 {
		e := next(t)
		codes[e.Code] = true
		if e.Code == 1 && e.PID != parent {
			t.Errorf("parent is %d, want %d", e.PID, parent)
		}
	}
	if !codes[1] || !codes[9] {
		t.Errorf("codes %v", codes)
	}
}

func TestNoChildIsNoError(t *testing.T) {
	if _, ok, err := Next(); ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
}

func TestOldestExitsGoFirst(t *testing.T) {
	dir := t.TempDir()
	base := time.Now().Add(-time.Hour)
	for i := range MaxExits {
		path := filepath.Join(dir, name(i+1, 1))
		if err := os.WriteFile(path, []byte("0 0 0 \"x\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		at := base.Add(time.Duration(i) * time.Second)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := Record(dir, Exit{PID: MaxExits + 1, Start: 1}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != MaxExits {
		t.Errorf("%d exits are kept", len(entries))
	}
	if _, err := Read(dir, 1, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the oldest: %v", err)
	}
	if _, err := Read(dir, MaxExits+1, 1); err != nil {
		t.Errorf("the newest: %v", err)
	}
}

func TestNameOfAProcessMayHoldAnything(t *testing.T) {
	rest := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	for _, comm := range []string{"zosd", "a b", "x) S 1", "((", "\n) R 9 9"} {
		s, err := ParseStat([]byte("17 (" + comm + ")" + rest))
		if err != nil || s.PID != 17 || s.Parent != 1 || s.Start != 4242 || s.Comm != comm || s.State != 'S' {
			t.Errorf("%q: %+v, %v", comm, s, err)
		}
	}
	if _, err := ReadStat(os.Getpid()); err != nil {
		t.Error(err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("17 (zosd) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20"))
	f.Add([]byte(")("))
	f.Add([]byte("1 ()"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseStat(b); err != nil && s != (Stat{}) {
			t.Errorf("error %v with %+v", err, s)
		}
	})
}

func FuzzParseExit(f *testing.F) {
	f.Add("3 0 1700000000 \"zosd\"\n")
	f.Add("-1 9 0 \"a\\\"b\"\n")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := parseExit(s)
		if err == nil && strings.Count(fmt.Sprint(e.Code), "-") > 1 {
			t.Errorf("%+v", e)
		}
	})
}
