package flist

import (
	"bytes"
)

// Change says how one entry differs between two manifests.
type Change struct {
	Path   []byte   `json:"path"`
	Change string   `json:"change"` // "added", "removed" or "changed"
	Fields []string `json:"fields"` // what changed: type, mode, owner, mtime, rdev, link, xattrs, content
}

// Diff lists what differs from a to b, sorted by path. Both must be valid. The
// configurations are not compared.
func Diff(a, b Manifest) []Change {
	changes := []Change{}
	i, j := 0, 0
	for i < len(a.Entries) || j < len(b.Entries) {
		order := 0
		switch {
		case i == len(a.Entries):
			order = 1
		case j == len(b.Entries):
			order = -1
		default:
			order = bytes.Compare(a.Entries[i].Path, b.Entries[j].Path)
		}
		switch {
		case order < 0:
			changes = append(changes, Change{a.Entries[i].Path, "removed", []string{}})
			i++
		case order > 0:
			changes = append(changes, Change{b.Entries[j].Path, "added", []string{}})
			j++
		default:
			if f := changed(&a.Entries[i], &b.Entries[j]); len(f) > 0 {
				changes = append(changes, Change{a.Entries[i].Path, "changed", f})
			}
			i++
			j++
		}
	}
	return changes
}

func changed(a, b *Entry) []string {
	var fields []string
	note := func(name string, differs bool) {
		if differs {
			fields = append(fields, name)
		}
	}
	note("type", a.Mode&ModeType != b.Mode&ModeType)
	note("mode", a.Mode&ModePerm != b.Mode&ModePerm)
	note("owner", a.UID != b.UID || a.GID != b.GID)
	note("mtime", a.MTime != b.MTime)
	note("rdev", a.Rdev != b.Rdev)
	note("link", !bytes.Equal(a.Link, b.Link))
	note("xattrs", !equalXattrs(a.Xattrs, b.Xattrs))
	note("content", (a.File == nil) != (b.File == nil) || a.File != nil && a.File.Digest != b.File.Digest)
	return fields
}
