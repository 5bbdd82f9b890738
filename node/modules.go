package node

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/linux/module"
)

// loadModules loads the named kernel modules and what they need, in order. A
// name that is built into the kernel is no error.
func loadModules(kernelVersion string, names ...string) error {
	dir := boot.ModulesPath(kernelVersion)
	b, err := os.ReadFile(filepath.Join(dir, boot.ModulesDep))
	if err != nil {
		return fmt.Errorf("load kernel modules: %w", err)
	}
	deps, err := boot.ParseDeps(b)
	if err != nil {
		return fmt.Errorf("load kernel modules: %w", err)
	}
	for _, file := range deps.Order(names...) {
		if err := module.Load(filepath.Join(dir, file), ""); err != nil {
			return fmt.Errorf("load kernel module %s: %w", file, err)
		}
	}
	return nil
}
