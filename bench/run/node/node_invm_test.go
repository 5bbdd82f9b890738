//go:build invm

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/idmap"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/vmtest/asnode"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
	"github.com/zero-os/zos/workload/logs"
	"github.com/zero-os/zos/workload/shim"
)

// TestMain plays two roles: like a node's process 1 it reaps orphans and records how
// they ended; below that the measures.
func TestMain(m *testing.M) {
	if os.Getenv(asnode.RoleEnv) == "" {
		os.Exit(asnode.ProcessOne())
	}
	if err := prepare(); err != nil {
		fmt.Println("prepare:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func prepare() error {
	if err := asnode.MountData("/dev/vda", dataSize); err != nil {
		return err
	}
	if _, err := os.Stat(vmmDisk); err != nil {
		return nil //nolint:nilerr // a node without machines
	}
	if err := asnode.MountVMM(vmmDisk); err != nil {
		return err
	}
	return vmm.AllowKVM()
}

const (
	imageDisk = "/dev/vdb"
	vmmDisk   = "/dev/vdc"
)

// rootfs mounts the image of the run for a range of user ids, as a store does, but
// without fetching or verity.
type rootfs struct{ asnode.Rootfs }

func (rootfs) Mount(_ context.Context, _ canon.Hash, target, upper, work string, idBase uint32) (bool, error) {
	lower := target
	if upper != "" {
		lower = fmt.Sprintf("/tmp/lower/%d", idBase)
		if err := errors.Join(os.MkdirAll(lower, 0o755), os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755), os.Chown(upper, int(idBase), int(idBase))); err != nil {
			return false, err
		}
	}
	if err := unix.Mount(imageDisk, lower, "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		return false, err
	}
	ns, err := idmap.UserNamespace(idBase)
	if err != nil {
		return false, err
	}
	defer ns.Close()
	if err := idmap.Mount(lower, ns); err != nil || upper == "" {
		return true, err
	}
	if err := mount.Overlay(mount.OverlaySpec{Lower: []string{lower}, Upper: upper, Work: work, NoDev: true}, target); err != nil {
		return false, err
	}
	return true, mount.Detach(lower)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKind(t *testing.T, machines bool) *container.Kind {
	t.Helper()
	c := container.Config{
		Data: asnode.DataDir + "/workloads", LogBound: 256 << 10, Rootfs: rootfs{}, Grace: time.Second,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if machines {
		c.Machines = &container.Machines{Root: asnode.VMMRoot, Vhost: true}
	}
	k, err := container.New(c)
	must(t, err)
	return k
}

func removeAll(t *testing.T, k *container.Kind) {
	t.Helper()
	all, err := k.Observe(bounded(t))
	must(t, err)
	for id := range all {
		must(t, k.Remove(bounded(t), id))
	}
}

func desire(t *testing.T, name, isolation string, args ...string) workload.Desired {
	t.Helper()
	d := workload.Desired{
		ID: workload.ID{Contract: canon.Sum([]byte("contract of " + t.Name())), Name: name}, Version: 1,
		Plan: plan.Workload{
			Name: name, Kind: plan.KindContainer,
			Resources: plan.Resources{CPU: 1000, Memory: 64 << 20, Disk: 64 << 20, PIDs: 64},
		},
	}
	if isolation == plan.IsolationMicroVM {
		d.Plan.Resources.Memory += plan.VMMMemory + plan.GuestMemory
	}
	b, err := canon.Marshal(plan.Container{
		V: plan.Version, Flist: canon.Sum([]byte("image")), Args: args, Env: []string{"PATH=/bin:/usr/bin"}, WorkDir: "/",
		Isolation: isolation, Life: plan.DefaultLife(), NoNewPrivs: true,
	})
	must(t, err)
	d.Plan.Config = b
	return d
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func runDir(id workload.ID) string {
	return filepath.Join("/run/zos/container", id.Contract.String()+"-"+id.Name)
}

// output waits for the line of a workload that begins with prefix.
func output(t *testing.T, k *container.Kind, id workload.ID, prefix string) string {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		recs, _, err := logs.NewReader(k.LogDir(id)).Read(1, 1000)
		must(t, err)
		for _, r := range recs {
			if r.Stream != logs.Node && strings.HasPrefix(string(r.Data), prefix) {
				return string(r.Data)
			}
		}
		if time.Now().After(end) {
			t.Fatalf("%s did not say %q: %v", id.Name, prefix, recs)
		}
	}
}

func status(t *testing.T, id workload.ID) shim.Status {
	t.Helper()
	st, err := shim.ReadStatus(runDir(id))
	must(t, err)
	return st
}

// now is CLOCK_MONOTONIC, which containers share, in ns.
func now(t *testing.T) int64 {
	t.Helper()
	var ts unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts))
	return ts.Nano()
}

// said is the time in a meter's hello.
func said(t *testing.T, line string) int64 {
	t.Helper()
	f := strings.Fields(line)
	if len(f) != 2 {
		t.Fatalf("hello %q", line)
	}
	n, err := strconv.ParseInt(f[1], 10, 64)
	must(t, err)
	return n
}

func median(all []float64) float64 {
	s := slices.Sorted(slices.Values(all))
	return s[len(s)/2]
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

// meminfo are fields of /proc/meminfo, in MiB.
func meminfo(t *testing.T) map[string]float64 {
	t.Helper()
	b, err := os.ReadFile("/proc/meminfo")
	must(t, err)
	m := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if n, err := strconv.ParseFloat(f[1], 64); err == nil {
			m[strings.TrimSuffix(f[0], ":")] = n / 1024
		}
	}
	return m
}

// report prints pairs of names and numbers.
func report(pairs ...any) {
	fmt.Print("measured:")
	for i := 0; i+1 < len(pairs); i += 2 {
		fmt.Printf(" %v %.3f", pairs[i], pairs[i+1])
	}
	fmt.Println()
}
