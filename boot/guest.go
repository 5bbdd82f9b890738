package boot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/zero-os/zos/guest"
	"github.com/zero-os/zos/linux/cpio"
)

// GuestInitrd returns the initrd of micro-VMs: the static program agent (cmd/zos-guest) as
// /init and the drivers that it may need, from the node's own kernel package. Equal
// inputs give equal bytes. It ends padded, so that another archive can follow.
func GuestInitrd(ctx context.Context, kernelDir, agent string) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("build guest's initrd: %w", err) }
	k, err := OpenKernel(kernelDir)
	if err != nil {
		return fail(err)
	}
	init, err := os.ReadFile(agent)
	if err != nil {
		return fail(err)
	}
	entries, err := guestEntries(ctx, k, init)
	if err != nil {
		return fail(err)
	}
	b, err := CompressInitrd(entries)
	if err != nil {
		return fail(err)
	}
	return b, nil
}

// guestEntries lists the initrd. Besides /init there is nothing to run.
func guestEntries(ctx context.Context, k *Kernel, init []byte) ([]cpio.Entry, error) {
	entries := []cpio.Entry{
		cpio.File("init", 0o755, init),
		cpio.Dir("newroot", 0o755),
		// Go opens it before main runs, in a guest without a console.
		cpio.Char("dev/null", 0o666, 1, 3),
		cpio.Char("dev/console", 0o600, 5, 1),
	}
	groups := guest.Modules()
	var names []guest.Group
	for g := range groups {
		names = append(names, g)
	}
	slices.Sort(names)
	for _, g := range names {
		mods, err := k.Modules(ctx, groups[g]...)
		if err != nil {
			return nil, err
		}
		entries = append(entries, cpio.Dir(g.Dir(), 0o755))
		for i, m := range mods {
			// Unpacked: the kernel takes longer to unpack xz than the whole initrd.
			b, err := readModule(ctx, m.Path)
			if err != nil {
				return nil, fmt.Errorf("read module %s: %w", m.Name, err)
			}
			name := strings.TrimSuffix(filepath.Base(m.Path), ".xz")
			entries = append(entries, cpio.File(fmt.Sprintf("%s/%02d-%s", g.Dir(), i, name), 0o644, b))
		}
	}
	return entries, nil
}
