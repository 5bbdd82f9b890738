package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/supervise"
	"github.com/zero-os/zos/workload/logs"
)

func TestConfinementTruthTable(t *testing.T) {
	good := process.Security{Seccomp: 2, NoNewPrivs: true}
	if why := insecure(good, true); why != "" {
		t.Errorf("%+v: %s", good, why)
	}
	for _, bad := range []process.Security{
		{Seccomp: 0, NoNewPrivs: true}, {Seccomp: 1, NoNewPrivs: true}, {Seccomp: 2}, {Seccomp: 2, NoNewPrivs: true, Capabilities: 1},
	} {
		if insecure(bad, true) == "" {
			t.Errorf("%+v was found secure", bad)
		}
	}
	if why := insecure(process.Security{Seccomp: 2}, false); why != "" {
		t.Errorf("setuid programs asked for: %s", why)
	}
}

// This very process has no seccomp filter of a container's.
func TestUnconfinedProcessIsRefused(t *testing.T) {
	ref, err := process.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := CheckSecurity(ctx, ref, true); err == nil {
		t.Error("a process with all capabilities was found confined")
	}
}

func TestFilesComeBack(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadStatus(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no status yet: %v", err)
	}
	spec := Spec{ID: "x", Life: Life{Restart: "always", Grace: time.Second}, Backoff: supervise.DefaultBackoff, UID: 1 << 20}
	if err := WriteSpec(dir, spec); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadSpec(dir); err != nil || !reflect.DeepEqual(got, spec) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "{", `{"state":1}`, strings.Repeat(" ", maxFile+1)} {
		if err := os.WriteFile(filepath.Join(dir, statusFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadStatus(dir); err == nil {
			t.Errorf("damaged status %.10q was read", bad)
		}
	}
}

func TestLockIsHeldWithoutAGapUntilDeath(t *testing.T) {
	dir := t.TempDir()
	if Alive(dir) {
		t.Fatal("alive in an empty directory")
	}
	f, err := takeLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := takeLock(dir); !errors.Is(err, ErrLocked) {
		t.Fatalf("locked twice: %v", err)
	}
	heir := exec.Command("sleep", "60") // inherits it, as a shim does
	heir.ExtraFiles = []*os.File{f}
	if err := heir.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if !Alive(dir) {
		t.Error("the heir does not hold the lock")
	}
	if err := heir.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = heir.Wait()
	if Alive(dir) {
		t.Error("alive after its death")
	}
	other, err := takeLock(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	fd, err := unix.Dup(int(other.Fd())) // inheritLock owns what it is given
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inheritLock(dir, uintptr(fd)); err == nil {
		t.Error("the lock of another directory was inherited")
	}
}

func TestLastErrorOfRunc(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log := "{\"level\":\"warning\",\"msg\":\"w\"}\nnot json\n{\"level\":\"error\",\"msg\":\"runc run failed:\\n  no such file\"}\n{\"level\":\"info\",\"msg\":\"i\"}\n"
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lastError(path); got != "runc run failed: no such file" {
		t.Error(got)
	}
	if got := lastError(path + "x"); got != "" {
		t.Error(got)
	}
	if got := oneLine(strings.Repeat("é", 400)); len(got) > 310 || !strings.HasSuffix(got, "…") {
		t.Errorf("%d bytes", len(got))
	}
}

// A program prints through the FIFO while no pump reads it: it neither dies of a
// broken pipe nor loses anything, and the next pump gets it all.
func TestOutputSurvivesWithoutAReader(t *testing.T) {
	dir := t.TempDir()
	ring, err := logs.Open(filepath.Join(dir, "log"), 0)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "stdout")
	p, err := startPump(path, 0, 0, logs.Stdout, ring, 0)
	if err != nil {
		t.Fatal(err)
	}
	end, err := p.containerEnd()
	if err != nil {
		t.Fatal(err)
	}
	p.close() // what the death of a shim does
	cmd := exec.Command("sh", "-c", "seq 1 200; echo done >/dev/stdout")
	cmd.Stdout = end
	if err := cmd.Run(); err != nil {
		t.Fatalf("printing without a reader: %v", err)
	}
	p, err = startPump(path, 0, 0, logs.Stdout, ring, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.close()
	end.Close()
	if err := ring.Close(); err != nil {
		t.Fatal(err)
	}
	recs, _, err := logs.NewReader(filepath.Join(dir, "log")).Read(1, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if len(recs) != 201 || string(recs[0].Data) != "1" || string(recs[200].Data) != "done" {
		t.Errorf("%d lines arrived", len(recs))
	}
}

func TestBegunLineIsShownBeforeItsEnd(t *testing.T) {
	dir := t.TempDir()
	ring, err := logs.Open(filepath.Join(dir, "log"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	p, err := startPump(filepath.Join(dir, "stdout"), 0, 0, logs.Stdout, ring, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	end, err := p.containerEnd()
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	if _, err := end.WriteString("password: "); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ring.Next() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a line without an end was never shown")
		}
	}
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte(`{"plan":"00","state":"running","shim":{"pid":5,"start":7},"exit":{"code":1,"signal":0}}`))
	f.Add([]byte(`{"started":"2026-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, statusFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := ReadStatus(dir)
		if err != nil {
			return
		}
		if err := WriteJSON(filepath.Join(dir, statusFile), st); err != nil {
			return // a year that JSON can't say
		}
		if again, err := ReadStatus(dir); err != nil || again.State != st.State || again.Process != st.Process {
			t.Errorf("%+v came back as %+v, %v", st, again, err)
		}
	})
}

// What runc wrote, and the kernel beside it, is all that is needed to know what it knows.
func TestStateOfAContainer(t *testing.T) {
	self, err := process.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	live := fmt.Sprintf(`{"id":"x","init_process_pid":%d,"init_process_start":%d,"config":{"a":[1,2]}}`, self.PID, self.Start)
	for _, c := range []struct {
		name, state, status string
		none, fifo, frozen  bool
	}{
		{name: "no directory", none: true},
		{name: "killed in mid-create", state: ""},
		{name: "torn", state: live[:40]},
		{name: "no process", state: `{"id":"x"}`},
		{name: "process 1", state: `{"init_process_pid":1,"init_process_start":1}`},
		{name: "another process", state: fmt.Sprintf(`{"init_process_pid":%d,"init_process_start":%d}`, self.PID, self.Start+1), status: "stopped"},
		{name: "not executed yet", state: live, fifo: true, status: "created"},
		{name: "frozen", state: live, frozen: true, status: "paused"},
		{name: "running", state: live, status: "running"},
	} {
		dir := t.TempDir()
		r := Runtime{Root: dir, ID: "x", Cgroup: filepath.Join(dir, "cgroup")}
		write := func(name, content string) {
			t.Helper()
			if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if !c.none {
			write(filepath.Join(dir, "x", "other"), "")
		}
		if c.state != "" {
			write(filepath.Join(dir, "x", stateFile), c.state)
		}
		if c.fifo {
			write(filepath.Join(dir, "x", execFIFO), "")
		}
		frozen := "0\n"
		if c.frozen {
			frozen = "1\n"
		}
		write(filepath.Join(r.Cgroup, "cgroup.freeze"), frozen)
		status, pid, err := r.State(t.Context())
		if err != nil || status != c.status || c.status == "running" && pid != self.PID {
			t.Errorf("%s: %q, %d, %v; want %q", c.name, status, pid, err, c.status)
		}
	}
}

func TestTrafficIsOfTheWorkloadsOwnDevices(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dev")
	text := "Inter-|   Receive                                                |  Transmit\n" +
		" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n" +
		"    lo:     700       7    0    0    0     0          0         0      700       7    0    0    0     0       0          0\n" +
		"  eth0:    1000      10    0    0    0     0          0         0      200       2    0    0    0     0       0          0\n" +
		"  tap0:     200       2    0    0    0     0          0         0     1000      10    0    0    0     0       0          0\n" +
		"  eth1:      50       1    0    0    0     0          0         0        5       1    0    0    0     0       0          0\n" +
		"  eth2: short\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if rx, tx := Traffic(path); rx != 1050 || tx != 205 {
		t.Errorf("received %d and sent %d, want 1050 and 205", rx, tx)
	}
	if rx, tx := Traffic(path + ".none"); rx != 0 || tx != 0 {
		t.Errorf("without a file: %d and %d", rx, tx)
	}
}
