package plan

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func container() Container {
	return Container{
		V: Version, Flist: canon.Sum([]byte("flist")), Size: 7, Args: []string{"/bin/x", ""}, Env: []string{"A=1", "B="},
		WorkDir: "/srv", UID: 1, GID: 65535, NoNewPrivs: true, Isolation: IsolationNamespace, Life: DefaultLife(), Networks: []Attachment{}, Files: []File{}, Secrets: []Secret{},
	}
}

func job(t testing.TB, name string) Workload {
	t.Helper()
	config, err := container().Encode()
	if err != nil {
		t.Fatal(err)
	}
	return Workload{
		Name: name, Kind: KindContainer, Slot: canon.Sum([]byte("slot")), After: []string{}, Config: config,
		Resources: Resources{CPU: 1, Memory: MinMemory, Disk: 0, PIDs: 1},
	}
}

func good(t testing.TB) Plan {
	t.Helper()
	return Plan{V: Version, Update: DefaultUpdate(), Group: canon.Sum([]byte("group")), Name: "shop", Networks: []Network{}, Workloads: []Workload{job(t, "db"), job(t, "web")}}
}

func TestPlanComesBackEqual(t *testing.T) {
	p := good(t)
	b, err := Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("got %+v, %v", got, err)
	}
	if Hash(b) != canon.Sum(b) {
		t.Error("the plan hash is not the hash of the bytes")
	}
	c, err := DecodeContainer(p.Workloads[0].Config)
	if err != nil || !reflect.DeepEqual(c, container()) {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestPlansOutOfTheirLimitsAreRefused(t *testing.T) {
	many := make([]Workload, MaxWorkloads+1)
	for i := range many {
		many[i] = job(t, fmt.Sprintf("w-%03d", i))
	}
	for name, change := range map[string]func(*Plan){
		"format":             func(p *Plan) { p.V = 0 },
		"no group":           func(p *Plan) { p.Group = canon.Hash{} },
		"name":               func(p *Plan) { p.Name = "Shop" },
		"no name":            func(p *Plan) { p.Name = "" },
		"long name":          func(p *Plan) { p.Name = strings.Repeat("x", 64) },
		"unsorted":           func(p *Plan) { p.Workloads[0], p.Workloads[1] = p.Workloads[1], p.Workloads[0] },
		"name twice":         func(p *Plan) { p.Workloads[0] = p.Workloads[1] },
		"too many workloads": func(p *Plan) { p.Workloads = many },
		"workload's name":    func(p *Plan) { p.Workloads[1].Name = "we b" },
		"no slot":            func(p *Plan) { p.Workloads[1].Slot = canon.Hash{} },
		"unknown kind":       func(p *Plan) { p.Workloads[1].Kind = "vm" },
		"no cpu":             func(p *Plan) { p.Workloads[1].Resources.CPU = 0 },
		"too much cpu":       func(p *Plan) { p.Workloads[1].Resources.CPU = MaxAmount + 1 },
		"too little memory":  func(p *Plan) { p.Workloads[1].Resources.Memory = MinMemory - 1 },
		"too much memory":    func(p *Plan) { p.Workloads[1].Resources.Memory = 1 << 63 },
		"too much disk":      func(p *Plan) { p.Workloads[1].Resources.Disk = MaxAmount + 1 },
		"no pids":            func(p *Plan) { p.Workloads[1].Resources.PIDs = 0 },
		"no config":          func(p *Plan) { p.Workloads[1].Config = nil },
		"config with a tail": func(p *Plan) { p.Workloads[1].Config = append(bytes.Clone(p.Workloads[1].Config), 0) },
	} {
		p := good(t)
		change(&p)
		if _, err := Encode(p); problem.Code(err) != "plan-invalid" {
			t.Errorf("%s: Encode: %v", name, err)
		}
		b, err := canon.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(b); problem.Code(err) != "plan-invalid" {
			t.Errorf("%s: Decode: %v", name, err)
		}
	}
	full := good(t)
	full.Workloads = many[:MaxWorkloads]
	if _, err := Encode(full); err != nil {
		t.Errorf("a full plan: %v", err)
	}
	empty := good(t)
	empty.Workloads = nil
	if b, err := Encode(empty); err != nil {
		t.Errorf("a plan for a cancellation: %v", err)
	} else if p, err := Decode(b); err != nil || len(p.Workloads) != 0 {
		t.Errorf("a plan for a cancellation: %+v, %v", p, err)
	}
}

func TestContainersOutOfTheirLimitsAreRefused(t *testing.T) {
	if err := container().Validate(); err != nil {
		t.Fatal(err)
	}
	many := make([]string, MaxArgs+1)
	for i := range many {
		many[i] = fmt.Sprintf("A%03d=", i)
	}
	for name, change := range map[string]func(*Container){
		"format":            func(c *Container) { c.V = 2 },
		"no flist":          func(c *Container) { c.Flist = canon.Hash{} },
		"size":              func(c *Container) { c.Size = MaxAmount + 1 },
		"no arguments":      func(c *Container) { c.Args = nil },
		"empty program":     func(c *Container) { c.Args = []string{""} },
		"many arguments":    func(c *Container) { c.Args = many },
		"zero byte":         func(c *Container) { c.Args[1] = "a\x00b" },
		"long argument":     func(c *Container) { c.Args[1] = strings.Repeat("x", MaxString+1) },
		"many variables":    func(c *Container) { c.Env = many },
		"variable, no name": func(c *Container) { c.Env = []string{"=1"} },
		"variable, no =":    func(c *Container) { c.Env = []string{"A"} },
		"variable, zero":    func(c *Container) { c.Env = []string{"A=\x00"} },
		"variables twice":   func(c *Container) { c.Env = []string{"A=1", "A=2"} },
		"unsorted":          func(c *Container) { c.Env = []string{"B=1", "A=2"} },
		"no directory":      func(c *Container) { c.WorkDir = "" },
		"relative":          func(c *Container) { c.WorkDir = "srv" },
		"climbing":          func(c *Container) { c.WorkDir = "/srv/../etc" },
		"slash":             func(c *Container) { c.WorkDir = "/srv/" },
		"directory, zero":   func(c *Container) { c.WorkDir = "/srv\x00" },
		"uid":               func(c *Container) { c.UID = 65536 },
		"gid":               func(c *Container) { c.GID = 65536 },
		"restart":           func(c *Container) { c.Life.Restart = "" },
	} {
		c := container()
		change(&c)
		if _, err := c.Encode(); problem.Code(err) != "plan-invalid" {
			t.Errorf("%s: Encode: %v", name, err)
		}
		b, err := canon.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeContainer(b); problem.Code(err) != "plan-invalid" {
			t.Errorf("%s: DecodeContainer: %v", name, err)
		}
	}
}

func TestPlanHasABoundedSize(t *testing.T) {
	p := good(t)
	c := container()
	for range 4 {
		c.Args = append(c.Args, strings.Repeat("x", MaxString))
	}
	b, err := canon.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	p.Workloads[0].Config = b
	if _, err := Encode(p); err != nil {
		t.Errorf("one large workload: %v", err)
	}
	p.Workloads[1].Config = b
	if _, err := Encode(p); problem.Code(err) != "plan-invalid" {
		t.Errorf("Encode: %v", err)
	}
	if b, err = canon.Marshal(p); err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(b); problem.Code(err) != "plan-invalid" {
		t.Errorf("Decode: %v", err)
	}
}

func TestSortedEnvironmentIsOneThatAContainerTakes(t *testing.T) {
	got := SortEnv([]string{"PATH=/bin", "A=1", "PATH=/usr/bin", "A-B=1", "AB=2"})
	if want := []string{"A=1", "A-B=1", "AB=2", "PATH=/usr/bin"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	c := container()
	c.Env = got
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := Encode(good(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(good(f).Workloads[0].Config)
	f.Add([]byte{0xa0})
	wires := newWired()
	if b, err = Encode(wires.build(f)); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(wires.plan.Workloads[0].Config)
	f.Add(wires.plan.Workloads[2].Config)
	m := machine()
	m.Life.Health = check(CheckHTTP)
	lives := container()
	lives.Life.Health, lives.Files, lives.Secrets = check(CheckExec), []File{{Path: "/etc/x", Mode: 0o644, Content: []byte("x")}}, []Secret{password("PASSWORD", "")}
	for _, encode := range []func() ([]byte, error){m.Encode, lives.Encode} {
		if b, err = encode(); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > MaxSize {
			return
		}
		if p, err := Decode(b); err == nil {
			if again, err := Encode(p); err != nil || !bytes.Equal(again, b) {
				t.Errorf("accepted %x, which encodes as %x, %v", b, again, err)
			}
		}
		if c, err := DecodeContainer(b); err == nil {
			if again, err := c.Encode(); err != nil || !bytes.Equal(again, b) {
				t.Errorf("accepted %x, which encodes as %x, %v", b, again, err)
			}
		}
		if m, err := DecodeVM(b); err == nil {
			if again, err := m.Encode(); err != nil || !bytes.Equal(again, b) {
				t.Errorf("accepted %x, which encodes as %x, %v", b, again, err)
			}
			w := Workload{Kind: KindVM, Config: b}
			if life, ok := LifeOf(w); !ok || life.Restart == "" {
				t.Errorf("a machine without a life: %+v, %t", life, ok)
			}
		}
		if c, err := DecodeNetworkConfig(b); err == nil {
			if again, err := c.Encode(); err != nil || !bytes.Equal(again, b) {
				t.Errorf("accepted %x, which encodes as %x, %v", b, again, err)
			}
		}
	})
}
