package boot

import (
	"debug/elf"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/vmm/tree"
)

// library is a shared object: the name under which it is asked for, and where
// Debian has it.
type library struct{ name, path string }

// libraryDirs are where the loader looks without being told, in its order.
var libraryDirs = []string{tree.Libraries, "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib"}

// maxLibraries bounds a closure; QEMU's has about 60.
const maxLibraries = 500

// closure finds all the shared objects below root that the named files need, by
// what they say themselves (DT_NEEDED), sorted by name. The loader itself is not
// among them. What a program opens by name while it runs is not either.
func closure(root string, files ...string) ([]library, error) {
	found := map[string]string{}
	queue := append([]string(nil), files...)
	for len(queue) > 0 {
		file := queue[0]
		queue = queue[1:]
		needs, err := needed(filepath.Join(root, file))
		if err != nil {
			return nil, err
		}
		for _, n := range needs {
			if found[n] != "" || n == path.Base(tree.Loader) {
				continue
			}
			if strings.Contains(n, "/") || len(found) == maxLibraries {
				return nil, fmt.Errorf("%s needs %q, which is no library's name, or one too many", file, n)
			}
			at, err := findLibrary(root, n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			found[n] = at
			queue = append(queue, at)
		}
	}
	var out []library
	for n, at := range found {
		out = append(out, library{n, at})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out, nil
}

func findLibrary(root, name string) (string, error) {
	for _, d := range libraryDirs {
		if st, err := os.Stat(filepath.Join(root, d, name)); err == nil && st.Mode().IsRegular() {
			return path.Join(d, name), nil
		}
	}
	return "", problem.New("tool-missing", "library %s is not installed", name).WithFix("run: sudo make deps")
}

// needed reads what an ELF file asks the loader for. A file with a search path of
// its own is refused: the flist has one directory of libraries.
func needed(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, problem.New("tool-missing", "%w", err).WithFix("run: sudo make deps")
		}
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	defer f.Close()
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		if paths, err := f.DynString(tag); err != nil || len(paths) > 0 {
			return nil, fmt.Errorf("read %s: it has the search path %q (%v), which is not supported", file, paths, err)
		}
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("read what %s needs: %w", file, err)
	}
	return libs, nil
}
