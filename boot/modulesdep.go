package boot

import (
	"fmt"
	"path/filepath"
	"strings"
)

// MaxModulesDep bounds a modules.dep file, in bytes.
const MaxModulesDep = 1 << 20

// Deps is what a modules.dep of ours says: for each module its file and what
// must be loaded before it.
//
// The file has a line per module, each after those that it depends on:
//
//	wireguard wireguard.ko.xz udp_tunnel ip6_udp_tunnel …
//
// that is name, file name in the same directory, direct dependencies. It is not
// kmod's file of the same name: no program of kmod is in the system.
type Deps struct {
	files   map[string]string
	depends map[string][]string
}

// FormatDeps writes the text that ParseDeps reads.
func FormatDeps(modules []Module) string {
	var b strings.Builder
	for _, m := range modules {
		b.WriteString(strings.Join(append([]string{m.Name, filepath.Base(m.Path)}, m.Depends...), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// ParseDeps reads a modules.dep. A module whose dependency does not stand before
// it is an error, so Order always ends.
func ParseDeps(b []byte) (Deps, error) {
	d := Deps{files: map[string]string{}, depends: map[string][]string{}}
	if len(b) > MaxModulesDep {
		return Deps{}, fmt.Errorf("read %s: %d bytes, at most %d are allowed", ModulesDep, len(b), MaxModulesDep)
	}
	for i, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 || strings.Contains(f[1], "/") || d.files[f[0]] != "" {
			return Deps{}, fmt.Errorf("read %s: line %d: want a new name, its file and its dependencies", ModulesDep, i+1)
		}
		for _, dep := range f[2:] {
			if d.files[dep] == "" {
				return Deps{}, fmt.Errorf("read %s: line %d: %s needs %s, which does not stand before it", ModulesDep, i+1, f[0], dep)
			}
		}
		d.files[f[0]], d.depends[f[0]] = f[1], f[2:]
	}
	return d, nil
}

// Order returns the file names to load for the named modules, in order, each
// once. A name that is not listed is built into the kernel or unknown; Has
// tells, Order leaves it out.
func (d Deps) Order(names ...string) []string {
	var files []string
	seen := map[string]bool{}
	var visit func(string)
	visit = func(n string) {
		n = strings.ReplaceAll(n, "-", "_")
		if seen[n] || d.files[n] == "" {
			return
		}
		seen[n] = true
		for _, dep := range d.depends[n] {
			visit(dep)
		}
		files = append(files, d.files[n])
	}
	for _, n := range names {
		visit(n)
	}
	return files
}

// Has tells whether the module has a file.
func (d Deps) Has(name string) bool { return d.files[strings.ReplaceAll(name, "-", "_")] != "" }
