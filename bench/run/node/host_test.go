//go:build !invm

package node

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// The peers, where Debian has them.
const (
	debianRunc = "/usr/sbin/runc"
	debianCrun = "/usr/bin/crun"
)

// BenchmarkContainers and the densities run what their names say inside a node, once:
// the repetitions are inside.
func BenchmarkContainers(b *testing.B)      { run(b, "^TestContainers$", 2560, false) }
func BenchmarkDensity(b *testing.B)         { run(b, "^TestDensity$", 4096, false) }
func BenchmarkDensityMicroVMs(b *testing.B) { run(b, "^TestDensityOfMicroVMs$", 4096, true) }

func run(b *testing.B, pattern string, memory int, machines bool) {
	files := map[string]string{
		"/bin/runc":     vmtest.BuildRunc(b),
		"/bin/zos-shim": vmtest.BuildShim(b),
	}
	o := vmtest.Options{
		Run: pattern, Modules: []string{"overlay", "loop", "erofs"}, MemoryMB: memory, Cmdline: vmtest.NodeCmdline, Files: files,
		Disks:   []qemu.Disk{{Path: vmtest.BlankDisk(b, dataSize)}, {Path: os.Getenv("BENCH_IMAGE"), ReadOnly: true}},
		Timeout: 25 * time.Minute, Env: []string{"BENCH_TIMES=" + os.Getenv("BENCH_TIMES"), "BENCH_MANY=" + os.Getenv("BENCH_MANY")},
	}
	if machines {
		o.Modules = append(o.Modules, "kvm_amd", "vhost_net", "tun")
		o.Disks = append(o.Disks, qemu.Disk{Path: vmtest.VMMDisk(b, vmtest.GuestInitrd(b)), ReadOnly: true})
	} else {
		o.Steady = pattern == "^TestContainers$" // starts are counted in what the processor executes
		for name, program := range map[string]string{"/bin/debian-runc": debianRunc, "/bin/debian-crun": debianCrun} {
			files[name] = program
			for _, lib := range libraries(b, program) {
				files[lib] = lib
			}
		}
	}
	for b.Loop() {
		console := vmtest.RunInVM(b, ".", o)
		for line := range strings.Lines(console) {
			if _, text, found := strings.Cut(line, "measured: "); found {
				fmt.Println("measured:", strings.TrimSpace(text))
			}
		}
	}
}

// libraries are what a dynamic program of this host needs, its loader included.
func libraries(b *testing.B, program string) []string {
	b.Helper()
	out, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil {
		b.Fatalf("ldd %s: %v: %s (run: make deps)", program, err, out)
	}
	var all []string
	for _, f := range strings.Fields(string(out)) {
		if strings.HasPrefix(f, "/") {
			all = append(all, f)
		}
	}
	return all
}
