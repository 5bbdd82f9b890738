//go:build invm

package container

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/supervise"
	"github.com/zero-os/zos/vmtest/asnode"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/logs"
	"github.com/zero-os/zos/workload/shim"
)

const (
	dataDir  = asnode.DataDir
	exitsDir = asnode.ExitsDir
)

// TestMain plays three roles: like a node's process 1 it reaps orphans and records
// how they ended; below that the tests; and a node daemon that tests may kill.
func TestMain(m *testing.M) {
	switch os.Getenv(asnode.RoleEnv) {
	case "":
		os.Exit(asnode.ProcessOne())
	case asnode.RoleTests:
		if err := asnode.MountData("/dev/vda", 4<<30); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	case "ensure", "remove":
		if err := daemon(os.Getenv(asnode.RoleEnv)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// daemon is a node daemon that ensures or removes one workload, then waits to be killed.
func daemon(verb string) error {
	var d workload.Desired
	if err := json.Unmarshal([]byte(os.Getenv("ZOS_TEST_DESIRED")), &d); err != nil {
		return err
	}
	k, err := newKind()
	if err != nil {
		return err
	}
	if verb == "remove" {
		err = k.Remove(context.Background(), d.ID)
	} else {
		err = k.Ensure(context.Background(), d)
	}
	if err != nil {
		return err
	}
	fmt.Println("done")
	select {}
}

// startDaemon starts one in a process of its own; its output says "done".
func startDaemon(t *testing.T, verb string, d workload.Desired) (*exec.Cmd, io.Reader) {
	t.Helper()
	b, err := json.Marshal(d)
	must(t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asnode.RoleEnv+"="+verb, "ZOS_TEST_DESIRED="+string(b))
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	return cmd, out
}

// plainRootfs is a Rootfs that can fail.
type plainRootfs struct {
	asnode.Rootfs
	code, detail string // of Failure
	mountErr     error
	mounts       int
	damages      uint64
}

func (r *plainRootfs) Mount(ctx context.Context, flist canon.Hash, target, upper, work string, idBase uint32) (bool, error) {
	if r.mountErr != nil {
		return false, r.mountErr
	}
	r.mounts++
	r.Program = "/bin/payload"
	return r.Rootfs.Mount(ctx, flist, target, upper, work, idBase)
}

func (r *plainRootfs) Failure(canon.Hash) (string, string) { return r.code, r.detail }

func (*plainRootfs) Damage(canon.Hash, time.Time) (string, string) { return "", "" }

func (r *plainRootfs) Damages() uint64 { return r.damages }

func newKind() (*Kind, error) { return newKindWith(&plainRootfs{}) }

func newKindWith(r Rootfs) (*Kind, error) {
	return New(Config{
		Data: dataDir + "/workloads", Grace: time.Second, LogBound: 256 << 10, Rootfs: r,
		Backoff: supervise.Backoff{First: 100 * time.Millisecond, Max: 2 * time.Second, Reset: time.Minute},
		Log:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kind makes a Kind and, when the test ends, removes all it runs.
func kind(t *testing.T, r Rootfs) *Kind {
	t.Helper()
	k, err := newKindWith(r)
	must(t, err)
	t.Cleanup(func() {
		all, err := k.Observe(context.Background())
		must(t, err)
		for id := range all {
			must(t, k.Remove(context.Background(), id))
		}
	})
	return k
}

type option func(*workload.Desired, *plan.Container)

func restart(p string) option {
	return func(_ *workload.Desired, c *plan.Container) { c.Life.Restart = p }
}
func memory(n uint64) option {
	return func(d *workload.Desired, _ *plan.Container) { d.Plan.Resources.Memory = n }
}

// desire is a workload that runs the payload with args.
func desire(t *testing.T, name string, args []string, opts ...option) workload.Desired {
	t.Helper()
	d := workload.Desired{
		ID:      workload.ID{Contract: canon.Sum([]byte("contract of " + t.Name())), Name: name},
		Version: 1,
		Plan: plan.Workload{
			Name: name, Kind: plan.KindContainer,
			Resources: plan.Resources{CPU: 500, Memory: 64 << 20, Disk: 64 << 20, PIDs: 64},
		},
	}
	c := plan.Container{
		V: plan.Version, Flist: canon.Sum([]byte("payload")), Args: append([]string{"/bin/payload"}, args...),
		Env: []string{"A=1", "PATH=/bin"}, WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), NoNewPrivs: true,
	}
	for _, o := range opts {
		o(&d, &c)
	}
	b, err := canon.Marshal(c)
	must(t, err)
	d.Plan.Config = b
	return d
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// until polls f for up to three minutes.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	end := time.Now().Add(3 * time.Minute)
	for !f() {
		if time.Now().After(end) {
			t.Fatalf("waited three minutes for: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func observe(t *testing.T, k *Kind, id workload.ID) workload.Status {
	t.Helper()
	all, err := k.Observe(context.Background())
	must(t, err)
	return all[id]
}

func status(t *testing.T, k *Kind, id workload.ID) shim.Status {
	t.Helper()
	st, err := shim.ReadStatus(k.place(id).run)
	must(t, err)
	return st
}

func running(t *testing.T, k *Kind, id workload.ID) {
	t.Helper()
	until(t, "running", func() bool { return observe(t, k, id).State == contract.StateRunning })
}

// output waits for a line of the container's that starts with prefix.
func output(t *testing.T, k *Kind, id workload.ID, prefix string) string {
	t.Helper()
	line := ""
	until(t, "a line "+prefix, func() bool {
		recs, _, err := logs.NewReader(k.LogDir(id)).Read(1, 100000)
		must(t, err)
		for _, r := range recs {
			if r.Stream != logs.Node && strings.HasPrefix(string(r.Data), prefix) {
				line = string(r.Data)
				return true
			}
		}
		return false
	})
	return line
}

// snapshot is everything on the machine that a workload could leave behind.
func snapshot(t *testing.T) []string {
	t.Helper()
	var out []string
	mounts, err := mount.Under("/")
	must(t, err)
	for _, m := range mounts {
		out = append(out, "mount "+m.Target+" "+m.Type)
	}
	for _, root := range []string{"/sys/fs/cgroup", "/run", dataDir} {
		must(t, filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if strings.HasPrefix(p, exitsDir+"/") || strings.HasPrefix(p, "/sys") && !d.IsDir() || strings.HasSuffix(p, "lost+found") {
				return nil
			}
			out = append(out, "path "+p)
			return nil
		}))
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	for _, p := range procs {
		exe, err := os.Readlink(p + "/exe")
		if err != nil {
			continue // a kernel thread, or a zombie about to be reaped
		}
		out = append(out, "process "+exe)
		links, _ := filepath.Glob(p + "/ns/*")
		for _, l := range links {
			ns, _ := os.Readlink(l)
			out = append(out, "namespace "+ns)
		}
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop")
	must(t, err)
	for _, l := range loops {
		out = append(out, "loop device "+l)
	}
	sort.Strings(out)
	return compact(out)
}

func compact(in []string) []string {
	var out []string
	for i, s := range in {
		if i == 0 || in[i-1] != s {
			out = append(out, s)
		}
	}
	return out
}

// same fails unless the machine is as it was, after a moment for the kernel.
func same(t *testing.T, before []string) {
	t.Helper()
	var diff []string
	for range 100 {
		diff = nil
		seen := map[string]int{}
		for _, s := range before {
			seen[s] |= 1
		}
		for _, s := range snapshot(t) {
			seen[s] |= 2
		}
		for s, where := range seen {
			if where == 1 {
				diff = append(diff, "gone: "+s)
			} else if where == 2 {
				diff = append(diff, "left: "+s)
			}
		}
		if len(diff) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	sort.Strings(diff)
	t.Fatalf("the node is not as before:\n%s", strings.Join(diff, "\n"))
}

// maxShim is what a shim may have in memory, in KiB: 8 MiB, its program included.
const maxShim = 8 << 10

// rss is what a process has in memory, and what of it nobody else has changed, in KiB.
// Where the kernel gives huge pages and what they are for is said beside it.
func rss(t *testing.T, pid int) (rss, private int64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	must(t, err)
	var parts []string
	name := ""
	for _, l := range strings.Split(string(b), "\n") {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		if !strings.HasSuffix(f[0], ":") {
			name = f[1]
			if len(f) > 5 {
				name += filepath.Base(f[5])
			}
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "Rss:":
			if rss += n; n >= 64 {
				parts = append(parts, fmt.Sprintf("%s %d", name, n))
			}
		case "Private_Dirty:":
			private += n
		case "AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:":
			if n > 0 {
				parts = append(parts, fmt.Sprintf("%s%d", f[0], n))
			}
		}
	}
	t.Logf("measured: parts in KiB: %s", strings.Join(parts, ", "))
	return rss, private
}
