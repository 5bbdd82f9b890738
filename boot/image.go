package boot

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/cpio"
)

// What the first stage finds in its root, besides itself at /init:
//
//	/dev/console          so that the kernel can give it a console
//	/modules/NNN-name.ko.xz drivers, to be loaded in lexical order with
//	                      finit_module(fd, "", MODULE_INIT_COMPRESSED_FILE);
//	                      each comes after what it depends on, and EEXIST means
//	                      that it is there already
//	/grid.cbor            (ArchivePath) from the grid's own archive
//	/proc /sys /dev /run /data /newroot   empty directories, mode 0755
//
// Nothing else: no shell, no library, no configuration.
const (
	// ModulesDir holds the first stage's drivers.
	ModulesDir = "/modules"
	// KernelFile and InitrdFile are the names of the boot files, GridFile that
	// of the grid's archive beside them and ScriptFile that of the iPXE script.
	KernelFile = "vmlinuz"
	InitrdFile = "initrd.img"
	GridFile   = "grid.img"
	ScriptFile = "boot.ipxe"
)

// ImageOptions say what a boot image is made of.
type ImageOptions struct {
	KernelDir  string   // an unpacked kernel package, see OpenKernel
	InitBinary string   // a static zos-init
	OutDir     string   // made if missing; receives KernelFile and InitrdFile
	Modules    []string // nil: FirstStageModules()
}

// Image is a built boot image. It is the same for every grid.
type Image struct {
	KernelVersion string     `json:"kernel_version"`
	Kernel        string     `json:"kernel"` // path
	Initrd        string     `json:"initrd"` // path
	KernelSize    int64      `json:"kernel_size"`
	InitrdSize    int64      `json:"initrd_size"`
	KernelDigest  canon.Hash `json:"kernel_digest"`
	InitrdDigest  canon.Hash `json:"initrd_digest"`
}

// BuildImage writes the kernel and the initrd to o.OutDir. Equal inputs give
// equal bytes, wherever and whenever it runs.
func BuildImage(ctx context.Context, o ImageOptions) (Image, error) {
	k, err := OpenKernel(o.KernelDir)
	if err != nil {
		return Image{}, err
	}
	names := o.Modules
	if names == nil {
		names = FirstStageModules()
	}
	init, err := os.ReadFile(o.InitBinary)
	if err != nil {
		return Image{}, fmt.Errorf("build boot image: read first stage: %w", err)
	}
	entries, err := InitrdEntries(ctx, k, init, names)
	if err != nil {
		return Image{}, fmt.Errorf("build boot image: %w", err)
	}
	initrd, err := CompressInitrd(entries)
	if err != nil {
		return Image{}, fmt.Errorf("build boot image: %w", err)
	}
	kernel, err := os.ReadFile(k.Image)
	if err != nil {
		return Image{}, fmt.Errorf("build boot image: read kernel: %w", err)
	}
	img := Image{
		KernelVersion: k.Version,
		Kernel:        filepath.Join(o.OutDir, KernelFile),
		Initrd:        filepath.Join(o.OutDir, InitrdFile),
		KernelSize:    int64(len(kernel)),
		InitrdSize:    int64(len(initrd)),
		KernelDigest:  canon.Sum(kernel),
		InitrdDigest:  canon.Sum(initrd),
	}
	if err := os.MkdirAll(o.OutDir, 0o755); err != nil {
		return Image{}, fmt.Errorf("build boot image: %w", err)
	}
	if err := WriteFile(img.Kernel, kernel, 0o644); err != nil {
		return Image{}, fmt.Errorf("build boot image: %w", err)
	}
	if err := WriteFile(img.Initrd, initrd, 0o644); err != nil {
		return Image{}, fmt.Errorf("build boot image: %w", err)
	}
	return img, nil
}

// InitrdEntries lists the first stage's root.
func InitrdEntries(ctx context.Context, k *Kernel, init []byte, modules []string) ([]cpio.Entry, error) {
	entries := []cpio.Entry{
		cpio.File("init", 0o755, init),
		cpio.Char("dev/console", 0o600, 5, 1),
	}
	for _, d := range []string{"dev", "proc", "sys", "run", "data", "newroot"} {
		entries = append(entries, cpio.Dir(d, 0o755))
	}
	mods, err := k.Modules(ctx, modules...)
	if err != nil {
		return nil, err
	}
	for i, m := range mods {
		b, err := os.ReadFile(m.Path)
		if err != nil {
			return nil, fmt.Errorf("read module %s: %w", m.Name, err)
		}
		// Three digits keep lexical order the load order for any count we will see.
		entries = append(entries, cpio.File(fmt.Sprintf("%s/%03d-%s", ModulesDir[1:], i, filepath.Base(m.Path)), 0o644, b))
	}
	return entries, nil
}

// CompressInitrd packs entries into a cpio, compresses it with zstd, and pads
// the result to cpio.Align so that another archive can follow it.
func CompressInitrd(entries []cpio.Entry) ([]byte, error) {
	var out bytes.Buffer
	// One worker: with several, the split into blocks is still fixed, but
	// nothing promises that it stays so.
	zw, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("compress initrd: %w", err)
	}
	if err := cpio.Write(zw, entries); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, fmt.Errorf("compress initrd: %w", err)
	}
	if rest := out.Len() % cpio.Align; rest != 0 {
		out.Write(make([]byte, cpio.Align-rest))
	}
	return out.Bytes(), nil
}
