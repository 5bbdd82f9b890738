package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/zero-os/zos/client"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"zos": main})
}

// TestScripts plays testdata/script: what people type, and what they get. Every
// command is a process of its own, on one grid that the scripts share; each has
// a copy of its configuration.
func TestScripts(t *testing.T) {
	w := newWorld(t)
	t.Run("foreign statements", func(t *testing.T) { w.foreign(t) })
	t.Run("terminal", func(t *testing.T) { w.terminal(t) })
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			config := filepath.Join(env.WorkDir, ".config")
			if err := os.CopyFS(config, os.DirFS(w.config)); err != nil {
				return err
			}
			env.Setenv(client.ConfigEnv, config)
			env.Setenv("HUB", w.path("hub"))
			env.Setenv("KEYS", w.dir)
			env.Setenv("GENESIS", w.path("genesis.cbor"))
			for name, url := range w.urls {
				env.Setenv(strings.ToUpper(name)+"_URL", url)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"refused": refused, "capture": capture, "flip": flip, "pick": pick, "same": same, "code": code,
		},
	})
}

// refused CODE EXIT ARGS… runs zos, which must fail with a code and exit code.
func refused(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("zos", args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		ts.Fatalf("zos %s: %v, want code %s", strings.Join(args[2:], " "), err, args[0])
	}
	if got := strconv.Itoa(exit.ExitCode()); got != args[1] {
		ts.Fatalf("exit code %s, want %s", got, args[1])
	}
	if !strings.Contains(ts.ReadFile("stderr"), "["+args[0]+"]") {
		ts.Fatalf("no code [%s]", args[0])
	}
}

// capture NAME puts the last output into a variable.
func capture(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// pick NAME FILTER puts what jq finds in the last output into a variable.
func pick(ts *testscript.TestScript, _ bool, args []string) {
	out := ts.ReadFile("stdout")
	cmd := exec.Command("jq", "-r", args[1])
	cmd.Stdin = strings.NewReader(out)
	b, err := cmd.Output()
	if err != nil {
		ts.Fatalf("jq %s: %v (make deps installs it)\n%s", args[1], err, out)
	}
	ts.Setenv(args[0], strings.TrimSpace(string(b)))
}

// flip FILE changes one byte in its middle.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(path, b, 0o644))
}

// same A B compares two values; unlike exec test it leaves the last output.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || (args[0] == args[1]) == neg {
		ts.Fatalf("%q", args)
	}
}

// code EXIT ARGS… runs zos, which must end with that exit code and say nothing itself.
func code(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("zos", args[1:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] || ts.ReadFile("stderr") != "" {
		ts.Fatalf("zos %s: %v, want exit code %s; it says %q", strings.Join(args[1:], " "), err, args[0], ts.ReadFile("stderr"))
	}
}
