//go:build !invm

package container

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/life"
	"github.com/zero-os/zos/workload/machine"
	"github.com/zero-os/zos/workload/shim"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func example() (plan.Container, plan.Resources) {
	return plan.Container{
			V: plan.Version, Flist: canon.Sum([]byte("flist")), Args: []string{"/bin/web", "-v"}, Env: []string{"A=1", "PATH=/bin"},
			WorkDir: "/srv", UID: 1000, GID: 1001, Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), NoNewPrivs: true,
		}, plan.Resources{
			CPU: 1500, Memory: 256 << 20, Disk: 1 << 30, PIDs: 100,
		}
}

func desired(c plan.Container, r plan.Resources) workload.Desired {
	b, err := canon.Marshal(c)
	if err != nil {
		panic(err)
	}
	return workload.Desired{
		ID: workload.ID{Contract: canon.Sum([]byte("contract")), Name: "web"}, Version: 1,
		Plan: plan.Workload{Name: "web", Kind: plan.KindContainer, Resources: r, Config: b},
	}
}

// The seccomp profile comes from a library and follows its versions, so the golden
// file holds the rest; what the profile must do is asserted in the node's kernel.
func TestConfigIsAsWrittenDown(t *testing.T) {
	c, r := example()
	s, err := ociConfig("web", c, r, 1<<20, "/zos/x-web", Namespace{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Linux.Seccomp == nil || s.Linux.Seccomp.DefaultAction != specs.ActErrno || len(s.Linux.Seccomp.Syscalls) == 0 {
		t.Errorf("seccomp profile %+v does not refuse by default", s.Linux.Seccomp)
	}
	for _, rule := range s.Linux.Seccomp.Syscalls {
		for _, name := range rule.Names {
			if rule.Action == specs.ActAllow && len(rule.Args) == 0 && (name == "mount" || name == "bpf" || name == "setns" || name == "init_module") {
				t.Errorf("seccomp allows %s to a container without capabilities", name)
			}
		}
	}
	s.Linux.Seccomp = nil
	got, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "config.golden.json")
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(got, '\n'), want) {
		t.Errorf("config differs from %s (rewrite with -update):\n%s", golden, got)
	}
}

func TestEveryConfigConfines(t *testing.T) {
	c, r := example()
	c.NoNewPrivs = false
	s, err := ociConfig("web", c, r, 1<<20, "/zos/x-web", Namespace{})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s.Process.Capabilities, &specs.LinuxCapabilities{}) || s.Process.NoNewPrivileges {
		t.Errorf("capabilities %+v, no_new_privs %t", s.Process.Capabilities, s.Process.NoNewPrivileges)
	}
	kinds := map[specs.LinuxNamespaceType]bool{}
	for _, n := range s.Linux.Namespaces {
		kinds[n.Type] = n.Path == ""
	}
	for _, k := range []specs.LinuxNamespaceType{"user", "pid", "ipc", "uts", "mount", "network", "cgroup"} {
		if !kinds[k] {
			t.Errorf("no %s namespace of its own", k)
		}
	}
}

func TestCPULimitIsNeverBelowTheKernels(t *testing.T) {
	for milli, want := range map[uint64]string{1: "1000 1000000", 9: "9000 1000000", 10: "1000 100000", 500: "50000 100000", 2000: "200000 100000"} {
		if got := cgroup.CPUMax(milli); got != want {
			t.Errorf("%d thousandths: %q, want %q", milli, got, want)
		}
	}
}

