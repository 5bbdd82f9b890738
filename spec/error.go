package spec

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// CodeInvalid is the problem code of a spec that can't be read or planned.
const CodeInvalid = "spec-invalid"

// Mistake is one thing wrong in a spec, with its place and a way to mend it.
type Mistake struct {
	Line    int    // from 1
	Column  int    // from 1, in characters
	Message string // what is wrong
	Fix     string // what to write instead; may be empty
}

// Error is everything wrong with one file.
type Error struct {
	File     string
	Mistakes []Mistake
	lines    []string
}

// Error shows each mistake as file:line:column with the line and a caret.
func (e *Error) Error() string {
	var b strings.Builder
	for i, m := range e.Mistakes {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%d:%d: %s", e.File, m.Line, m.Column, m.Message)
		if m.Line >= 1 && m.Line <= len(e.lines) {
			line := strings.ReplaceAll(e.lines[m.Line-1], "\t", " ")
			pad := max(0, min(m.Column-1, utf8.RuneCountInString(line)))
			fmt.Fprintf(&b, "\n%5d | %s\n      | %s^", m.Line, line, strings.Repeat(" ", pad))
		}
		if m.Fix != "" {
			fmt.Fprintf(&b, "\n      = %s", m.Fix)
		}
	}
	return b.String()
}
