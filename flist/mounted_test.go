package flist

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// compareTree walks a mount and compares everything that lstat, readlink and
// the attribute calls say with the manifest. Through overlay, its own
// attributes must be invisible and directories have one link.
func compareTree(t *testing.T, dir string, m Manifest, overlay bool) {
	t.Helper()
	seen := map[string]unix.Stat_t{}
	var order []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if rel == "." {
			rel = ""
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		seen[rel] = st
		order = append(order, rel)
		return nil
	})
	if err != nil {
		t.Fatalf("walk the mount: %v", err)
	}
	if len(order) != len(m.Entries) {
		t.Errorf("the mount has %d names, the manifest %d", len(order), len(m.Entries))
	}
	nlink := map[string]uint64{}
	for _, e := range m.Entries {
		switch {
		case e.Type() == "hardlink":
			nlink[string(e.Link)]++
		case e.Type() == "dir":
			nlink[string(e.Path)] += 2
			if len(e.Path) > 0 {
				nlink[parentOf(string(e.Path))]++
			}
		default:
			nlink[string(e.Path)]++
		}
	}
	for _, e := range m.Entries {
		st, ok := seen[string(e.Path)]
		if !ok {
			t.Errorf("%q is missing in the mount", e.Path)
			continue
		}
		compareEntry(t, dir, e, st, m, nlink, seen, overlay)
	}
}

func parentOf(p string) string {
	if d := filepath.Dir(p); d != "." {
		return d
	}
	return ""
}

func compareEntry(t *testing.T, dir string, e Entry, st unix.Stat_t, m Manifest, nlink map[string]uint64, seen map[string]unix.Stat_t, overlay bool) {
	t.Helper()
	full := filepath.Join(dir, string(e.Path))
	size := int64(0)
	first := string(e.Path)
	file := e.File
	switch e.Type() {
	case "hardlink":
		first = string(e.Link)
		o, _ := m.Lookup(first)
		file = o.File
		if st.Ino != seen[first].Ino {
			t.Errorf("%q: inode %d, its first name %q has %d", e.Path, st.Ino, first, seen[first].Ino)
		}
	case "symlink":
		size = int64(len(e.Link))
		if target, err := os.Readlink(full); err != nil || target != string(e.Link) {
			t.Errorf("%q: target %q, %v, want %q", e.Path, target, err, e.Link)
		}
	}
	if file != nil {
		size = int64(file.Size)
	}
	if e.Type() == "dir" {
		size = st.Size
	}
	want := nlink[first]
	if overlay && e.Type() == "dir" {
		want = st.Nlink
	}
	if st.Mode != e.Mode || st.Uid != e.UID || st.Gid != e.GID || st.Rdev != e.Rdev || st.Mtim.Nano() != e.MTime || st.Size != size || st.Nlink != want {
		t.Errorf("%q: mode %o uid %d gid %d rdev %#x mtime %d size %d nlink %d, want %o %d %d %#x %d %d %d", e.Path,
			st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Nano(), st.Size, st.Nlink,
			e.Mode, e.UID, e.GID, e.Rdev, e.MTime, size, want)
	}
	compareXattrs(t, full, e, file, overlay)
}

func compareXattrs(t *testing.T, full string, e Entry, file *File, overlay bool) {
	t.Helper()
	got, err := readXattrs(full)
	if err != nil {
		t.Errorf("%q: %v", e.Path, err)
		return
	}
	want := map[string][]byte{}
	for _, x := range e.Xattrs {
		name := string(x.Name)
		if !overlay && bytes.HasPrefix(x.Name, []byte("trusted.overlay.")) {
			name = "trusted.overlay." + name[len("trusted."):]
		}
		want[name] = x.Value
	}
	if !overlay && file != nil && file.Size > 0 {
		want["trusted.overlay.metacopy"] = append([]byte{0, 36, 0, 1}, file.Verity[:]...)
		h := file.Digest.String()
		want["trusted.overlay.redirect"] = []byte("/" + h[:2] + "/" + h[2:])
	}
	for _, x := range got {
		w, ok := want[string(x.Name)]
		if !ok || !bytes.Equal(w, x.Value) {
			t.Errorf("%q: attribute %s = %q, want %q (present: %v)", e.Path, x.Name, x.Value, w, ok)
		}
		delete(want, string(x.Name))
	}
	for name := range want {
		t.Errorf("%q: attribute %s is missing", e.Path, name)
	}
}