func TestBadPlansAreRefused(t *testing.T) {
	if _, err := decode(desired(example())); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*plan.Container, *plan.Resources){
		"version":         func(c *plan.Container, _ *plan.Resources) { c.V = 2 },
		"no flist":        func(c *plan.Container, _ *plan.Resources) { c.Flist = canon.Hash{} },
		"no args":         func(c *plan.Container, _ *plan.Resources) { c.Args = nil },
		"empty program":   func(c *plan.Container, _ *plan.Resources) { c.Args = []string{""} },
		"zero byte":       func(c *plan.Container, _ *plan.Resources) { c.Args = []string{"/bin/x", "a\x00b"} },
		"long argument":   func(c *plan.Container, _ *plan.Resources) { c.Args = []string{"x", strings.Repeat("y", maxString+1)} },
		"variable":        func(c *plan.Container, _ *plan.Resources) { c.Env = []string{"NOVALUE"} },
		"nameless":        func(c *plan.Container, _ *plan.Resources) { c.Env = []string{"=x"} },
		"relative dir":    func(c *plan.Container, _ *plan.Resources) { c.WorkDir = "srv" },
		"user":            func(c *plan.Container, _ *plan.Resources) { c.UID = 65536 },
		"group":           func(c *plan.Container, _ *plan.Resources) { c.GID = 1 << 31 },
		"restart":         func(c *plan.Container, _ *plan.Resources) { c.Life.Restart = "sometimes" },
		"no cpu":          func(_ *plan.Container, r *plan.Resources) { r.CPU = 0 },
		"no memory":       func(_ *plan.Container, r *plan.Resources) { r.Memory = 0 },
		"negative memory": func(_ *plan.Container, r *plan.Resources) { r.Memory = 1 << 63 },
		"no pids":         func(_ *plan.Container, r *plan.Resources) { r.PIDs = 0 },
		"endless disk":    func(_ *plan.Container, r *plan.Resources) { r.Disk = 1 << 63 },
	} {
		c, r := example()
		spoil(&c, &r)
		if _, err := decode(desired(c, r)); problem.Code(err) != CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, spoil := range map[string]func(*workload.Desired){
		"kind":       func(d *workload.Desired) { d.Plan.Kind = "vm" },
		"other name": func(d *workload.Desired) { d.Plan.Name = "db" },
		"path":       func(d *workload.Desired) { d.ID.Name, d.Plan.Name = "../x", "../x" },
		"bytes":      func(d *workload.Desired) { d.Plan.Config = d.Plan.Config[1:] },
		"trailing":   func(d *workload.Desired) { d.Plan.Config = append(d.Plan.Config, 0) },
	} {
		d := desired(example())
		spoil(&d)
		if _, err := decode(d); problem.Code(err) != CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysAreReadBack(t *testing.T) {
	id := workload.ID{Contract: canon.Sum([]byte("c")), Name: "a-b-9"}
	if got, err := parseKey(keyOf(id)); err != nil || got != id {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "x", keyOf(id)[1:], id.Contract.String(), id.Contract.String() + "-", id.Contract.String() + "-A", id.Contract.String() + "-a/b",
		strings.ToUpper(keyOf(id)), keyOf(id) + strings.Repeat("x", 63)} {
		if got, err := parseKey(bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
}

func bare(t *testing.T) *Kind {
	t.Helper()
	cfg := Config{Data: t.TempDir(), Run: t.TempDir()}
	defaults(&cfg)
	return &Kind{cfg: cfg}
}

func TestRangesOfUserIDsNeverOverlap(t *testing.T) {
	k := bare(t)
	seen := map[uint32]string{}
	give := func(name string) record {
		p := k.place(workload.ID{Contract: canon.Sum([]byte("c")), Name: name})
		r, err := k.allot(p, record{Version: 1})
		if err != nil {
			t.Fatal(err)
		}
		if r.IDBase < 1<<20 || r.IDBase%idRange != 0 || seen[r.IDBase] != "" {
			t.Fatalf("%s got base %d, like %q", name, r.IDBase, seen[r.IDBase])
		}
		if kept, err := readRecord(p); err != nil || kept != r {
			t.Fatalf("not written down: %+v, %v", kept, err)
		}
		seen[r.IDBase] = name
		return r
	}
	give("a")
	b := give("b")
	give("c")
	if err := removeData(k.place(workload.ID{Contract: canon.Sum([]byte("c")), Name: "b"})); err != nil {
		t.Fatal(err)
	}
	delete(seen, b.IDBase)
	if again := give("d"); again.IDBase != b.IDBase {
		t.Errorf("the range of a removed workload is not used again: %d", again.IDBase)
	}
	// One whose record was damaged does not stop the others, and keeps its range
	// while it runs.
	running := k.place(workload.ID{Contract: canon.Sum([]byte("c")), Name: "a"})
	if err := os.MkdirAll(running.run, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := shim.WriteSpec(running.run, shim.Spec{UID: 1<<20 + 1000}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.place(workload.ID{Contract: canon.Sum([]byte("c")), Name: "a"}).record, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	give("e")
}

func TestOnlyOurFilesAreOurs(t *testing.T) {
	k := bare(t)
	contract := canon.Sum([]byte("c")).String()
	for _, f := range []string{contract + "/ours/container.json", contract + "/torn/container.json.tmp", contract + "/volume/volume.json", "other/x/container.json", contract + "/BAD/container.json"} {
		f = filepath.Join(k.cfg.Data, f)
		if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(k.cfg.Data, contract, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	ids, err := k.stored()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, id := range ids {
		names = append(names, id.Name)
	}
	if got := strings.Join(names, " "); got != "empty ours torn" {
		t.Errorf("stored: %s", got)
	}
}

func FuzzDecode(f *testing.F) {
	d := desired(example())
	f.Add(d.Plan.Config, uint64(100), uint64(64<<20), uint64(1<<30), uint64(10))
	f.Add([]byte{0xa0}, uint64(0), uint64(0), uint64(0), uint64(0))
	c, r := example()
	c.Isolation = plan.IsolationMicroVM
	c.Life.Health = &plan.Health{Kind: plan.CheckHTTP, Args: []string{}, Port: 80, Path: "/", Interval: 1000, Timeout: 1000, Retries: 3}
	c.Files = []plan.File{{Path: "/etc/web.conf", Mode: 0o644, Content: []byte("x")}}
	f.Add(desired(c, r).Plan.Config, r.CPU, r.Memory, r.Disk, r.PIDs)
	f.Fuzz(func(t *testing.T, config []byte, cpu, memory, disk, pids uint64) {
		d := desired(example())
		d.Plan.Config = config
		d.Plan.Resources = plan.Resources{CPU: cpu, Memory: memory, Disk: disk, PIDs: pids}
		c, err := decode(d)
		if err != nil {
			if problem.Code(err) != CodeInvalid {
				t.Errorf("code %q of %v", problem.Code(err), err)
			}
			return
		}
		// What a node has proven is more than what this kind asks for.
		if _, err := plan.DecodeContainer(config); err == nil {
			checkForGuest(t, c, d.Plan.Resources)
		}
		if c.Isolation == plan.IsolationMicroVM {
			return
		}
		s, err := ociConfig("web", c, d.Plan.Resources, 1<<20, "/zos/x", Namespace{})
		if err != nil {
			t.Fatal(err)
		}
		r := s.Linux.Resources
		if s.Process.User.UID >= idRange || *r.Memory.Limit < minMemory || *r.Pids.Limit < 1 {
			t.Errorf("unlimited: %+v", r)
		}
		var quota, period uint64
		if n, err := fmt.Sscanf(cgroup.CPUMax(cpu), "%d %d", &quota, &period); n != 2 || err != nil || quota < 1000 || period > 1_000_000 {
			t.Errorf("cpu.max %q", cgroup.CPUMax(cpu))
		}
		if _, err := json.Marshal(s); err != nil {
			t.Error(err)
		}
	})
}

// checkForGuest: what a valid plan asks for, its guest's agent takes.
func checkForGuest(t *testing.T, c plan.Container, r plan.Resources) {
	t.Helper()
	if h := life.Of(c.Life).Health; h != nil {
		if err := (control.Request{Verb: control.VerbProbe, Probe: &h.Probe}).Check(); err != nil {
			t.Errorf("its health check: %v", err)
		}
	}
	b := bootOf("web", c, r, machine.Net{}, given{})
	text, err := json.Marshal(control.Request{Verb: control.VerbBoot, Boot: &b})
	if err != nil || len(text) > control.MaxRequest {
		t.Errorf("told in %d bytes: %v", len(text), err)
	}
}
