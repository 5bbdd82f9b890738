package plan

import (
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func check(kind string) *Health {
	h := &Health{Kind: kind, Args: []string{}, Interval: 1000, Timeout: 1000, Retries: 3}
	switch kind {
	case CheckExec:
		h.Args = []string{"/check"}
	case CheckTCP:
		h.Port = 80
	case CheckHTTP:
		h.Port, h.Path = 80, "/healthz"
	}
	return h
}

func password(env, path string) Secret {
	s := Secret{Name: "pw", Env: env, Path: path, Epoch: 1, Sealed: []byte{1}}
	if path != "" {
		s.Mode = 0o400
	}
	return s
}

func TestLivesOutOfTheirLimitsAreRefused(t *testing.T) {
	for _, kind := range []string{CheckExec, CheckTCP, CheckHTTP} {
		c := container()
		c.Life.Health = check(kind)
		c.Files = []File{{Path: "/a", Mode: 0o644}}
		c.Secrets = []Secret{password("PASSWORD", "")}
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	health := func(kind string, change func(*Health)) func(*Container) {
		return func(c *Container) { c.Life.Health = check(kind); change(c.Life.Health) }
	}
	for name, change := range map[string]func(*Container){
		"isolation any":             func(c *Container) { c.Isolation = "any" },
		"no isolation":              func(c *Container) { c.Isolation = "" },
		"privileged in namespaces":  func(c *Container) { c.Privileged, c.NoNewPrivs = true, false },
		"privileged, no privileges": func(c *Container) { c.Isolation, c.Privileged = IsolationMicroVM, true },
		"many attempts":             func(c *Container) { c.Life.Attempts = 1001 },
		"deadline":                  func(c *Container) { c.Life.Deadline = MaxSeconds + 1 },
		"deadline that overflows":   func(c *Container) { c.Life.Deadline = 1 << 63 },
		"no signal":                 func(c *Container) { c.Life.Signal = 0 },
		"signal":                    func(c *Container) { c.Life.Signal = MaxSignal + 1 },
		"no grace":                  func(c *Container) { c.Life.Grace = 0 },
		"grace":                     func(c *Container) { c.Life.Grace = MaxGrace + 1 },
		"access for everyone":       func(c *Container) { c.Life.Access.Exec = "all" },
		"access for nobody named":   func(c *Container) { c.Life.Access.Files = "" },
		"check by ping":             health(CheckTCP, func(h *Health) { h.Kind = "ping" }),
		"exec without a program":    health(CheckExec, func(h *Health) { h.Args = nil }),
		"exec with a port":          health(CheckExec, func(h *Health) { h.Port = 1 }),
		"exec with a zero byte":     health(CheckExec, func(h *Health) { h.Args[0] = "a\x00" }),
		"exec too often":            health(CheckExec, func(h *Health) { h.Interval = MinExecInterval - 1 }),
		"tcp too often":             health(CheckTCP, func(h *Health) { h.Interval = MinInterval - 1 }),
		"tcp with arguments":        health(CheckTCP, func(h *Health) { h.Args = []string{"/x"} }),
		"tcp with a path":           health(CheckTCP, func(h *Health) { h.Path = "/" }),
		"tcp without a port":        health(CheckTCP, func(h *Health) { h.Port = 0 }),
		"http without a path":       health(CheckHTTP, func(h *Health) { h.Path = "" }),
		"http with two lines":       health(CheckHTTP, func(h *Health) { h.Path = "/ HTTP/1.1\r\nHost: x" }),
		"interval that overflows":   health(CheckTCP, func(h *Health) { h.Interval = 1 << 63 }),
		"timeout":                   health(CheckTCP, func(h *Health) { h.Timeout = 600_001 }),
		"no timeout":                health(CheckTCP, func(h *Health) { h.Timeout = 0 }),
		"no retries":                health(CheckTCP, func(h *Health) { h.Retries = 0 }),
		"start that overflows":      health(CheckTCP, func(h *Health) { h.Start = 1 << 63 }),
		"many files":                func(c *Container) { c.Files = make([]File, MaxFiles+1) },
		"large file":                func(c *Container) { c.Files = []File{{Path: "/a", Mode: 0o644, Content: make([]byte, MaxFile+1)}} },
		"relative file":             func(c *Container) { c.Files = []File{{Path: "a", Mode: 0o644}} },
		"climbing file":             func(c *Container) { c.Files = []File{{Path: "/a/../b", Mode: 0o644}} },
		"file at the root":          func(c *Container) { c.Files = []File{{Path: "/", Mode: 0o644}} },
		"set-id file":               func(c *Container) { c.Files = []File{{Path: "/a", Mode: 0o4755}} },
		"file twice":                func(c *Container) { c.Files = []File{{Path: "/a", Mode: 0o644}, {Path: "/a", Mode: 0o644}} },
		"many secrets":              func(c *Container) { c.Secrets = make([]Secret, MaxSecrets+1) },
		"secret nowhere":            func(c *Container) { c.Secrets = []Secret{password("", "")} },
		"secret in two places":      func(c *Container) { c.Secrets = []Secret{password("A", "/a")} },
		"secret in a bad variable":  func(c *Container) { c.Secrets = []Secret{password("A=B", "")} },
		"secret of no epoch":        func(c *Container) { c.Secrets = []Secret{password("PASSWORD", "")}; c.Secrets[0].Epoch = 0 },
		"large secret": func(c *Container) {
			c.Secrets = []Secret{password("PASSWORD", "")}
			c.Secrets[0].Sealed = make([]byte, MaxSecret+1)
		},
		"secret over a variable": func(c *Container) { c.Secrets = []Secret{password("A", "")} }, // container has A=1
		"secret over a file": func(c *Container) {
			c.Files, c.Secrets = []File{{Path: "/a", Mode: 0o644}}, []Secret{password("", "/a")}
		},
		"secret over a secret": func(c *Container) {
			c.Secrets = []Secret{password("PASSWORD", ""), password("PASSWORD", "")}
			c.Secrets[1].Name = "pw2"
		},
	} {
		c := container()
		change(&c)
		if err := c.Validate(); problem.Code(err) != "plan-invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func machine() VM {
	return VM{
		V: Version, Flist: canon.Hash{1}, Boot: BootKernel, Cmdline: "quiet", Life: DefaultLife(), UserData: []byte("#cloud-config"),
		Disks: []Disk{{Serial: "data", Size: 1 << 30}}, Keys: []string{"ssh-ed25519 AAAA ada"}, Networks: []Attachment{}, Secrets: []Secret{password("", "/run/pw")},
	}
}

func TestMachinesOutOfTheirLimitsAreRefused(t *testing.T) {
	if b, err := machine().Encode(); err != nil {
		t.Fatal(err)
	} else if _, err := DecodeVM(b); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*VM){
		"format":                    func(m *VM) { m.V = 2 },
		"no flist":                  func(m *VM) { m.Flist = canon.Hash{} },
		"size":                      func(m *VM) { m.Size = MaxAmount + 1 },
		"boots by nothing":          func(m *VM) { m.Boot = "" },
		"command line of two lines": func(m *VM) { m.Cmdline = "a\nb" },
		"long command line":         func(m *VM) { m.Cmdline = strings.Repeat("x", 1025) },
		"command line of a disk":    func(m *VM) { m.Boot = BootDisk },
		"many disks":                func(m *VM) { m.Disks = make([]Disk, MaxDisks+1) },
		"serial":                    func(m *VM) { m.Disks[0].Serial = "a,b" },
		"long serial":               func(m *VM) { m.Disks[0].Serial = strings.Repeat("a", 21) },
		"empty disk":                func(m *VM) { m.Disks[0].Size = 0 },
		"disk that overflows":       func(m *VM) { m.Disks[0].Size = 1 << 63 },
		"disk twice":                func(m *VM) { m.Disks = append(m.Disks, m.Disks[0]) },
		"large user data":           func(m *VM) { m.UserData = make([]byte, MaxCloudInit+1) },
		"many keys":                 func(m *VM) { m.Keys = make([]string, MaxFiles+1) },
		"key of two lines":          func(m *VM) { m.Keys[0] = "ssh-ed25519 AAAA\nssh-ed25519 BBBB" },
		"secret as a variable":      func(m *VM) { m.Secrets = []Secret{password("PASSWORD", "")} },
		"check by exec":             func(m *VM) { m.Life.Health = check(CheckExec) },
		"no restart policy":         func(m *VM) { m.Life.Restart = "" },
	} {
		m := machine()
		change(&m)
		if err := m.Validate(); problem.Code(err) != "plan-invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUpdatesOutOfTheirLimitsAreRefused(t *testing.T) {
	if err := DefaultUpdate().validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Update){
		"strategy":                func(u *Update) { u.Strategy = "canary" },
		"none unavailable":        func(u *Update) { u.MaxUnavailable = 0 },
		"many unavailable":        func(u *Update) { u.MaxUnavailable = MaxWorkloads + 1 },
		"no deadline":             func(u *Update) { u.Deadline = 0 },
		"deadline that overflows": func(u *Update) { u.Deadline = 1 << 63 },
	} {
		u := DefaultUpdate()
		change(&u)
		if problem.Code(u.validate()) != "plan-invalid" {
			t.Errorf("%s was let pass", name)
		}
	}
}
