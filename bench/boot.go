package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/zero-os/zos/boot"
)

// bootFiles measures what a machine fetches before the system.
func (b *bench) bootFiles(context.Context) error {
	var total int64
	for _, name := range []string{boot.KernelFile, boot.InitrdFile} {
		info, err := os.Stat(filepath.Join(b.image, name))
		if err != nil {
			return fmt.Errorf("%w; run: make build", err)
		}
		total += info.Size()
	}
	b.Add("boot files (kernel and initrd)", fmt.Sprintf("%.1f MB", float64(total)/1e6), "≤ 20 MB", total <= 20e6)
	return nil
}
