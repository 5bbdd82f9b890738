package bus

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// code is the problem code of an error, "internal" for one without.
func code(err error) string {
	if c := problem.Code(err); c != "" {
		return c
	}
	return "internal"
}

// told is the code and the message by which a reply says an error.
func told(err error) (string, string) {
	return clip(code(err), MaxCode), clip(err.Error(), MaxMessage)
}

// heard is the error that the reply of the node in a slot says.
func heard(slot canon.Hash, code, message string) error {
	return &problem.Error{Code: code, What: fmt.Sprintf("node %s: %s", slot.Short(), clip(message, MaxMessage))}
}

// clip makes s one line of valid text of at most n bytes.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\n", " "), "?")
	if len(s) <= n {
		return s
	}
	s = s[:n]
	for len(s) > 0 && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}
