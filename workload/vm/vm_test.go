package vm

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/cloudinit"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
	"github.com/zero-os/zos/workload/control"
)

func example() plan.VM {
	return plan.VM{V: plan.Version, Flist: canon.Sum([]byte("flist")), Size: 1, Boot: plan.BootKernel, Life: plan.DefaultLife(), Disks: []plan.Disk{{Serial: "data", Size: 1 << 20}}}
}

func desired(t *testing.T, m plan.VM, disk uint64) workload.Desired {
	t.Helper()
	b, err := canon.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return workload.Desired{
		ID:   workload.ID{Contract: canon.Sum([]byte("contract")), Name: "box"},
		Plan: plan.Workload{Name: "box", Kind: plan.KindVM, Resources: plan.Resources{CPU: 1000, Memory: 512 << 20, Disk: disk, PIDs: 128}, Config: b},
	}
}

func TestWhatNoNodeCanRunIsRefused(t *testing.T) {
	if _, err := (form{}).Decode(desired(t, example(), 1<<30)); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(*plan.VM, *workload.Desired){
		"disks beyond the limit": func(m *plan.VM, _ *workload.Desired) { m.Disks[0].Size = 1 << 31 },
		"another kind":           func(_ *plan.VM, d *workload.Desired) { d.Plan.Kind = plan.KindContainer },
		"another name":           func(_ *plan.VM, d *workload.Desired) { d.Plan.Name = "other" },
		"a path as its name":     func(_ *plan.VM, d *workload.Desired) { d.ID.Name, d.Plan.Name = "../x", "../x" },
		"a health check without a network": func(m *plan.VM, _ *workload.Desired) {
			m.Life.Health = &plan.Health{Kind: "tcp", Port: 80, Interval: 1000, Timeout: 1000, Retries: 3}
		},
		"no boot": func(m *plan.VM, _ *workload.Desired) { m.Boot = "" },
	} {
		m := example()
		d := desired(t, m, 1<<30)
		f(&m, &d)
		b, err := canon.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		d.Plan.Config = b
		if _, err := (form{}).Decode(d); problem.Code(err) != container.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecode: what is accepted of a plan makes a command line of the kernel, a seed and
// disks within their limits.
func FuzzDecode(f *testing.F) {
	add := func(m plan.VM, disk uint64) {
		b, err := canon.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, disk)
	}
	m := example()
	add(m, 1<<30)
	m.Cmdline, m.Keys, m.UserData = "quiet", []string{"ssh-ed25519 AAAA ada"}, []byte("#cloud-config\n")
	m.Secrets = []plan.Secret{{Name: "pw", Path: "/run/pw", Epoch: 1, Sealed: make([]byte, 1300)}}
	add(m, 1<<20)
	f.Add([]byte{0xa0}, uint64(0))
	f.Fuzz(func(t *testing.T, config []byte, disk uint64) {
		if len(config) > plan.MaxSize {
			return
		}
		d := workload.Desired{
			ID:   workload.ID{Contract: canon.Sum([]byte("contract")), Name: "box"},
			Plan: plan.Workload{Name: "box", Kind: plan.KindVM, Resources: plan.Resources{CPU: 1000, Memory: 512 << 20, Disk: disk, PIDs: 128}, Config: config},
		}
		p, err := form{}.Decode(d)
		if err != nil {
			if problem.Code(err) != container.CodeInvalid {
				t.Errorf("code %q of %v", problem.Code(err), err)
			}
			return
		}
		m := p.Config.(plan.VM)
		left, err := layer(m, d.Plan.Resources)
		if err != nil || left > disk {
			t.Errorf("a layer of %d bytes of a disk of %d, %v", left, disk, err)
		}
		c := vmm.Config{
			Name: d.ID.Name, Accel: vmm.KVM, Board: vmm.Q35, Memory: 256 << 20, CPUs: 1, QMP: 3,
			Kernel: &vmm.Kernel{Image: "/boot/vmlinuz", Cmdline: cmdline(m)},
		}
		for i, disk := range m.Disks {
			c.Disks = append(c.Disks, vmm.Disk{Serial: disk.Serial, File: vmm.FD(4 + i)})
		}
		if err := c.Check(); err != nil {
			t.Errorf("a valid plan's machine: %v", err)
		}
		s := cloudinit.Seed{Instance: instance(d.ID, m), Hostname: d.ID.Name, Keys: m.Keys, UserData: m.UserData}
		for _, secret := range m.Secrets {
			s.Files = append(s.Files, control.File{Path: secret.Path, Mode: 0o400, Content: []byte("opened")})
		}
		if _, err := s.Image(); err != nil {
			t.Errorf("a valid plan's seed: %v", err)
		}
	})
}

func TestTheLifeAloneIsNoNewMachine(t *testing.T) {
	core := func(m plan.VM) string {
		p, err := form{}.Decode(desired(t, m, 1<<30))
		if err != nil {
			t.Fatal(err)
		}
		return string(p.Core)
	}
	a, b, c := example(), example(), example()
	b.Life.Grace++
	c.Cmdline = "quiet"
	if core(a) != core(b) || core(a) == core(c) {
		t.Error("a machine's core is not what only a new start changes")
	}
}

func TestAnEmptyImageOfChangesIsWhole(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []uint64{512, 1 << 20, 10 << 30, maxVirtual} {
		path := filepath.Join(dir, "image")
		if err := writeQcow(path, size); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		used := uint64(len(b)) / cluster
		if binary.BigEndian.Uint64(b[24:]) != size || uint64(len(b))%cluster != 0 || used > cluster/2 {
			t.Errorf("size %d: %d clusters", size, used)
		}
		for i := range uint64(cluster / 2) {
			want := uint16(0)
			if i < used {
				want = 1
			}
			if got := binary.BigEndian.Uint16(b[2*cluster+2*i:]); got != want {
				t.Fatalf("size %d: cluster %d is counted %d times, want %d", size, i, got, want)
			}
		}
		if l1 := uint64(binary.BigEndian.Uint32(b[36:])); l1*perL1 < size {
			t.Errorf("size %d: L1 table of %d entries", size, l1)
		}
	}
	for _, size := range []uint64{0, 513, 2 * maxVirtual} {
		if writeQcow(filepath.Join(dir, "none"), size) == nil {
			t.Errorf("%d bytes are taken for a disk", size)
		}
	}
}

func TestADiskGrowsAndNeverShrinks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := writeQcow(path, 1<<30); err != nil {
		t.Fatal(err)
	}
	header := func() (size uint64, l1 uint32) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return binary.BigEndian.Uint64(b[24:]), binary.BigEndian.Uint32(b[36:])
	}
	for _, step := range []struct{ to, want uint64 }{{2 << 30, 2 << 30}, {1 << 20, 2 << 30}, {4 << 40, 4 << 40}, {5 << 40, 4 << 40}, {2 * maxVirtual, 4 << 40}} {
		if err := growQcow(path, step.to); err != nil {
			t.Fatal(err)
		}
		if size, l1 := header(); size != step.want || uint64(l1)*perL1 < size {
			t.Errorf("to %d: %d bytes with %d entries, want %d", step.to, size, l1, step.want)
		}
	}
	for name, content := range map[string]string{"nothing": "", "something else": string(make([]byte, 4096))} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = growQcow(path, 1<<30)
		if b, err := os.ReadFile(path); err != nil || string(b) != content {
			t.Errorf("%s was written to", name)
		}
	}
}

// TestTheNodesFilesAreNotTheFlists: links of a flist lead to its own files.
func TestTheNodesFilesAreNotTheFlists(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{root, filepath.Join(dir, "boot"), filepath.Join(root, "kernels")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{filepath.Join(dir, "boot/vmlinuz"): "the node's", filepath.Join(root, "kernels/vmlinuz"): "its own"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for target, ok := range map[string]bool{filepath.Join(dir, "boot"): false, "../boot": false, "/kernels": true, "kernels": true, "/proc/self/cwd": false} {
		link := filepath.Join(root, "boot")
		_ = os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if err := there(root, "boot/vmlinuz"); (err == nil) != ok {
			t.Errorf("boot → %s: %v", target, err)
		}
	}
}
