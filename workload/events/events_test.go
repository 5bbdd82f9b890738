package events

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/workload"
)

var web = workload.ID{Contract: canon.Sum([]byte("c")), Name: "web"}

func TestEventsSurviveTheirWriter(t *testing.T) {
	dir := t.TempDir()
	want := []Event{
		{Kind: Started, Version: 2},
		{Kind: Exec, Who: "SHA256:abc", Request: canon.Sum([]byte("r")).String(), Argv: []string{"sh", "-c", "echo\n\"a\""}},
		{Kind: Exited, Code: 137, Reason: "oom", Detail: "too\nmuch"},
	}
	for _, e := range want { // each by a writer of its own
		b := Open(dir)
		if err := b.Add(web, e); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got, next, err := Open(dir).Read(web, 1, 100)
	if err != nil || len(got) != len(want) || next != 4 {
		t.Fatalf("%v, next %d: %+v", err, next, got)
	}
	want[1].Argv[2], want[2].Detail = `echo "a"`, "too much"
	for i, e := range got {
		if e.Sequence != uint64(i+1) || e.Time.IsZero() {
			t.Errorf("event %d has number %d, time %v", i, e.Sequence, e.Time)
		}
		e.Sequence, e.Time = 0, want[i].Time
		if !reflect.DeepEqual(e, want[i]) {
			t.Errorf("got %+v, want %+v", e, want[i])
		}
	}
}

func TestNoEventsAreNoError(t *testing.T) {
	if got, _, err := Open(filepath.Join(t.TempDir(), "none")).Read(web, 1, 10); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestOldEventsGiveWay(t *testing.T) {
	dir := t.TempDir()
	b := Open(dir)
	for range 4000 {
		if err := b.Add(web, Event{Kind: Exec, Detail: strings.Repeat("x", 10*MaxDetail)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	size := int64(0)
	if err := filepath.WalkDir(dir, func(_ string, e os.DirEntry, _ error) error {
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() {
			size += st.Size()
		}
		return nil
	}); err != nil || size > Bound {
		t.Errorf("%v: the ring has %d bytes, at most %d are allowed", err, size, Bound)
	}
	got, _, err := b.Read(web, 1, 1<<20)
	if err != nil || len(got) == 0 || got[0].Sequence < 2 || got[len(got)-1].Sequence != 4000 {
		t.Errorf("%v: %d events are left", err, len(got))
	}
}

func TestAFollowerSeesWhatComes(t *testing.T) {
	b := Open(t.TempDir())
	defer b.Close()
	if err := b.Add(web, Event{Kind: Started}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var kinds []string
	for e, err := range b.Follow(ctx, web, 1) {
		if err != nil {
			t.Fatal(err)
		}
		if kinds = append(kinds, e.Kind); len(kinds) == 2 {
			break
		}
		if err := b.Add(web, Event{Kind: Ready}); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Join(kinds, " ") != "started ready" {
		t.Errorf("saw %v", kinds)
	}
}

func TestAContractsEventsGoWithIt(t *testing.T) {
	b := Open(t.TempDir())
	defer b.Close()
	other := workload.ID{Contract: canon.Sum([]byte("d")), Name: "web"}
	for _, id := range []workload.ID{web, other} {
		if err := b.Add(id, Event{Kind: Started}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Forget(func(c string) bool { return c == web.Contract.String() }); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[workload.ID]int{web: 1, other: 0} {
		if got, _, err := b.Read(id, 1, 10); err != nil || len(got) != want {
			t.Errorf("%d events are left, %v, want %d", len(got), err, want)
		}
	}
	if err := b.Add(other, Event{Kind: Started}); err != nil {
		t.Errorf("a contract that comes again: %v", err)
	}
}

func FuzzDecodeEvent(f *testing.F) {
	for _, e := range []Event{{Kind: Started}, {Kind: Exec, Request: canon.Hash{1}.String(), Argv: []string{"ls", "\x00"}}} {
		b, err := e.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decode(b)
		if err != nil {
			return
		}
		line, err := e.encode()
		if err != nil || bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("%v: %q", err, line)
		}
		if len(e.Detail) > MaxDetail || len(e.Argv) > MaxArgs || len(e.Kind) > 64 {
			t.Fatalf("%+v is out of its bounds", e)
		}
		again, err := decode(line)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := again.encode(); err != nil || !bytes.Equal(second, line) {
			t.Fatalf("%q became %q, %v", line, second, err)
		}
	})
}
