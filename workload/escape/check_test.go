//go:build !invm

package escape

import (
	"strings"
	"testing"
)

// TestWhatIsNotAsExpectedIsSaid: an attempt that worked, one that was not made, one
// that nobody knows, and output that ends early.
func TestWhatIsNotAsExpectedIsSaid(t *testing.T) {
	good := func(class Class) []Attempt {
		var all []Attempt
		for name, o := range Expected(class) {
			first, _, _ := strings.Cut(string(o), "|")
			if first == "*" {
				first = "ok"
			}
			all = append(all, Attempt{Name: name, Got: first})
		}
		return all
	}
	for _, class := range []Class{Namespace, MicroVM, Privileged} {
		if wrong := Judge(class, good(class)); len(wrong) > 0 {
			t.Errorf("%s: %v", class, wrong)
		}
		if wrong := Judge(class, append(good(class)[1:], Attempt{Name: "new/one", Got: "EPERM"})); len(wrong) != 2 {
			t.Errorf("%s: one missing and one too many: %v", class, wrong)
		}
	}
	for _, c := range []struct {
		class Class
		a     Attempt
		wrong bool
	}{
		{Namespace, Attempt{Name: "mount/tmpfs", Got: "ok"}, true},
		{Namespace, Attempt{Name: "mount/tmpfs", Got: "EACCES"}, true},
		{MicroVM, Attempt{Name: "mount/tmpfs", Got: "ok"}, true},
		{MicroVM, Attempt{Name: "mount/tmpfs", Got: "EACCES"}, false},
		{MicroVM, Attempt{Name: "unshare/user", Got: "ok"}, true},
		{MicroVM, Attempt{Name: "unshare/user", Got: "hang"}, true},
		{Privileged, Attempt{Name: "mount/tmpfs", Got: "ok"}, false},
		{Privileged, Attempt{Name: "leak/descriptors", Got: "ok"}, true},
		{Privileged, Attempt{Name: "vsock/to-host", Got: "ok"}, true},
		{Privileged, Attempt{Name: "reach/metadata", Got: "ok"}, true},
	} {
		all := good(c.class)
		for i := range all {
			if all[i].Name == c.a.Name {
				all[i] = c.a
			}
		}
		if wrong := Judge(c.class, all); (len(wrong) > 0) != c.wrong {
			t.Errorf("%s %+v: %v", c.class, c.a, wrong)
		}
	}
	if _, err := Parse("{\"name\":\"a\",\"got\":\"EPERM\"}\n"); err == nil {
		t.Error("output that ends early was taken")
	}
	if _, err := Parse("nonsense\nend\n"); err == nil {
		t.Error("nonsense was taken")
	}
}

// TestNodeTellsWhatChanged: a comparison that can't fail proves nothing.
func TestNodeTellsWhatChanged(t *testing.T) {
	a := TakeNode()
	b := TakeNode()
	if d := a.Differences(b); len(d) > 0 {
		t.Errorf("two looks at one node differ: %v", d)
	}
	b["/proc/sys/kernel/core_pattern"] = "|/escape"
	if d := a.Differences(b); len(d) != 1 || !strings.Contains(d[0], "core_pattern") {
		t.Errorf("a changed core_pattern: %v", d)
	}
}
