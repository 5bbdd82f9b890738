package boot

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/vmm/tree"
)

// vmmLibraryRE are the names of shared objects.
var vmmLibraryRE = regexp.MustCompile(`^lib[A-Za-z0-9_+.-]+\.so(\.[0-9]+)*$`)

// vmmFiles are all the files of a VMM flist but for the libraries.
func vmmFiles() (programs, data []string) {
	programs = []string{tree.QEMU, tree.Virtiofsd, tree.Loader}
	data = []string{tree.OVMFCode, tree.OVMFVars, tree.Kernel, tree.Initrd}
	for name := range vmmFirmware {
		data = append(data, path.Join(tree.Data, name))
	}
	return programs, data
}

// AuditVMM checks the promise of the VMM flist: it holds the monitor, the file
// server, the loader and the libraries that they need, firmware, a kernel and an
// initrd, and nothing else; in particular no shell and nothing setuid. Nothing but the three programs is
// executable, nothing can be written by others than root, nothing is a link, a
// device or a socket. The error lists every finding; its code is "vmm-audit".
func AuditVMM(m flist.Manifest) error {
	var found []string
	programs, data := vmmFiles()
	for _, e := range m.Entries {
		name := "/" + string(e.Path)
		add := func(what string) { found = append(found, name+": "+what) }
		if e.Mode&0o6000 != 0 {
			add("is setuid or setgid")
		}
		if e.UID != 0 || e.GID != 0 {
			add("is not root's")
		}
		if len(e.Xattrs) > 0 {
			add("carries an extended attribute")
		}
		switch e.Mode & flist.ModeType {
		case flist.ModeDir:
			if e.Mode&0o022 != 0 && name != "/tmp" {
				add("can be written by others than root")
			}
			continue
		case flist.ModeRegular:
		default:
			add("is a " + e.Type())
			continue
		}
		program := slices.Contains(programs, name)
		library := path.Dir(name) == tree.Libraries && vmmLibraryRE.MatchString(path.Base(name)) || name == path.Join(tree.Modules, tcgModule)
		switch {
		case len(e.Link) > 0:
			add("is a hard link")
		case e.Mode&0o022 != 0:
			add("can be written by others than root")
		case !program && e.Mode&0o111 != 0:
			add("is executable and none of its programs")
		case !program && !library && !slices.Contains(data, name):
			add("does not belong there")
		}
	}
	for _, p := range append(programs, data...) {
		if _, ok := m.Lookup(p[1:]); !ok {
			found = append(found, p+": is missing")
		}
	}
	if len(found) > 0 {
		slices.Sort(found)
		return problem.New("vmm-audit", "the VMM flist holds what it must not: %s", strings.Join(found, "; "))
	}
	return nil
}
