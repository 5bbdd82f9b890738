package grid

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/zero-os/zos/problem"
)

// TestADirectoryHasOneGrid plays two grids and those who look for one, after a
// grid that was killed.
func TestADirectoryHasOneGrid(t *testing.T) {
	path := t.TempDir()
	if pid, running := Holder(path); running {
		t.Fatalf("process %d is said to run a grid", pid)
	}
	killed, err := openDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.writeState(State{PID: 1, Ready: true}); err != nil {
		t.Fatal(err)
	}
	if err := killed.close(); err != nil {
		t.Fatal(err)
	}

	d, err := openDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := ReadState(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the killed grid's state is still told: %+v, %v", s, err)
	}
	if pid, running := Holder(path); !running || pid != os.Getpid() {
		t.Fatalf("held by %d, %v", pid, running)
	}
	if _, err := openDir(path); problem.Code(err) != "grid-running" {
		t.Fatalf("a second grid in one directory: %v", err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	if pid, running := Holder(path); running {
		t.Fatalf("process %d is said to run a grid that has ended", pid)
	}
}
