//go:build invm

package escape

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/vmtest/asnode"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
	"github.com/zero-os/zos/workload/logs"
)

const (
	dataDir = asnode.DataDir
	vmmRoot = asnode.VMMRoot
)

func TestMain(m *testing.M) {
	if err := errors.Join(asnode.MountData("/dev/vda", 1<<30), asnode.MountVMM("/dev/vdb"), vmm.AllowKVM()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// image holds the program, and whatever prepare adds: it is what an image of an
// attacker holds.
func image(prepare func(lower string) error) asnode.Rootfs {
	return asnode.Rootfs{Program: "/bin/program", Prepare: func(_ canon.Hash, lower string) error {
		if prepare == nil {
			return nil
		}
		return prepare(lower)
	}}
}

// runIn runs the program in a container with prepare's image, as its root, to its
// end, and returns what it printed; an error is why it was not started.
func runIn(t testing.TB, class Class, r asnode.Rootfs, name, workDir string, args ...string) (string, error) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	k, err := container.New(container.Config{Data: dataDir + "/workloads", Rootfs: r, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Machines: &container.Machines{Root: vmmRoot, Vhost: true}})
	must(err)
	life := plan.DefaultLife()
	life.Restart = plan.RestartNever
	isolation, memory := plan.IsolationNamespace, uint64(128<<20)
	if class != Namespace {
		isolation, memory = plan.IsolationMicroVM, memory+plan.VMMMemory+plan.GuestMemory
	}
	config, err := canon.Marshal(plan.Container{
		V: plan.Version, Flist: canon.Sum([]byte(name)), Args: append([]string{"/bin/program"}, args...), Env: []string{"PATH=/bin"}, WorkDir: workDir,
		Isolation: isolation, Privileged: class == Privileged, Life: life, NoNewPrivs: class != Privileged,
	})
	must(err)
	d := workload.Desired{
		ID: workload.ID{Contract: canon.Sum([]byte(t.Name())), Name: name}, Version: 1,
		Plan: plan.Workload{Name: name, Kind: plan.KindContainer, Resources: plan.Resources{CPU: 1000, Memory: memory, Disk: 64 << 20, PIDs: 64}, Config: config},
	}
	defer func() { must(k.Remove(context.Background(), d.ID)) }()
	if err := k.Ensure(ctx, d); err != nil {
		return "", err
	}
	for {
		all, err := k.Observe(ctx)
		must(err)
		if s := all[d.ID].State; s == contract.StateExited || s == contract.StateFailed {
			break
		}
		if err := ctx.Err(); err != nil {
			t.Fatalf("the program did not end: %+v", all[d.ID])
		}
		time.Sleep(50 * time.Millisecond)
	}
	// Its last lines may still be on their way to the log.
	for {
		out, err := output(filepath.Join(dataDir, "workloads", d.ID.Contract.String(), name, "log"))
		must(err)
		if args[0] == "attempt" || strings.HasSuffix(out, "end\n") || ctx.Err() != nil {
			return out, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// output is all that a workload has printed so far.
func output(dir string) (string, error) {
	var out strings.Builder
	reader := logs.NewReader(dir)
	for from := uint64(0); ; {
		recs, next, err := reader.Read(from, 1000)
		if err != nil || len(recs) == 0 {
			return out.String(), err
		}
		for _, rec := range recs {
			if rec.Stream != logs.Stdout {
				continue
			}
			out.Write(rec.Data)
			if !rec.Partial {
				out.WriteByte('\n')
			}
		}
		from = next
	}
}

func TestNothingLeavesANamespace(t *testing.T) { nothingLeaves(t, Namespace) }

func TestNothingLeavesAMicroVM(t *testing.T) { nothingLeaves(t, MicroVM) }

// TestAPrivilegedWorkloadChangesItsGuestAlone: with every capability of a kernel of its
// own, the node is the same afterwards.
func TestAPrivilegedWorkloadChangesItsGuestAlone(t *testing.T) {
	if os.Getenv("ZOS_SOAK") == "" {
		t.Skip("the corpus in a second machine takes long under emulation: make soak runs it")
	}
	nothingLeaves(t, Privileged)
}

func nothingLeaves(t *testing.T, class Class) {
	before := TakeNode()
	began := time.Now()
	Check(t, class, func(t testing.TB, arg string) string {
		out, err := runIn(t, class, image(nil), string(class)+"-"+arg, "/", arg)
		if err != nil {
			t.Fatal(err)
		}
		return out
	})
	t.Logf("measured: the corpus and the probe in class %s take %.1f s", class, time.Since(began).Seconds())
	for _, d := range before.Differences(TakeNode()) {
		t.Errorf("the node has changed: %s", d)
	}
	if os.Getenv(UpdateEnv) != "" {
		b, err := os.ReadFile("/tmp/" + string(class) + ".golden")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("golden begins %s\n%sgolden ends\n", class, b)
	}
}

// TestAnImagesLinksDontLeaveIt starts images in which what is mounted over leads
// elsewhere: each either does not start, or starts with its own files only.
func TestAnImagesLinksDontLeaveIt(t *testing.T) {
	const target = "/tmp/node-files"
	if err := os.MkdirAll(target+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target+"/file", []byte("the node's"), 0o644); err != nil {
		t.Fatal(err)
	}
	before, err := Files(target)
	if err != nil {
		t.Fatal(err)
	}
	link := func(path, to string) func(string) error {
		return func(lower string) error {
			at := filepath.Join(lower, path)
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				return err
			}
			_ = os.RemoveAll(at)
			return os.Symlink(to, at)
		}
	}
	started := 0
	for i, path := range []string{"proc", "dev", "sys", "tmp", "dev/shm", "etc"} {
		for _, to := range []string{"../../../../../../../../.." + target} {
			out, err := runIn(t, Namespace, image(link(path, to)), fmt.Sprintf("link-%d", i), "/", "attempt", "sysctl/core-pattern")
			if err != nil {
				t.Logf("/%s → %s: not started: %v", path, to, err)
				continue
			}
			started++
			if strings.HasPrefix(out, "ok\t") {
				t.Errorf("/%s → %s: core_pattern was written", path, to)
			}
		}
	}
	if started == 0 {
		t.Error("no image started: links inside the root are legal")
	}
	after, err := Files(target)
	if err != nil {
		t.Fatal(err)
	}
	if before != after {
		t.Errorf("the node's files have changed:\n%swere:\n%s", after, before)
	}
}

// TestAWorkingDirectoryIsInsideTheImage is CVE-2024-21626: a working directory that
// names a descriptor of the runtime's, which leads to the node's files.
func TestAWorkingDirectoryIsInsideTheImage(t *testing.T) {
	for fd := 5; fd < 11; fd++ {
		for _, rest := range []string{"/../../../.."} {
			dir := fmt.Sprintf("/proc/self/fd/%d%s", fd, rest)
			out, err := runIn(t, Namespace, image(nil), fmt.Sprintf("cwd-%d-%d", fd, len(rest)), dir, "attempt", "leak/workdir")
			if err == nil && !strings.HasPrefix(out, "none\t") {
				t.Errorf("it works in %s: %s", dir, out)
			}
		}
	}
}
