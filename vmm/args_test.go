//go:build !invm

package vmm

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/vmm/tree"
)

// full is a machine with one of everything.
func full() Config {
	return Config{
		Name: "web", UUID: "11111111-2222-3333-4444-555555555555", Accel: KVM, Board: MicroVM, Memory: 256 << 20, CPUs: 2,
		Kernel: &Kernel{Image: tree.Kernel, Initrd: tree.Initrd, Cmdline: "console=ttyS0 quiet"},
		Disks:  []Disk{{Serial: "root", File: 3, ReadOnly: true}, {Serial: "data", File: 4}},
		NICs:   []NIC{{MAC: "52:54:00:12:34:56", Tap: 5, Vhost: 6, MTU: 1400}},
		Shares: []Share{{Tag: "root", Socket: 7}},
		Vsock:  &Vsock{CID: 3, File: 8},
		Agent:  9, Console: 10, QMP: 11,
	}
}

func bios() Config {
	c := full()
	c.Board, c.Kernel, c.UEFI = Q35, nil, &UEFI{Vars: 12}
	c.Disks[1].Base = 13
	return c
}

// golden compares with a file, or writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (UPDATE_GOLDEN=1 writes it):\n%s", file, got)
	}
}

// TestCommandLineIsTheGoldenOne shows any change of what machines are.
func TestCommandLineIsTheGoldenOne(t *testing.T) {
	for file, c := range map[string]Config{"testdata/microvm.args": full(), "testdata/uefi.args": bios()} {
		a, err := c.Args()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, file, strings.Join(a, "\n")+"\n")
	}
}

// TestNoStringReachesAnotherOption puts into every string what QEMU's parsers
// give a meaning to. Either it is refused, or it is a single argument.
func TestNoStringReachesAnotherOption(t *testing.T) {
	attacks := []string{
		"a,fd=0", "a,,b", "a=b", "-S", "-daemonize", "a -S", "a\n-S", "a\x00-S", `a"`, `a","driver":"x`, "a'b", "a:b", "%s", "$(id)", "`id`",
		"../../etc/passwd", "/etc/../etc/passwd", "/dev/fdset/3", "fd:3", "json:{}", "nbd:host:1", "é", "\xff", strings.Repeat("a", 5000), "",
	}
	fields := map[string]func(*Config, string){
		"name":    func(c *Config, s string) { c.Name = s },
		"uuid":    func(c *Config, s string) { c.UUID = s },
		"accel":   func(c *Config, s string) { c.Accel = Accel(s) },
		"board":   func(c *Config, s string) { c.Board = Board(s) },
		"image":   func(c *Config, s string) { c.Kernel.Image = s },
		"initrd":  func(c *Config, s string) { c.Kernel.Initrd = s },
		"cmdline": func(c *Config, s string) { c.Kernel.Cmdline = s },
		"serial":  func(c *Config, s string) { c.Disks[1].Serial = s },
		"mac":     func(c *Config, s string) { c.NICs[0].MAC = s },
		"tag":     func(c *Config, s string) { c.Shares[0].Tag = s },
	}
	// What a field may hold of these, because it is an argument of its own there.
	allowed := map[string]func(string) bool{
		"cmdline": func(s string) bool {
			return len(s) <= MaxCmdline && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
		},
		"uuid":   func(s string) bool { return s == "" },
		"initrd": func(s string) bool { return s == "" || s == "/dev/fdset/3" },
		"image":  func(s string) bool { return s == "/dev/fdset/3" }, // a plain path there
		"name":   func(s string) bool { return s == "-S" || s == "-daemonize" },
		"serial": func(s string) bool { return s == "-S" || s == "-daemonize" },
		"tag":    func(s string) bool { return s == "-S" || s == "-daemonize" },
	}
	for field, set := range fields {
		for _, attack := range attacks {
			c := full()
			set(&c, attack)
			a, err := c.Args()
			ok := allowed[field] != nil && allowed[field](attack)
			if ok != (err == nil) {
				t.Errorf("%s %.40q: allowed is %t, the error %v", field, attack, ok, err)
			}
			if err != nil {
				if problem.Code(err) != "machine-invalid" {
					t.Errorf("%s %.40q: %v", field, attack, err)
				}
				continue
			}
			checkStructure(t, a)
		}
	}
}

// checkStructure wants options at even places, each a known one, and JSON where
// it is meant.
func checkStructure(t *testing.T, a []string) {
	t.Helper()
	single := []string{"-nodefaults", "-no-user-config", "-S"}
	known := strings.Fields("-L -display -sandbox -name -uuid -machine -accel -cpu -m -smp -object -action -kernel -initrd -append -chardev -mon -serial -device -blockdev -add-fd -netdev")
	for i := 1; i < len(a); {
		if slices.Contains(single, a[i]) {
			i++
			continue
		}
		if !slices.Contains(known, a[i]) || i+1 == len(a) {
			t.Fatalf("argument %d is %q of %q", i, a[i], a)
		}
		if strings.HasPrefix(a[i+1], "{") && !json.Valid([]byte(a[i+1])) || strings.Contains(a[i+1], "\x00") {
			t.Fatalf("%s is %q", a[i], a[i+1])
		}
		if v := a[i+1]; a[i] == "-name" && strings.Contains(v, ",") {
			t.Fatalf("-name is %q", v)
		}
		i += 2
	}
}

func TestNonsenseMachinesAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no memory":             func(c *Config) { c.Memory = 0 },
		"half a MiB":            func(c *Config) { c.Memory += 1 << 19 },
		"too much memory":       func(c *Config) { c.Memory = 1 << 60 },
		"no processor":          func(c *Config) { c.CPUs = 0 },
		"minus one processor":   func(c *Config) { c.CPUs = -1 },
		"too many processors":   func(c *Config) { c.CPUs = 256 },
		"nothing to boot":       func(c *Config) { c.Kernel = nil },
		"two things to boot":    func(c *Config) { c.UEFI = &UEFI{Vars: 20} },
		"UEFI on a microvm":     func(c *Config) { c.Kernel, c.UEFI = nil, &UEFI{Vars: 20} },
		"no QMP":                func(c *Config) { c.QMP = 0 },
		"stdout as a disk":      func(c *Config) { c.Disks[0].File = 1 },
		"no file for a disk":    func(c *Config) { c.Disks[0].File = 0 },
		"a negative descriptor": func(c *Config) { c.Console = -3 },
		"a huge descriptor":     func(c *Config) { c.Console = 1 << 30 },
		"one file twice":        func(c *Config) { c.Disks[0].File = c.QMP },
		"one serial twice":      func(c *Config) { c.Disks[0].Serial = c.Disks[1].Serial },
		"one tag twice":         func(c *Config) { c.Shares = append(c.Shares, Share{Tag: "root", Socket: 30}) },
		"a multicast MAC":       func(c *Config) { c.NICs[0].MAC = "01:54:00:12:34:56" },
		"a long MAC":            func(c *Config) { c.NICs[0].MAC = "52:54:00:12:34:56:78:90" },
		"a small MTU":           func(c *Config) { c.NICs[0].MTU = 67 },
		"the host's CID":        func(c *Config) { c.Vsock.CID = 2 },
		"any CID":               func(c *Config) { c.Vsock.CID = 1<<32 - 1 },
		"many disks":            func(c *Config) { c.Disks = make([]Disk, MaxDisks+1) },
		"many cards":            func(c *Config) { c.NICs = make([]NIC, MaxNICs+1) },
		"many shares":           func(c *Config) { c.Shares = make([]Share, MaxShares+1) },
	} {
		c := full()
		change(&c)
		if _, err := c.Args(); problem.Code(err) != "machine-invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEndsAreToldApart(t *testing.T) {
	for _, c := range []struct {
		code, signal int
		begun        bool
		want         End
	}{
		{0, 0, true, EndOff}, {0, 0, false, EndOff}, {1, 0, true, EndPanic}, {1, 0, false, EndStart}, {127, 0, false, EndStart},
		{2, 0, true, EndFault}, {0, 9, true, EndKill}, {0, 9, false, EndKill}, {0, 15, true, EndKill}, {0, 11, true, EndFault}, {0, 31, true, EndFault},
	} {
		if got := EndOf(c.code, c.signal, c.begun); got != c.want {
			t.Errorf("code %d, signal %d, begun %t: %s, want %s", c.code, c.signal, c.begun, got, c.want)
		}
	}
}

// FuzzMachines: whatever a Config holds, it is refused, or each of its strings stays
// within its place in the command line and in the container's configuration.
func FuzzMachines(f *testing.F) {
	f.Add("web", "", "/boot/vmlinuz", "", "quiet", "data", "52:54:00:12:34:56", "root", uint64(256<<20), 2, 1400, 4)
	f.Add("a,fd=0", "11111111-2222-3333-4444-555555555555", "/dev/fdset/3", "json:{}", "a\n-S", `a","driver":"x`, "01:54:00:12:34:56", "-S", uint64(1)<<63, -1, 67, -3)
	f.Fuzz(func(t *testing.T, name, uuid, image, initrd, cmdline, serial, mac, tag string, memory uint64, cpus, mtu, fd int) {
		c := full()
		c.Name, c.UUID, c.Memory, c.CPUs = name, uuid, memory, cpus
		c.Kernel = &Kernel{Image: image, Initrd: initrd, Cmdline: cmdline}
		c.Disks[1].Serial, c.Disks[1].File = serial, FD(fd)
		c.NICs[0].MAC, c.NICs[0].MTU = mac, mtu
		c.Shares[0].Tag = tag
		a, err := c.Args()
		if (err == nil) != (c.Check() == nil) || err != nil && problem.Code(err) != "machine-invalid" {
			t.Fatalf("%v, and by itself %v", err, c.Check())
		}
		b := box()
		b.Memory = memory
		s, serr := MonitorSpec(c, b)
		if err != nil {
			if serr == nil {
				t.Error("a container for a machine that can't be")
			}
			return
		}
		checkStructure(t, a)
		plain := full()
		plain.UUID, plain.Kernel = uuid, &Kernel{Image: "/x", Initrd: initrd, Cmdline: cmdline}
		plain.NICs[0].MTU = mtu
		want, err := plain.Args()
		if err != nil {
			t.Fatal(err)
		}
		if len(want) != len(a) {
			t.Errorf("%d arguments, want %d: %q", len(a), len(want), a)
		}
		if serr != nil {
			t.Fatal(serr)
		}
		if !slices.Equal(s.Process.Args, a) || len(s.Linux.Devices) != 1 || !s.Process.NoNewPrivileges || len(s.Process.Capabilities.Bounding) != 0 {
			t.Errorf("the monitor gets %+v", s.Process)
		}
		if _, err := json.Marshal(s); err != nil {
			t.Error(err)
		}
	})
}
