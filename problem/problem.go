// Package problem is the one shape of an error that reaches people: a stable
// code, what was attempted, and what would mend it.
//
// Codes are kebab-case, documented in docs/reference/errors.md, and never
// change their meaning. An error without a code is internal.
package problem

import (
	"errors"
	"fmt"
)

// Error is a failure with a code. Wrap it with fmt.Errorf("doing x: %w", err)
// to add context; Code still finds it.
type Error struct {
	Code string // kebab-case, e.g. "digest-mismatch"
	What string // what was attempted and what went wrong, one line
	Fix  string // what a person can do about it; may be empty
	Err  error  // the cause; may be nil
}

// New makes an Error from a code, a formatted description (%w keeps a cause),
// and no fix.
func New(code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, What: err.Error(), Err: errors.Unwrap(err)}
}

// WithFix returns the error with the advice fix.
func (e *Error) WithFix(format string, args ...any) *Error {
	c := *e
	c.Fix = fmt.Sprintf(format, args...)
	return &c
}

// Error returns the description, without code and fix, which the CLI shows apart.
func (e *Error) Error() string { return e.What }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Code returns the code of the outermost Error in err's chain, or "" if none.
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Fix returns the first advice found in err's chain, or "".
func Fix(err error) string {
	for {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Fix != "" {
			return e.Fix
		}
		err = e.Err
	}
}
