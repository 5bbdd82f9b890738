package boot

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
)

// OSOptions say what the system of a node is made of. Every program is static.
type OSOptions struct {
	ZosInit, Zosd, ZosFault, ZosShim, ZosGateway, Runc string // paths of the programs
	KernelDir                                          string // see OpenKernel
	Modules                                            []string
	// VMM is the digest of the VMM flist, kept in VMMFile; zero leaves the file out,
	// and the node runs no machines.
	VMM canon.Hash
	// Sink receives the objects; flist.Discard computes the digest alone.
	Sink flist.Sink
}

// OS is a built system.
type OS struct {
	Digest        canon.Hash     `json:"digest"` // the OS flist's name
	Manifest      flist.Manifest `json:"-"`
	Stats         flist.Stats    `json:"stats"`
	KernelVersion string         `json:"kernel_version"`
	Modules       int            `json:"modules"`
}

// ModulesPath is the directory of the OS's kernel modules.
func ModulesPath(kernelVersion string) string { return path.Join("/lib/modules", kernelVersion) }

// ModulesDep is the file in ModulesPath that says what each module needs.
const ModulesDep = "modules.dep"

// osDirs are empty: mount points, and directories of the running system.
var osDirs = []struct {
	path string
	perm uint32
}{
	{"dev", 0o755}, {"proc", 0o555}, {"sys", 0o555}, {"run", 0o755}, {"data", 0o755},
	{"tmp", 0o1777}, {"var", 0o755}, {"root", 0o700},
}

// osFiles are the few files that the Go runtime or runc read. resolv.conf leads
// to where the first stage writes what DHCP said.
var osFiles = map[string]string{
	"etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
	"etc/nsswitch.conf": "hosts: files dns\n",
	"etc/os-release":    "NAME=\"Zero-OS\"\nID=zos\n",
	"etc/passwd":        "root:x:0:0:root:/root:/nonexistent\n",
	"etc/group":         "root:x:0:\n",
}

// BuildOS makes the OS flist: the programs in /bin, the kernel's modules, and
// nothing that can interpret a script. It depends on the files' bytes alone, so
// equal programs give equal digests, and it refuses to make what AuditOS
// refuses.
func BuildOS(ctx context.Context, o OSOptions) (OS, error) {
	fail := func(err error) (OS, error) { return OS{}, fmt.Errorf("build OS flist: %w", err) }
	k, err := OpenKernel(o.KernelDir)
	if err != nil {
		return fail(err)
	}
	names := o.Modules
	if names == nil {
		names = NodeModules()
	}
	modules, err := k.Modules(ctx, names...)
	if err != nil {
		return fail(err)
	}
	t := flist.NewTree(o.Sink, flist.Options{RootOwned: true})
	for _, d := range osDirs {
		if err := t.AddDir(d.path, flist.Meta{Mode: d.perm}); err != nil {
			return fail(err)
		}
	}
	for name, text := range osFiles {
		if err := t.AddFile(ctx, name, flist.Meta{Mode: 0o644}, strings.NewReader(text)); err != nil {
			return fail(err)
		}
	}
	if !o.VMM.IsZero() {
		if err := t.AddFile(ctx, VMMFile[1:], flist.Meta{Mode: 0o644}, strings.NewReader(o.VMM.String()+"\n")); err != nil {
			return fail(err)
		}
	}
	if err := t.AddSymlink("etc/resolv.conf", ResolvConfPath, flist.Meta{Mode: 0o777}); err != nil {
		return fail(err)
	}
	for name, file := range map[string]string{
		"zos-init": o.ZosInit, "zosd": o.Zosd, "zos-fault": o.ZosFault, "zos-shim": o.ZosShim, "zos-gateway": o.ZosGateway,
		"runc": o.Runc,
	} {
		if err := addProgram(ctx, t, "bin/"+name, file); err != nil {
			return fail(err)
		}
	}
	dir := ModulesPath(k.Version)[1:]
	for _, m := range modules {
		if err := addFile(ctx, t, path.Join(dir, filepath.Base(m.Path)), 0o644, m.Path); err != nil {
			return fail(err)
		}
	}
	if err := t.AddFile(ctx, path.Join(dir, ModulesDep), flist.Meta{Mode: 0o644}, strings.NewReader(FormatDeps(modules))); err != nil {
		return fail(err)
	}
	digest, m, stats, err := t.Manifest()
	if err != nil {
		return fail(err)
	}
	if err := AuditOS(m); err != nil {
		return fail(err)
	}
	return OS{Digest: digest, Manifest: m, Stats: stats, KernelVersion: k.Version, Modules: len(modules)}, nil
}

// addProgram adds an executable after looking into it: it must run without any
// other file.
func addProgram(ctx context.Context, t *flist.Tree, name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := CheckStatic(f); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return t.AddFile(ctx, name, flist.Meta{Mode: 0o755}, f)
}

func addFile(ctx context.Context, t *flist.Tree, name string, perm uint32, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return t.AddFile(ctx, name, flist.Meta{Mode: perm}, f)
}
