package hub

import (
	"strconv"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// ObjectPath is where an object or chunk lies, relative to the hub's root.
func ObjectPath(h canon.Hash) string {
	s := h.String()
	return "objects/" + s[:2] + "/" + s[2:]
}

// FlistPath is where a flist's manifest lies.
func FlistPath(h canon.Hash) string { return "flists/" + h.String() }

// TagPath is where a tag lies. The error's code is "tag-invalid".
func TagPath(grid, publisher canon.Hash, name, tag string) (string, error) {
	if !validName(name) {
		return "", problem.New("tag-invalid", "image name %.80q: want 1 to 63 of a-z, 0-9 and -", name)
	}
	if !validTag(tag) {
		return "", problem.New("tag-invalid", "tag %.80q: want 1 to 63 of a-z, 0-9, -, _ and ., the first no dot", tag)
	}
	return "tags/" + grid.String() + "/" + publisher.String() + "/" + name + "/" + tag, nil
}

// TagIndexPath is where a grid's index of tags lies.
func TagIndexPath(grid canon.Hash) string { return "tags/" + grid.String() + "/index.json" }

// ReleasePath is where a release lies; sequence 0 means the latest.
func ReleasePath(grid canon.Hash, sequence uint64) string {
	last := "latest"
	if sequence > 0 {
		last = strconv.FormatUint(sequence, 10)
	}
	return "releases/" + grid.String() + "/" + last
}

// kind is what a path names.
type kind int

const (
	notFound  kind = iota
	immutable      // content or a numbered release: never changes
	changing       // a tag, an index, the latest release
)

// classify tells what a path relative to the root names. Only the layout's own
// forms name anything, so no path leads to a directory, to a file that is being
// written, or out of the root.
func classify(path string) kind {
	parts := strings.Split(path, "/")
	switch {
	case len(parts) == 2 && parts[0] == "flists" && isHash(parts[1]):
		return immutable
	case len(parts) == 3 && parts[0] == "objects" && len(parts[1]) == 2 && isHash(parts[1]+parts[2]):
		return immutable
	case len(parts) == 3 && parts[0] == "releases" && isHash(parts[1]):
		if parts[2] == "latest" {
			return changing
		}
		if n, err := strconv.ParseUint(parts[2], 10, 64); err == nil && n > 0 && strconv.FormatUint(n, 10) == parts[2] {
			return immutable
		}
	case len(parts) == 3 && parts[0] == "tags" && isHash(parts[1]) && parts[2] == "index.json":
		return changing
	case len(parts) == 5 && parts[0] == "tags" && isHash(parts[1]) && isHash(parts[2]) && validName(parts[3]) && validTag(parts[4]):
		return changing
	}
	return notFound
}

func isHash(s string) bool {
	h, err := canon.ParseHash(s)
	return err == nil && h.String() == s
}

func validName(s string) bool { return text(s, "-") }

func validTag(s string) bool { return text(s, "-_.") && s[0] != '.' }

// text tells whether s is 1 to 63 lower-case letters, digits and extra.
func text(s, extra string) bool {
	if len(s) == 0 || len(s) > 63 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte(extra, c) < 0 {
			return false
		}
	}
	return true
}
