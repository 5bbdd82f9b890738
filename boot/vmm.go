package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/vmm/tree"
)

// VMMFile is the file of the OS flist that names the VMM flist: its digest in
// hexadecimal and a newline. The release's signatures cover it that way.
const VMMFile = "/etc/zos/vmm"

// VMMOf reads the digest in the OS's own VMMFile below root; an error that is
// fs.ErrNotExist where the OS names none.
func VMMOf(root string) (canon.Hash, error) {
	b, err := os.ReadFile(filepath.Join(root, VMMFile))
	if err != nil {
		return canon.Hash{}, fmt.Errorf("read which VMM flist belongs to the OS: %w", err)
	}
	h, err := canon.ParseHash(strings.TrimSuffix(string(b), "\n"))
	if err != nil {
		return canon.Hash{}, fmt.Errorf("read %s: %w", VMMFile, err)
	}
	return h, nil
}

// VMMOptions say what the VMM flist is made of.
type VMMOptions struct {
	// Root is where Debian's packages are installed; "" means /. Their versions are
	// the building machine's, so two machines agree if their packages do.
	Root      string
	KernelDir string // see OpenKernel
	Initrd    []byte // of the guests, see BuildGuest
	// Emulation adds QEMU's own translator, for tests on machines without KVM.
	Emulation bool
	// Sink receives the objects; flist.Discard computes the digest alone.
	Sink flist.Sink
}

// VMM is a built VMM flist.
type VMM struct {
	Digest    canon.Hash     `json:"digest"`
	Manifest  flist.Manifest `json:"-"`
	Stats     flist.Stats    `json:"stats"`
	Libraries int            `json:"libraries"`
}

// vmmDirs are empty: mount points of its containers.
var vmmDirs = []struct {
	path string
	perm uint32
}{{"dev", 0o755}, {"proc", 0o555}, {"sys", 0o555}, {"run", 0o755}, {"tmp", 0o1777}, {tree.Share[1:], 0o755}}

// vmmFirmware are the files of QEMU's data directory that our machines read, by
// the Debian directory that holds them:
//
//	bios-256k.bin    the BIOS of q35
//	bios-microvm.bin the same for microvm
//	qboot.rom        a smaller one for microvm without ACPI
//	linuxboot_dma.bin, pvh.bin  load the kernel that the command line names
//	kvmvapic.bin     q35 asks for it, whatever the guest is
var vmmFirmware = map[string]string{
	"bios-256k.bin": "/usr/share/seabios", "bios-microvm.bin": "/usr/share/seabios",
	"qboot.rom": "/usr/share/qemu", "linuxboot_dma.bin": "/usr/share/qemu", "pvh.bin": "/usr/share/qemu", "kvmvapic.bin": "/usr/share/qemu",
}

// vmmPrograms are what the VMM flist exists for.
var vmmPrograms = []string{tree.QEMU, tree.Virtiofsd}

// tcgModule is QEMU's translator.
const tcgModule = "accel-tcg-x86_64.so"

// VMMSource is where each file of the VMM flist comes from.
type VMMSource struct {
	Path string // in the flist, without the leading slash
	File string // on this machine; "" for Content
	Perm uint32
	// Content is the file's content where it has none on this machine.
	Content []byte
}

