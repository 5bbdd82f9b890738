// Package namespace tells which kernel namespaces exist on this machine.
package namespace

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Of returns the namespace of one kind ("net", "user", "mnt", …) that pid lives
// in, in the kernel's form "net:[4026531840]".
func Of(pid int, kind string) (string, error) {
	s, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		return "", fmt.Errorf("read %s namespace of process %d: %w", kind, pid, err)
	}
	return s, nil
}

// All returns every namespace that a process of this machine lives in, keyed in
// the kernel's form, each with one of those processes. Namespaces kept alive only
// by a file descriptor or a bind mount are not seen.
func All() (map[string]int, error) {
	ents, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	out := map[string]int{}
	for _, e := range ents {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/ns/*", pid))
		for _, l := range links {
			if s, err := os.Readlink(l); err == nil { // else the process has just ended
				out[s] = pid
			}
		}
	}
	return out, nil
}
