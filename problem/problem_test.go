package problem

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestCodeAndAdviceAreFoundThroughContext(t *testing.T) {
	inner := New("disk-full", "write object %d: %w", 7, io.ErrShortWrite).WithFix("free %d bytes", 9)
	err := fmt.Errorf("fetch: %w", inner)
	if Code(err) != "disk-full" || Fix(err) != "free 9 bytes" {
		t.Errorf("code %q, fix %q", Code(err), Fix(err))
	}
	if err.Error() != "fetch: write object 7: short write" {
		t.Errorf("text %q", err)
	}
	if !errors.Is(err, io.ErrShortWrite) {
		t.Error("the cause is lost")
	}
}

func TestOutermostCodeAndFirstAdviceCount(t *testing.T) {
	inner := New("object-missing", "fetch").WithFix("ask the hub")
	outer := New("start-failed", "start: %w", fmt.Errorf("mount: %w", inner))
	if Code(outer) != "start-failed" || Fix(outer) != "ask the hub" {
		t.Errorf("code %q, fix %q", Code(outer), Fix(outer))
	}
}

func TestWithFixLeavesTheOriginalAlone(t *testing.T) {
	e := New("a", "b")
	_ = e.WithFix("c")
	if e.Fix != "" {
		t.Error("changed")
	}
}

func TestOtherErrorsHaveNeither(t *testing.T) {
	for _, err := range []error{nil, io.EOF, New("a", "b").Err} {
		if Code(err) != "" || Fix(err) != "" {
			t.Errorf("%v: code %q, fix %q", err, Code(err), Fix(err))
		}
	}
}
