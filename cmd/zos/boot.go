package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/grid"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/problem"
)

func (a *app) bootCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "boot", Short: "Make what nodes boot"}
	cmd.AddCommand(a.bootImageCommand())
	return cmd
}

func (a *app) bootImageCommand() *cobra.Command {
	var o imageOptions
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Build kernel, first stage, OS and VMM flists and the demo images",
		Long: `Build what every grid's nodes boot: the kernel and the first stage, and the OS,
what runs virtual machines (the VMM flist, of Debian's packages on this machine; the
OS names it) and the demo images as flists in a hub's layout. The same inputs give
the same bytes, whoever builds them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.bootImage(cmd.Context(), o) },
	}
	bin := "."
	if exe, err := os.Executable(); err == nil {
		bin = filepath.Dir(exe)
	}
	f := cmd.Flags()
	f.StringVar(&o.out, "out", filepath.Join(bin, "image"), "directory to build into")
	f.StringVar(&o.bin, "bin", bin, "directory with the node's programs")
	f.StringVar(&o.kernel, "kernel", filepath.Join(bin, "..", "build", "kernel"), "directory with the unpacked kernel package")
	return cmd
}

type imageOptions struct{ out, bin, kernel string }

// bootImage builds everything below out.
func (a *app) bootImage(ctx context.Context, o imageOptions) error {
	if _, err := boot.OpenKernel(o.kernel); err != nil {
		return fmt.Errorf("%w; run: make deps", err)
	}
	program := func(name string) string { return filepath.Join(o.bin, name) }
	// Objects are named by content, so what an older build left is only waste.
	if err := os.RemoveAll(filepath.Join(o.out, grid.HubDir)); err != nil {
		return err
	}
	image, err := boot.BuildImage(ctx, boot.ImageOptions{KernelDir: o.kernel, InitBinary: program("zos-init"), OutDir: o.out})
	if err != nil {
		return err
	}
	w, err := hub.OpenWriter(filepath.Join(o.out, grid.HubDir), hub.WriterOptions{})
	if err != nil {
		return err
	}
	flists, err := buildFlists(ctx, w, o.kernel, program)
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	for name, digest := range flists {
		if err := boot.WriteFile(filepath.Join(o.out, name), []byte(digest.String()+"\n"), 0o644); err != nil {
			return err
		}
	}
	rows := [][]string{
		{"kernel", image.KernelDigest.Short(), mib(uint64(image.KernelSize))},
		{"first stage", image.InitrdDigest.Short(), mib(uint64(image.InitrdSize))},
		{"OS flist", flists[grid.OSFile].Short(), ""},
		{"VMM flist", flists[grid.VMMFile].Short(), ""},
	}
	machine := map[string]any{"image": image, "os": flists[grid.OSFile], "vmm": flists[grid.VMMFile]}
	for _, name := range grid.DemoImages() {
		rows = append(rows, []string{"image " + name, flists[name].Short(), ""})
		machine[name] = flists[name]
	}
	return a.table(machine, []string{"PART", "DIGEST", "SIZE"}, rows)
}

// buildFlists publishes the OS, the VMM flist that it names, and the demo images; it
// returns their digests by the names of the files that keep them.
func buildFlists(ctx context.Context, w *hub.Writer, kernel string, program func(string) string) (map[string]canon.Hash, error) {
	out := map[string]canon.Hash{}
	initrd, err := boot.GuestInitrd(ctx, kernel, program("zos-guest"))
	if err != nil {
		return nil, err
	}
	vmm, err := boot.BuildVMM(ctx, boot.VMMOptions{KernelDir: kernel, Initrd: initrd, Sink: w})
	if err != nil {
		return nil, err
	}
	if out[grid.VMMFile], err = w.PutFlist(ctx, vmm.Manifest); err != nil {
		return nil, err
	}
	built, err := boot.BuildOS(ctx, boot.OSOptions{
		ZosInit: program("zos-init"), Zosd: program("zosd"), ZosFault: program("zos-fault"), ZosShim: program("zos-shim"), ZosGateway: program("zos-gateway"),
		Runc: program("runc"), KernelDir: kernel, VMM: out[grid.VMMFile], Sink: w,
	})
	if err != nil {
		return nil, err
	}
	if out[grid.OSFile], err = w.PutFlist(ctx, built.Manifest); err != nil {
		return nil, err
	}
	for _, name := range grid.DemoImages() {
		m, err := demoImage(ctx, w, name, program(name))
		if err != nil {
			return nil, err
		}
		if out[name], err = w.PutFlist(ctx, m); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ballastSize is the size of a demo image's large file, which it never reads:
// it shows that only what is read is fetched.
const ballastSize = 32 << 20

// demoImage is one static program beside a large file.
func demoImage(ctx context.Context, sink flist.Sink, name, program string) (flist.Manifest, error) {
	f, err := os.Open(program)
	if err != nil {
		return flist.Manifest{}, problem.New("image-missing", "read the demo program: %w", err).WithFix("run: make build")
	}
	defer f.Close()
	t := flist.NewTree(sink, flist.Options{})
	root := flist.Meta{Mode: 0o755}
	if err := errors.Join(
		t.AddDir("", root),
		t.AddFile(ctx, name, flist.Meta{Mode: 0o755}, f),
		t.AddFile(ctx, "ballast", flist.Meta{Mode: 0o644}, &ballast{left: ballastSize}),
	); err != nil {
		return flist.Manifest{}, err
	}
	_, m, _, err := t.Manifest()
	m.Config = flist.Config{Entrypoint: []string{"/" + name}, WorkDir: "/"}
	return m, err
}

// mib shows a size in bytes for people.
func mib(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
