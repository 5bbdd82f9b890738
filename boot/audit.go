package boot

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
)

// osPrograms are all the executables of the system. Whatever else is executable
// or looks like a program is refused: a list of what is allowed cannot forget an
// interpreter that nobody thought of.
var osPrograms = []string{"bin/runc", "bin/zos-fault", "bin/zos-gateway", "bin/zos-init", "bin/zos-shim", "bin/zosd"}

// interpreterRE are names of what runs text that somebody wrote, and of what a
// dynamic program needs to start. It only improves the error: the list of
// allowed programs refuses all of them.
var interpreterRE = regexp.MustCompile(`^(ld-.*|ld-linux.*|.*\.so(\.[0-9.]+)?|([bdkzcf]|da|ba|tc|fi|mk|pdk)?sh|busybox|toybox|python[0-9.]*|perl[0-9.]*|ruby[0-9.]*|lua[0-9.]*|node|php[0-9.]*|[gmn]?awk|tclsh[0-9.]*|expect|sed|env|modprobe|kmod)$`)

// AuditOS checks the promise "no shell, no interpreter, no setuid": it fails on
// any file with setuid, setgid or a file capability, any executable that is
// not one of the six programs in /bin, any shared object, device node or
// socket, and any symbolic link but /etc/resolv.conf. What is inside the
// programs, CheckStatic looks at. The error lists every finding; its code is
// "os-audit".
func AuditOS(m flist.Manifest) error {
	var found []string
	add := func(e flist.Entry, format string, args ...any) {
		found = append(found, fmt.Sprintf("%q: ", "/"+string(e.Path))+fmt.Sprintf(format, args...))
	}
	for _, e := range m.Entries {
		name := string(e.Path)
		base := path.Base(name)
		if e.Mode&0o6000 != 0 {
			add(e, "is setuid or setgid")
		}
		if len(e.Xattrs) > 0 {
			add(e, "carries extended attribute %q", e.Xattrs[0].Name)
		}
		switch e.Mode & flist.ModeType {
		case flist.ModeDir:
			continue
		case flist.ModeSymlink:
			if name != "etc/resolv.conf" || string(e.Link) != ResolvConfPath {
				add(e, "is a symbolic link to %q", e.Link)
			}
			continue
		case flist.ModeRegular:
		default:
			add(e, "is a %s", e.Type())
			continue
		}
		allowed := slices.Contains(osPrograms, name)
		switch {
		case len(e.Link) > 0:
			add(e, "is a hard link")
		case !allowed && interpreterRE.MatchString(base):
			add(e, "is an interpreter or a part of one")
		case !allowed && e.Mode&0o111 != 0:
			add(e, "is executable and no program of this system")
		case e.Mode&0o022 != 0:
			add(e, "can be written by others than root")
		case !allowed && !strings.HasPrefix(name, "etc/") && !strings.HasPrefix(name, "lib/modules/"):
			add(e, "does not belong to this system")
		}
	}
	for _, p := range osPrograms {
		if _, ok := m.Lookup(p); !ok {
			found = append(found, "/"+p+": is missing")
		}
	}
	if len(found) > 0 {
		return problem.New("os-audit", "the OS flist holds what it must not: %s", strings.Join(found, "; "))
	}
	return nil
}

// CheckStatic fails unless r is an x86-64 ELF program that needs no other file:
// no script ("#!"), no dynamic loader, no shared library.
func CheckStatic(r io.ReaderAt) error {
	head := make([]byte, 2)
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read program: %w", err)
	}
	if bytes.Equal(head, []byte("#!")) {
		return problem.New("os-audit", "is a script")
	}
	f, err := elf.NewFile(r)
	if err != nil {
		return problem.New("os-audit", "is no ELF program: %w", err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 || (f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN) {
		return problem.New("os-audit", "is no x86-64 program but %s %s", f.Machine, f.Type)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return problem.New("os-audit", "needs a dynamic loader").WithFix("build it with CGO_ENABLED=0, or link it statically")
		}
	}
	if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
		return problem.New("os-audit", "needs the shared libraries %v", libs).WithFix("link it statically")
	}
	return nil
}
