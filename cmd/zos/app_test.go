package main

import (
	"bytes"
	"testing"

	"github.com/zero-os/zos/problem"
)

// TestAnErrorSteersNoTerminal plays a node or a hub whose words hold escape
// sequences.
func TestAnErrorSteersNoTerminal(t *testing.T) {
	var b bytes.Buffer
	a := &app{err: &b, noColor: true}
	a.fail(problem.New("node-busy", "it says \x1b[2J\r\u009b31m\n\tand more").WithFix("\x07wait"))
	if got, want := b.String(), "zos: it says ·[2J··31m\n\tand more [node-busy]\n  fix: ·wait\n"; got != want {
		t.Fatalf("%q, want %q", got, want)
	}
}