// VMMSources lists the files of a VMM flist: Debian's programs, the libraries that
// the loader will ask for, firmware, the kernel and the guests' initrd. The error's
// code is "tool-missing" where a package is.
func VMMSources(o VMMOptions) ([]VMMSource, error) {
	fail := func(err error) ([]VMMSource, error) { return nil, fmt.Errorf("collect VMM flist: %w", err) }
	k, err := OpenKernel(o.KernelDir)
	if err != nil {
		return fail(err)
	}
	var out []VMMSource
	add := func(at, from string, perm uint32) error {
		file, err := filepath.EvalSymlinks(filepath.Join(o.Root, from))
		if errors.Is(err, fs.ErrNotExist) {
			return problem.New("tool-missing", "%w", err).WithFix("run: sudo make deps")
		}
		out = append(out, VMMSource{Path: at[1:], File: file, Perm: perm})
		return err
	}
	roots := vmmPrograms
	for _, p := range vmmPrograms {
		if err := add(p, p, 0o755); err != nil {
			return fail(err)
		}
	}
	if o.Emulation {
		m := path.Join(tree.Modules, tcgModule)
		if err := add(m, m, 0o644); err != nil {
			return fail(err)
		}
		roots = append(roots[:len(roots):len(roots)], m)
	}
	libs, err := closure(o.Root, roots...)
	if err != nil {
		return fail(err)
	}
	for _, l := range libs {
		if err := add(path.Join(tree.Libraries, l.name), l.path, 0o644); err != nil {
			return fail(err)
		}
	}
	if err := add(tree.Loader, tree.Loader, 0o755); err != nil {
		return fail(err)
	}
	for name, dir := range vmmFirmware {
		if err := add(path.Join(tree.Data, name), path.Join(dir, name), 0o644); err != nil {
			return fail(err)
		}
	}
	for _, f := range []string{tree.OVMFCode, tree.OVMFVars} {
		if err := add(f, f, 0o644); err != nil {
			return fail(err)
		}
	}
	return append(out,
		VMMSource{Path: tree.Kernel[1:], File: k.Image, Perm: 0o644},
		VMMSource{Path: tree.Initrd[1:], Content: o.Initrd, Perm: 0o644}), nil
}

// BuildVMM makes the VMM flist: what runs virtual machines, and what runs in those
// that are a container's. It depends on the files' bytes alone, and refuses to make
// what AuditVMM refuses.
func BuildVMM(ctx context.Context, o VMMOptions) (VMM, error) {
	fail := func(err error) (VMM, error) { return VMM{}, fmt.Errorf("build VMM flist: %w", err) }
	sources, err := VMMSources(o)
	if err != nil {
		return fail(err)
	}
	t := flist.NewTree(o.Sink, flist.Options{RootOwned: true})
	for _, d := range vmmDirs {
		if err := t.AddDir(d.path, flist.Meta{Mode: d.perm}); err != nil {
			return fail(err)
		}
	}
	libraries := 0
	for _, s := range sources {
		if path.Dir("/"+s.Path) == tree.Libraries {
			libraries++
		}
		if s.File == "" {
			err = t.AddFile(ctx, s.Path, flist.Meta{Mode: s.Perm}, bytes.NewReader(s.Content))
		} else {
			err = addFile(ctx, t, s.Path, s.Perm, s.File)
		}
		if err != nil {
			return fail(err)
		}
	}
	digest, m, stats, err := t.Manifest()
	if err != nil {
		return fail(err)
	}
	if err := AuditVMM(m); err != nil {
		return fail(err)
	}
	return VMM{Digest: digest, Manifest: m, Stats: stats, Libraries: libraries}, nil
}

// WriteVMM lays the VMM flist's files out in the directory dir, which must be
// empty, for tests and for looking at it.
func WriteVMM(o VMMOptions, dir string) error {
	sources, err := VMMSources(o)
	if err != nil {
		return err
	}
	for _, d := range vmmDirs {
		if err := os.MkdirAll(filepath.Join(dir, d.path), 0o755); err != nil {
			return fmt.Errorf("write VMM tree: %w", err)
		}
	}
	for _, s := range sources {
		b := s.Content
		if s.File != "" {
			if b, err = os.ReadFile(s.File); err != nil {
				return fmt.Errorf("write VMM tree: %w", err)
			}
		}
		at := filepath.Join(dir, s.Path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return fmt.Errorf("write VMM tree: %w", err)
		}
		if err := os.WriteFile(at, b, fs.FileMode(s.Perm)); err != nil {
			return fmt.Errorf("write VMM tree: %w", err)
		}
	}
	return nil
}
