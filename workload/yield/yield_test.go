package yield

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zero-os/zos/linux/cgroup"
)

func TestWhoComputesWithoutAPauseYieldsUntilItIsCalm(t *testing.T) {
	yes := state{yields: true}
	for _, c := range []struct {
		name string
		was  state
		part float64
		want state
	}{
		{"a quiet one", state{}, 0.1, state{}},
		{"one that is at it", state{}, 0.69, state{}},
		{"one that uses all", state{}, 1, yes},
		{"one that goes on", yes, 0.9, yes},
		{"one that pauses a little", yes, 0.6, yes},
		{"one that pauses", yes, 0.1, state{true, 1}},
		{"one that paused, and goes on", state{true, 4}, 0.8, yes},
		{"one that paused, and is half at it", state{true, 4}, 0.55, yes},
		{"one that has paused for long enough", state{true, looks - 1}, 0.1, state{}},
	} {
		if got := c.was.next(c.part); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// node is a tree of cgroups that are plain files.
type node struct {
	*testing.T
	dir string
	w   *Watch
	now time.Time
}

func (n *node) write(group, file, content string) {
	n.Helper()
	if err := os.MkdirAll(filepath.Join(n.dir, group), 0o755); err != nil {
		n.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.dir, group, file), []byte(content), 0o644); err != nil {
		n.Fatal(err)
	}
}

// used sets what the group has used, in milliseconds, and limit its cpu.max.
func (n *node) used(group, limit string, ms int) {
	n.write(group, "cpu.max", limit+"\n")
	n.write(group, "cpu.stat", fmt.Sprintf("usage_usec %d\nuser_usec 0\n", ms*1000))
}

func (n *node) look() {
	n.Helper()
	n.now = n.now.Add(time.Second)
	if err := n.w.Look(n.now); err != nil {
		n.Fatal(err)
	}
}

func (n *node) yields(group, want string) {
	n.Helper()
	b, _ := os.ReadFile(filepath.Join(n.dir, group, "cpu.idle"))
	if string(b) != want {
		n.Errorf("%s: cpu.idle %q, want %q", group, b, want)
	}
}

func TestOnlyTheBusyYield(t *testing.T) {
	n := &node{T: t, dir: t.TempDir(), now: time.Unix(1e9, 0)}
	n.w = New(cgroup.Group(n.dir))
	n.w.cores = 2
	for i := range 3 {
		n.used("busy", "50000 100000", 1000+i*500)
		n.used("light", "50000 100000", 7000+i*50)
		n.used("wide", "800000 100000", i*1900) // more than there is
		n.used("own", "max 100000", i*5000)     // one of the node's
		n.look()
	}
	n.yields("busy", "1")
	n.yields("wide", "1")
	n.yields("light", "")
	n.yields("own", "")
	// Started again under its name it begins anew.
	if err := os.RemoveAll(filepath.Join(n.dir, "busy")); err != nil {
		t.Fatal(err)
	}
	n.used("busy", "50000 100000", 10)
	n.look()
	n.yields("busy", "")
	n.used("busy", "50000 100000", 510)
	n.look()
	n.yields("busy", "1")
	for i := range looks {
		n.yields("busy", "1")
		n.used("busy", "50000 100000", 510+i)
		n.look()
	}
	n.yields("busy", "0")
	// One that yields already does so until it has been seen to leave time: to a watch that
	// is new, and under a name that is known, whatever it has used by then.
	n.write("light", "cpu.idle", "1")
	n.used("light", "50000 100000", 9000)
	n.look()
	n.yields("light", "1")
	n.used("light", "50000 100000", 9050)
	n.look()
	n.yields("light", "0")
	n.write("light", "cpu.idle", "1")
	n.w = New(cgroup.Group(n.dir))
	n.w.cores = 2
	for i := range 2 {
		n.yields("light", "1")
		n.used("light", "50000 100000", 9100+i*50)
		n.look()
	}
	n.yields("light", "0")
	n.write("light", "cpu.idle", "1")
	for i := range 3 {
		n.used("light", "50000 100000", 9200+i*500)
		n.look()
		n.yields("light", "1")
	}
	// One that has gone is forgotten.
	if err := os.RemoveAll(filepath.Join(n.dir, "wide")); err != nil {
		t.Fatal(err)
	}
	n.look()
	if _, known := n.w.known["wide"]; known || len(n.w.known) != 2 {
		t.Errorf("%+v", n.w.known)
	}
}
