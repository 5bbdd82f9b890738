//go:build invm

package machine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/cloudinit"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/supervise"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/vmtest/asnode"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/logs"
	"github.com/zero-os/zos/workload/shim"
)

const (
	vmmRoot = asnode.VMMRoot
	dataDir = asnode.DataDir
)

// TestMain plays two roles: like a node's process 1 it reaps orphans and records
// how they ended; below that the tests.
func TestMain(m *testing.M) {
	if os.Getenv(asnode.RoleEnv) == "" {
		os.Exit(asnode.ProcessOne())
	}
	if err := errors.Join(asnode.MountVMM("/dev/vda"), asnode.MountData("/dev/vdb", 2<<30), vmm.AllowKVM()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// rootfs has images of the payload, for micro-VMs: read-only, and with the directories
// that images have.
func rootfs() asnode.Rootfs {
	return asnode.Rootfs{Program: "/bin/payload", Prepare: func(_ canon.Hash, lower string) error {
		for _, d := range []string{"/proc", "/dev", "/sys", "/tmp", "/etc"} {
			if err := os.MkdirAll(lower+d, 0o755); err != nil {
				return err
			}
		}
		return nil
	}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKind(t *testing.T) *container.Kind {
	t.Helper()
	k, err := container.New(container.Config{
		Data: dataDir + "/workloads", LogBound: 256 << 10, Rootfs: rootfs(), Grace: 20 * time.Second,
		Backoff:  supervise.Backoff{First: 100 * time.Millisecond, Max: 2 * time.Second, Reset: time.Minute},
		Machines: &container.Machines{Root: vmmRoot, Vhost: true},
		Secrets: func(context.Context, workload.Desired, plan.Secret) ([]byte, error) {
			return []byte("opened"), nil
		},
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	must(t, err)
	t.Cleanup(func() {
		all, err := k.Observe(context.Background())
		must(t, err)
		for id := range all {
			if t.Failed() {
				dump(t, k, id)
			}
			must(t, k.Remove(context.Background(), id))
		}
	})
	return k
}

func dump(t *testing.T, k *container.Kind, id workload.ID) {
	recs, _, _ := logs.NewReader(k.LogDir(id)).Read(1, 1000)
	for _, r := range recs {
		t.Logf("log %v: %s", r.Stream, r.Data)
	}
	for _, f := range []string{"status.json", "runc.log", "fs-runc.log", "shim.err"} {
		b, _ := os.ReadFile(filepath.Join(runDir(id), f))
		t.Logf("%s: %s", f, b)
	}
}

// dumpFailed says what is known of a workload when a part of a test has failed, before
// the next part changes it.
func dumpFailed(t *testing.T, k *container.Kind, id workload.ID) {
	if t.Failed() {
		dump(t, k, id)
	}
}

func runDir(id workload.ID) string {
	return filepath.Join("/run/zos/container", id.Contract.String()+"-"+id.Name)
}

func desire(t *testing.T, name string, life func(*plan.Life), args ...string) workload.Desired {
	t.Helper()
	d := workload.Desired{
		ID:      workload.ID{Contract: canon.Sum([]byte("contract of " + t.Name())), Name: name},
		Version: 1,
		Plan: plan.Workload{
			Name: name, Kind: plan.KindContainer,
			Resources: plan.Resources{CPU: 1000, Memory: plan.VMMMemory + plan.GuestMemory + 64<<20, Disk: 64 << 20, PIDs: 64},
		},
	}
	c := plan.Container{
		V: plan.Version, Flist: canon.Sum([]byte("payload")), Args: append([]string{"/bin/payload"}, args...),
		Env: []string{"A=1", "PATH=/bin"}, WorkDir: "/", Isolation: plan.IsolationMicroVM, Life: plan.DefaultLife(), NoNewPrivs: true,
		Secrets: []plan.Secret{{Name: "s", Env: "SECRET", Epoch: 1, Sealed: []byte{1}}},
	}
	if life != nil {
		life(&c.Life)
	}
	b, err := canon.Marshal(c)
	must(t, err)
	d.Plan.Config = b
	return d
}

func never(l *plan.Life) { l.Restart = plan.RestartNever }

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// until polls f for up to two minutes.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	end := time.Now().Add(2 * time.Minute)
	for !f() {
		if time.Now().After(end) {
			t.Fatalf("waited two minutes for: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func output(t *testing.T, k *container.Kind, id workload.ID, line string) {
	t.Helper()
	until(t, "a line "+line, func() bool {
		recs, _, err := logs.NewReader(k.LogDir(id)).Read(1, 100000)
		must(t, err)
		for _, r := range recs {
			if r.Stream != logs.Node && strings.HasPrefix(string(r.Data), line) {
				return true
			}
		}
		return false
	})
}

func status(t *testing.T, id workload.ID) shim.Status {
	t.Helper()
	st, err := shim.ReadStatus(runDir(id))
	must(t, err)
	return st
}

func TestAnImageRunsInAMicroVMToItsExitCode(t *testing.T) {
	k := newKind(t)
	d := desire(t, "job", never, "exit", "42")
	began := time.Now()
	must(t, k.Ensure(timeout(t), d))
	t.Logf("measured: Ensure of a micro-VM %d ms", time.Since(began).Milliseconds())
	output(t, k, d.ID, "exits with 42")
	ended := time.Now()
	until(t, "exit code 42", func() bool {
		all, err := k.Observe(timeout(t))
		must(t, err)
		return all[d.ID].State == contract.StateExited && all[d.ID].ExitCode == 42
	})
	t.Logf("measured: from the program's last word to the machine's end %d ms", time.Since(ended).Milliseconds())
}

// A privileged program owns its guest, and may end it as it likes: that is told from
// what happens to monitors.
func TestAGuestsPanicIsToldAsSuch(t *testing.T) {
	k := newKind(t)
	d := desire(t, "job", never, "panic")
	var c plan.Container
	must(t, canon.Unmarshal(d.Plan.Config, &c))
	c.Privileged, c.NoNewPrivs = true, false
	b, err := canon.Marshal(c)
	must(t, err)
	d.Plan.Config = b
	must(t, k.Ensure(timeout(t), d))
	until(t, "the panic's end", func() bool { return status(t, d.ID).Reason == shim.ReasonPanic })
}

// execute runs the payload beside the workload's program.
func execute(t *testing.T, k *container.Kind, id workload.ID, args ...string) (code int, output string) {
	t.Helper()
	conn, err := k.Control(timeout(t), id)
	must(t, err)
	c, err := control.Dial(timeout(t), conn, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: append([]string{"/bin/payload"}, args...)}})
	must(t, err)
	defer c.Close()
	var out bytes.Buffer
	for {
		typ, b, err := c.Read()
		must(t, err)
		switch typ {
		case control.FrameStdout:
			out.Write(b)
		case control.FrameError:
			t.Fatal(control.Failure(b))
		case control.FrameExit:
			return control.ExitCode(b), out.String()
		}
	}
}

// balloon is the memory that the guest's kernel has handed back, in bytes.
func balloon(t *testing.T, k *container.Kind, id workload.ID) int {
	t.Helper()
	_, out := execute(t, k, id, "balloon")
	n, err := strconv.Atoi(strings.TrimSpace(out))
	must(t, err)
	return n * os.Getpagesize()
}

// TestAMachineLives runs one machine through what can happen to it.
func TestAMachineLives(t *testing.T) {
	k := newKind(t)
	d := desire(t, "app", nil, "serve")
	must(t, k.Ensure(timeout(t), d))
	output(t, k, d.ID, "run 1 secret opened")
	first := status(t, d.ID)

	t.Run("exec enters the workload", func(t *testing.T) {
		code, out := execute(t, k, d.ID, "print", "from exec")
		if code != 0 || out != "from exec\n" {
			t.Errorf("exit code %d, output %q", code, out)
		}
	})
	t.Run("it is counted", func(t *testing.T) {
		conn, err := k.Control(timeout(t), d.ID)
		must(t, err)
		var st control.Stats
		_, err = control.Ask(timeout(t), conn, control.Request{Verb: control.VerbStatus}, &st)
		must(t, err)
		if st.CPUMicros == 0 || st.Memory == 0 {
			t.Errorf("%+v", st)
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", status(t, d.ID).Shim.PID))
		must(t, err)
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "VmRSS") {
				t.Logf("measured: shim of a machine %s", strings.TrimSpace(line))
			}
		}
	})
	t.Run("memory is taken and given back while it runs", func(t *testing.T) {
		resize := func(by uint64) {
			conn, err := k.Control(timeout(t), d.ID)
			must(t, err)
			code, err := control.Ask(timeout(t), conn, control.Request{Verb: control.VerbResize, Limits: &control.Limits{
				CPU: 1000, Memory: d.Plan.Resources.Memory - by, PIDs: 64,
			}}, nil)
			must(t, err)
			if code != 0 {
				t.Fatalf("less by %d: it needs a new start", by)
			}
		}
		resize(16 << 20)
		until(t, "memory handed back", func() bool { return balloon(t, k, d.ID) == 16<<20 })
		resize(0)
		until(t, "all memory with the guest", func() bool { return balloon(t, k, d.ID) == 0 })
	})
	t.Run("a killed shim's machine runs on and is taken over", func(t *testing.T) {
		before := status(t, d.ID)
		must(t, unix.Kill(before.Shim.PID, unix.SIGKILL))
		until(t, "the shim's end", func() bool { return !shim.Alive(runDir(d.ID)) })
		must(t, k.Ensure(timeout(t), d))
		until(t, "the next shim's reach into the machine", func() bool {
			conn, err := k.Control(timeout(t), d.ID)
			if err != nil {
				return false // it does not listen yet
			}
			code, err := control.Ask(timeout(t), conn, control.Request{Verb: control.VerbStatus}, &control.Stats{})
			return err == nil && code == 0
		})
		after := status(t, d.ID)
		if after.Process != before.Process || after.Shim == before.Shim || after.State != shim.Running || after.Restarts != 0 {
			t.Errorf("before %+v, after %+v", before, after)
		}
	})
	t.Run("a killed monitor is vmm-died and started again, its data kept", func(t *testing.T) {
		defer dumpFailed(t, k, d.ID)
		must(t, unix.Kill(status(t, d.ID).Process.PID, unix.SIGKILL))
		until(t, "another start", func() bool {
			st := status(t, d.ID)
			return st.Restarts >= 1 && st.State == shim.Running
		})
		if st := status(t, d.ID); st.Reason != shim.ReasonVMM || st.Process == first.Process {
			t.Errorf("%+v", st)
		}
		output(t, k, d.ID, "run 2 ")
	})
	t.Run("a killed file server ends the machine", func(t *testing.T) {
		defer dumpFailed(t, k, d.ID)
		b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/zos", filepath.Base(runDir(d.ID)), "fs", "cgroup.procs"))
		must(t, err)
		var pid int
		_, err = fmt.Sscan(string(b), &pid)
		must(t, err)
		must(t, unix.Kill(pid, unix.SIGKILL))
		until(t, "another start", func() bool {
			st := status(t, d.ID)
			return st.Restarts >= 2 && st.State == shim.Running
		})
		if st := status(t, d.ID); st.Reason != shim.ReasonVMM || !strings.Contains(st.Detail, "file server") {
			t.Errorf("%+v", st)
		}
		output(t, k, d.ID, "run 3 ")
	})
	t.Run("it is asked to end, and nothing is left", func(t *testing.T) {
		id := d.ID
		reader := logs.NewReader(k.LogDir(id))
		st := status(t, id)
		must(t, unix.Kill(st.Shim.PID, unix.SIGTERM))
		until(t, "stopped", func() bool { return !shim.Alive(runDir(id)) })
		recs, _, err := reader.Read(1, 100000)
		must(t, err)
		asked := false
		for _, r := range recs {
			asked = asked || strings.HasPrefix(string(r.Data), "asked to end")
		}
		if !asked {
			t.Error("the program was not asked")
		}
		must(t, k.Remove(timeout(t), id))
		for _, p := range []string{runDir(id), "/sys/fs/cgroup/zos/" + filepath.Base(runDir(id)), "/run/zos/runc/" + filepath.Base(runDir(id)), "/run/zos/runc/" + filepath.Base(runDir(id)) + ".fs"} {
			if _, err := os.Stat(p); err == nil {
				t.Errorf("%s is left", p)
			}
		}
	})
}

func TestASeedIsMountedByARealKernel(t *testing.T) {
	s := cloudinit.Seed{Instance: "i-1", Hostname: "box", UserData: []byte("#!/bin/sh\n")}
	img, err := s.Image()
	must(t, err)
	path, dir := filepath.Join(t.TempDir(), "seed"), t.TempDir()
	must(t, os.WriteFile(path, img, 0o600))
	// With sectors of 512 bytes, as a machine's disk has; package loop makes larger ones.
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer file.Close()
	dev, err := os.OpenFile("/dev/loop7", os.O_RDWR, 0)
	must(t, err)
	defer dev.Close()
	must(t, unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_FD, int(file.Fd())))
	defer func() { must(t, unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0)) }()
	must(t, unix.Mount("/dev/loop7", dir, "iso9660", unix.MS_RDONLY, ""))
	defer func() { must(t, mount.Unmount(dir)) }()
	ents, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range ents {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "meta-data network-config user-data" {
		t.Errorf("it holds %q", got)
	}
	b, err := os.ReadFile(filepath.Join(dir, "meta-data"))
	must(t, err)
	if string(b) != `{"instance-id":"i-1","local-hostname":"box"}`+"\n" {
		t.Errorf("meta-data %q", b)
	}
}
