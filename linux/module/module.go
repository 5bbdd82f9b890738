// Package module loads kernel modules, compressed as the distribution ships
// them; the kernel unpacks them and checks their signatures.
package module

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Load loads the module file at path with parameters, e.g. "num_devices=1". A
// module that is there already is no error.
func Load(path, parameters string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load module: %w", err)
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), parameters, flags)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", filepath.Base(path), err)
	}
	return nil
}

// Parameters by module name, for LoadDir.
type Parameters map[string]string

// LoadDir loads every module file of dir in lexical order and returns how many
// the kernel has now. It goes on after a failure, because a driver that does not
// fit this machine must not keep the others out; err joins all failures.
func LoadDir(dir string, parameters Parameters) (loaded int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("list modules: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.Contains(e.Name(), ".ko") {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	var errs []error
	for _, n := range names {
		if err := Load(filepath.Join(dir, n), parameters[Name(n)]); err != nil {
			errs = append(errs, err)
			continue
		}
		loaded++
	}
	return loaded, errors.Join(errs...)
}

// Name returns the kernel's name of a module file such as
// "012-sha256-ssse3.ko.xz": sha256_ssse3.
func Name(file string) string {
	base := filepath.Base(file)
	if i := strings.Index(base, ".ko"); i >= 0 {
		base = base[:i]
	}
	if number, rest, ok := strings.Cut(base, "-"); ok && number != "" && strings.Trim(number, "0123456789") == "" {
		base = rest
	}
	return strings.ReplaceAll(base, "-", "_")
}
