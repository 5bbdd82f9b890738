//go:build invm

package vm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/cloudinit"
	"github.com/zero-os/zos/linux/loop"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/supervise"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/vmtest/asnode"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/footprint"
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

// rootfs has one image, which boots its kernel.
func rootfs() asnode.Rootfs {
	return asnode.Rootfs{Program: guest, Prepare: func(_ canon.Hash, lower string) error { return kernelImage(lower) }}
}

// guest is process 1 of the machines.
const guest = "/bin/guest"

// kernelImage is a root file system with a kernel: the node's own, and what of its
// modules the guest has need of.
func kernelImage(dir string) error {
	for _, d := range []string{"boot", "dev", "mnt", "modules", "proc", "sbin", "sys"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{"boot/vmlinuz": vmmRoot + "/boot/vmlinuz", "sbin/init": guest}
	modules, err := filepath.Glob("/modules/*")
	if err != nil {
		return err
	}
	for _, m := range modules {
		if !ofNodes.MatchString(filepath.Base(m)) {
			files["modules/"+filepath.Base(m)] = m
		}
	}
	for to, from := range files {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, to), b, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// ofNodes are modules that only nodes load.
var ofNodes = regexp.MustCompile("kvm|ccp|vhost|tun|tap|overlay|loop")

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKind(t *testing.T) *container.Kind {
	t.Helper()
	k, err := New(container.Config{
		Data: dataDir + "/machines", LogBound: 256 << 10, Rootfs: rootfs(), Grace: 30 * time.Second,
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

func runDir(id workload.ID) string {
	return filepath.Join("/run/zos/vm", id.Contract.String()+"-"+id.Name)
}

func desire(t *testing.T, disk uint64, change func(*plan.VM)) workload.Desired {
	t.Helper()
	m := plan.VM{
		V: plan.Version, Flist: canon.Sum([]byte("image")), Size: 1, Boot: plan.BootKernel, Life: plan.DefaultLife(), Keys: []string{"ssh-ed25519 AAAA ada"},
		Secrets: []plan.Secret{{Name: "s", Path: "/run/secrets/s", Mode: 0o400, Epoch: 1, Sealed: []byte{1}}},
	}
	change(&m)
	d := desired(t, m, disk)
	d.ID.Contract, d.Version = canon.Sum([]byte("contract of "+t.Name())), 1
	d.Plan.Resources.Memory = plan.VMMMemory + 192<<20
	return d
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// until polls f for up to four minutes: a nested machine boots in half a minute, and in
// three where others use the processor.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	end := time.Now().Add(4 * time.Minute)
	for !f() {
		if time.Now().After(end) {
			t.Fatalf("waited four minutes for: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// said tells whether the guest says a line that begins so. What clears the screen before
// its first one ends with no line of its own.
func said(r logs.Record, line string) bool {
	return r.Stream != logs.Node && strings.Contains(string(r.Data), "guest: "+line)
}

// output waits until the guest has said a line that begins with line.
func output(t *testing.T, k *container.Kind, id workload.ID, line string) {
	t.Helper()
	until(t, "a line "+line, func() bool {
		recs, _, err := logs.NewReader(k.LogDir(id)).Read(1, 100000)
		must(t, err)
		for _, r := range recs {
			if said(r, line) {
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

func ask(t *testing.T, k *container.Kind, id workload.ID, r control.Request, v any) error {
	t.Helper()
	conn, err := k.Control(timeout(t), id)
	must(t, err)
	_, err = control.Ask(timeout(t), conn, r, v)
	return err
}

// typeTo types a line on the machine's console until the guest has said that it read
// it, and returns what was seen meanwhile. A shim that has just begun to look after the
// machine refuses for a moment.
func typeTo(t *testing.T, k *container.Kind, id workload.ID, line string) string {
	t.Helper()
	var seen string
	until(t, "the guest has read "+line, func() bool {
		conn, err := k.Control(timeout(t), id)
		if err != nil {
			return false
		}
		c, err := control.Dial(timeout(t), conn, control.Request{Verb: control.VerbConsole})
		must(t, err)
		defer c.Close()
		must(t, c.Raw().SetReadDeadline(time.Now().Add(2*time.Minute)))
		must(t, c.Write(control.FrameStdin, []byte(line+"\n")))
		for seen = ""; !strings.Contains(seen, "guest: typed "+line); {
			typ, b, err := c.Read()
			must(t, err)
			if typ == control.FrameError {
				if err := control.Failure(b); problem.Code(err) != shim.CodeNotRunning {
					t.Fatal(err)
				}
				return false
			}
			seen += string(b)
		}
		return true
	})
	return seen
}

// TestAMachineBootsItsKernelAndLives runs one machine through what can happen to it.
func TestAMachineBootsItsKernelAndLives(t *testing.T) {
	k := newKind(t)
	before, err := footprint.Read(dataDir + "/machines")
	must(t, err)
	d := desire(t, 96<<20, func(m *plan.VM) {
		m.Disks = []plan.Disk{{Serial: "data", Size: 8 << 20}}
		m.Cmdline = "loglevel=3 edd=off" // what it would print takes most of a boot's time
	})
	began := time.Now()
	must(t, k.Ensure(timeout(t), d))
	output(t, k, d.ID, "up")
	t.Logf("measured: from Ensure to a machine that is up %d ms", time.Since(began).Milliseconds())
	for _, line := range []string{
		"root root virtiofs", "owned 1000:65534", "run 1", "disk data of 8388608 bytes, start 1",
		`seed meta-data network-config user-data: {"instance-id":"i-`,
	} {
		output(t, k, d.ID, line)
	}
	first := status(t, d.ID)

	t.Run("its console is two-way", func(t *testing.T) {
		if seen := typeTo(t, k, d.ID, "hello"); !strings.Contains(seen, "guest: up") {
			t.Errorf("what it printed before is not shown: %q", seen)
		}
	})
	t.Run("nothing is run in it", func(t *testing.T) {
		for _, r := range []control.Request{
			{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/sbin/init"}}}, {Verb: control.VerbGet, Path: "/"}, {Verb: control.VerbPut, Path: "/"},
		} {
			err := ask(t, k, d.ID, r, nil)
			if problem.Code(err) != shim.CodeUnsupported || !strings.Contains(err.Error(), "SSH") {
				t.Errorf("%s: %v", r.Verb, err)
			}
		}
	})
	t.Run("it is counted", func(t *testing.T) {
		var st control.Stats
		must(t, ask(t, k, d.ID, control.Request{Verb: control.VerbStatus}, &st))
		if st.CPUMicros == 0 || st.Memory == 0 || st.MemoryLimit != d.Plan.Resources.Memory {
			t.Errorf("%+v", st)
		}
		now, err := footprint.Read(dataDir + "/machines")
		must(t, err)
		if now.Bytes < before.Bytes+8<<20 || len(now.Cgroups) < len(before.Cgroups)+3 {
			t.Errorf("%d bytes and %d cgroups, before %d and %d", now.Bytes, len(now.Cgroups), before.Bytes, len(before.Cgroups))
		}
	})
	t.Run("a killed shim's machine runs on and is taken over, console included", func(t *testing.T) {
		before := status(t, d.ID)
		must(t, unix.Kill(before.Shim.PID, unix.SIGKILL))
		until(t, "the shim's end", func() bool { return !shim.Alive(runDir(d.ID)) })
		must(t, k.Ensure(timeout(t), d))
		after := status(t, d.ID)
		if after.Process != before.Process || after.Shim == before.Shim || after.State != shim.Running {
			t.Errorf("before %+v, after %+v", before, after)
		}
		typeTo(t, k, d.ID, "again")
	})
	t.Run("a killed monitor is vmm-died and started again, its data kept", func(t *testing.T) {
		must(t, unix.Kill(status(t, d.ID).Process.PID, unix.SIGKILL))
		until(t, "another start", func() bool {
			st := status(t, d.ID)
			return st.Restarts >= 1 && st.State == shim.Running
		})
		if st := status(t, d.ID); st.Reason != shim.ReasonVMM || st.Process == first.Process {
			t.Errorf("%+v", st)
		}
		output(t, k, d.ID, "run 2")
		output(t, k, d.ID, "disk data of 8388608 bytes, start 2")
	})
	t.Run("its button is pressed, and nothing is left", func(t *testing.T) {
		until(t, "up again", func() bool {
			recs, _, err := logs.NewReader(k.LogDir(d.ID)).Read(1, 100000)
			must(t, err)
			ups := 0
			for _, r := range recs {
				if said(r, "up") {
					ups++
				}
			}
			return ups == 2
		})
		reader := logs.NewReader(k.LogDir(d.ID))
		began := time.Now()
		must(t, unix.Kill(status(t, d.ID).Shim.PID, unix.SIGTERM))
		until(t, "stopped", func() bool { return !shim.Alive(runDir(d.ID)) })
		t.Logf("measured: stopped by its button in %d ms", time.Since(began).Milliseconds())
		recs, _, err := reader.Read(1, 100000)
		must(t, err)
		asked := false
		for _, r := range recs {
			asked = asked || said(r, "asked to end")
		}
		if !asked {
			t.Error("the machine was not asked")
		}
		must(t, k.Remove(timeout(t), d.ID))
		until(t, "nothing left", func() bool {
			now, err := footprint.Read(dataDir + "/machines")
			must(t, err)
			return now.Same(before)
		})
	})
}

func TestASeedIsMountedByTheNodesKernel(t *testing.T) {
	s := cloudinit.Seed{Instance: "i-1", Hostname: "box", UserData: []byte("#!/bin/sh\n")}
	img, err := s.Image()
	must(t, err)
	path, dir := filepath.Join(dataDir, "seed"), t.TempDir()
	must(t, os.WriteFile(path, img, 0o600))
	defer os.Remove(path)
	must(t, loop.Mount(path, dir, "iso9660", unix.MS_RDONLY, ""))
	defer func() { must(t, mount.Unmount(dir)) }()
	b, err := os.ReadFile(filepath.Join(dir, "meta-data"))
	must(t, err)
	if string(b) != `{"instance-id":"i-1","local-hostname":"box"}`+"\n" {
		t.Errorf("meta-data %q", b)
	}
}
