package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/linux/cpio"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// BenchmarkReady is from QEMU's start until the agent has answered; BenchmarkPlain, the
// peer, until an init has printed that does nothing else, with the same kernel and machine.
func BenchmarkReady(b *testing.B) {
	initrd(b)
	dir, disk := image(b), upper(b)
	for b.Loop() {
		m := start(b, options{quiet: true, erofs: true, image: dir, disk: disk})
		_ = m.connect()
		b.ReportMetric(time.Since(m.started).Seconds()*1000, "ms")
		_ = m.Kill()
	}
}

func BenchmarkPlain(b *testing.B) {
	kernel, err := boot.OpenKernel(vmtest.Kernel(b))
	if err != nil {
		b.Fatal(err)
	}
	init, err := os.ReadFile(vmtest.BuildStatic(b, "github.com/zero-os/zos/cmd/zos-guest/testdata/hello"))
	if err != nil {
		b.Fatal(err)
	}
	// Compressed as ours is, with the same program.
	data, err := boot.CompressInitrd([]cpio.Entry{
		cpio.File("init", 0o755, init), cpio.Dir("dev", 0o755), cpio.Char("dev/null", 0o666, 1, 3), cpio.Char("dev/console", 0o600, 5, 1),
	})
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "initrd")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		started := time.Now()
		m := vmtest.NewMachine(b, qemu.Config{Name: "plain", MemoryMB: 256, Kernel: kernel.Image, Initrd: path, NoReboot: true, Cmdline: "console=ttyS0 quiet panic=-1"})
		m.WaitConsole(b, "hello", patience)
		b.ReportMetric(time.Since(started).Seconds()*1000, "ms")
		_ = m.Kill()
	}
}
