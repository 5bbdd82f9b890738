package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/linux/cpio"
	"github.com/zero-os/zos/linux/ext4"
)

// parts are what is measured.
type parts struct {
	dir         string
	kernel      string // the node's, which all machines boot
	guest       string // initrd of micro-VMs
	hello       string // initrd that prints a line and nothing else
	plain       string // initrd of a plain machine that takes measures
	meter       string // program
	image       string // directory of an image: meter and a blob
	imageEROFS  string // the same as a block image
	kernelDir   string
	agentBinary string
}

// blobSize is the file that is read, in bytes: it fits into a guest's memory.
const blobSize = 64 << 20

func (p *parts) build(ctx context.Context, kernelDir string) (err error) {
	if p.dir, err = os.MkdirTemp("", "zos-bench-run-"); err != nil {
		return err
	}
	// Containers look into it as users of their own.
	if err := os.Chmod(p.dir, 0o755); err != nil {
		return err
	}
	if p.kernelDir, err = filepath.Abs(kernelDir); err != nil {
		return err
	}
	k, err := boot.OpenKernel(p.kernelDir)
	if err != nil {
		return fmt.Errorf("%w (run: make deps)", err)
	}
	at := func(name string) string { return filepath.Join(p.dir, name) }
	p.meter, p.agentBinary = at("meter"), at("agent")
	p.kernel = at("vmlinuz")
	if err := copyFile(k.Image, p.kernel); err != nil {
		return err
	}
	for out, pkg := range map[string]string{p.meter: "./bench/run/meter", p.agentBinary: "./cmd/zos-guest", at("hello-program"): "./cmd/zos-guest/testdata/hello"} {
		if err := static(ctx, out, pkg); err != nil {
			return err
		}
	}
	p.guest, p.hello, p.plain = at("guest.img"), at("hello.img"), at("plain.img")
	b, err := boot.GuestInitrd(ctx, p.kernelDir, p.agentBinary)
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.guest, b, 0o644); err != nil {
		return err
	}
	if b, err = os.ReadFile(at("hello-program")); err != nil {
		return err
	}
	if err := writeInitrd(p.hello, []cpio.Entry{cpio.File("init", 0o755, b), cpio.Char("dev/console", 0o600, 5, 1)}); err != nil {
		return err
	}
	if b, err = os.ReadFile(p.meter); err != nil {
		return err
	}
	entries, err := boot.InitrdEntries(ctx, k, b, []string{"virtio_blk", "virtio_net", "erofs"})
	if err != nil {
		return err
	}
	if err := writeInitrd(p.plain, entries); err != nil {
		return err
	}
	return p.makeImage(ctx, b)
}

// makeImage makes a root file system with the program and a file that can't be compressed.
func (p *parts) makeImage(ctx context.Context, meter []byte) error {
	p.image, p.imageEROFS = filepath.Join(p.dir, "image"), filepath.Join(p.dir, "image.erofs")
	for _, d := range []string{"bin", "etc", "data", "proc", "sys", "dev", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(p.image, d), 0o755); err != nil {
			return err
		}
	}
	blob := make([]byte, blobSize)
	_, _ = rand.Read(blob)
	if err := os.WriteFile(filepath.Join(p.image, "blob"), blob, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.image, "bin/meter"), meter, 0o755); err != nil {
		return err
	}
	return command(ctx, "mkfs.erofs", "--all-root", p.imageEROFS, p.image)
}

// newDisk makes an ext4 of 1 GiB, as a node makes a writable layer.
func (p *parts) newDisk(name string) (string, error) {
	path := filepath.Join(p.dir, name)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := f.Truncate(1 << 30); err != nil {
		return "", err
	}
	if err := ext4.Journaled.Write(f, [16]byte{1}, nil, true); err != nil {
		return "", err
	}
	// As large as the disk before it is used, so that both machines have the same.
	return path, command(context.Background(), "resize2fs", "-f", path)
}

// static compiles a program as releases do.
func static(ctx context.Context, out, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

func writeInitrd(path string, entries []cpio.Entry) error {
	var b bytes.Buffer
	if err := cpio.Write(&b, entries); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

// command runs one and shows what it says if it fails.
func command(ctx context.Context, name string, args ...string) error {
	if text, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, text)
	}
	return nil
}
