//go:build !invm

package vmtest

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// recorder is a test that may fail without failing the real one.
type recorder struct {
	testing.TB // for TempDir and Helper
	cleanups   []func()
	failed     bool
	said       strings.Builder
}

func (r *recorder) note(s string)                     { fmt.Fprintln(&r.said, s) }
func (r *recorder) Failed() bool                      { return r.failed }
func (r *recorder) Cleanup(f func())                  { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Log(args ...any)                   { r.note(fmt.Sprint(args...)) }
func (r *recorder) Logf(format string, args ...any)   { r.note(fmt.Sprintf(format, args...)) }
func (r *recorder) Error(args ...any)                 { r.failed = true; r.note(fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.Error(fmt.Sprintf(format, args...)) }
func (r *recorder) Fatal(args ...any)                 { r.Error(args...); runtime.Goexit() }
func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }

// record runs f as a test would be run, cleanups included.
func record(t *testing.T, f func(testing.TB)) *recorder {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for i := len(r.cleanups) - 1; i >= 0; i-- {
				r.cleanups[i]()
			}
		}()
		f(r)
	}()
	<-done
	return r
}

// TestNoFailureInTheMachineIsLost is the test of the tests: whatever goes wrong
// inside must fail the outside, and show the console.
func TestNoFailureInTheMachineIsLost(t *testing.T) {
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"a test fails":         {Options{Run: "^TestFails$"}, "this test fails"},
		"the kernel panics":    {Options{Run: "^TestPanics$"}, "Kernel panic"},
		"the tests are killed": {Options{Run: "^TestIsKilled$"}, "exit code 137"},
		"a test hangs":         {Options{Run: "^TestHangs$", Timeout: 15 * time.Second}, "TestHangs"},
		"no test matches":      {Options{Run: "^TestNothing$"}, "none ran"},
	} {
		t.Run(name, func(t *testing.T) {
			r := record(t, func(tb testing.TB) { RunInVM(tb, "./internal/failing", c.o) })
			if !r.failed || !strings.Contains(r.said.String(), c.want) {
				t.Errorf("failed %t, said:\n%s", r.failed, r.said.String())
			}
		})
	}
	r := record(t, func(tb testing.TB) { RunInVM(tb, "./internal/failing", Options{Modules: []string{"no_such_module"}}) })
	if !r.failed || !strings.Contains(r.said.String(), "no_such_module") {
		t.Errorf("unknown module: failed %t, said:\n%s", r.failed, r.said.String())
	}
}
