package main

import (
	"strings"
	"testing"
)

func TestProgramRunsAndItsEndEndsTheMachine(t *testing.T) {
	for name, erofs := range map[string]bool{"virtiofs": false, "erofs": true} {
		t.Run(name, func(t *testing.T) {
			m := start(t, options{erofs: erofs})
			s := m.connect()
			c := m.run(s, m.program("exit", "7"))
			h := listen(t, c, "")
			if h.code != 7 || h.out != "out\n" || h.err != "err\n" || h.fault != nil {
				t.Fatalf("%+v", h)
			}
			m.ends(c)
			if text := m.ConsoleText(t); strings.Contains(text, "panic") {
				t.Error(text)
			}
		})
	}
}
