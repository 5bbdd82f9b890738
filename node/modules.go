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
		if _, err := os.Stat("/sys/module/" + module.Name(file)); err == nil {
			continue // after sealModules only these can be there
		}
		if err := module.Load(filepath.Join(dir, file), ""); err != nil {
			return fmt.Errorf("load kernel module %s: %w", file, err)
		}
	}
	return nil
}

// sealModules lets no further code into the kernel until the next boot, root
// included: every module that this release needs is loaded.
func sealModules() error {
	if err := os.WriteFile("/proc/sys/kernel/modules_disabled", []byte("1"), 0); err != nil {
		return fmt.Errorf("seal the kernel against modules: %w", err)
	}
	return nil
}
