package flist

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

const codeInvalid = "manifest-invalid"

// Validate checks that m is the one way to say a tree that Linux can mount:
// every rule of docs/reference/flist.cddl. The error's code is
// "manifest-invalid" and it names the first entry that is wrong.
func Validate(m Manifest) error {
	if m.V != Version {
		return problem.New(codeInvalid, "manifest has version %d, this program reads version %d", m.V, Version).
			WithFix("use a release of Zero-OS that is as new as the flist")
	}
	if n := len(m.Entries); n == 0 || n > MaxEntries {
		return problem.New(codeInvalid, "manifest has %d entries, want 1 to %d", n, MaxEntries)
	}
	v := validator{entries: m.Entries, dirs: make(map[string]struct{}, len(m.Entries)/8+1)}
	for i := range m.Entries {
		if err := v.entry(i); err != nil {
			return problem.New(codeInvalid, "manifest entry %d, %q: %w", i, printable(m.Entries[i].Path), err)
		}
	}
	if err := validConfig(m.Config); err != nil {
		return problem.New(codeInvalid, "manifest's image configuration: %w", err)
	}
	return nil
}

// printable shortens a hostile path for an error message.
func printable(p []byte) []byte {
	if len(p) > 200 {
		return append(append([]byte{}, p[:200]...), "..."...)
	}
	return p
}

// noID is what Linux's calls take for "leave it as it is".
const noID = 1<<32 - 1

type validator struct {
	entries []Entry
	dirs    map[string]struct{} // paths of the directories so far
}

func (v *validator) entry(i int) error {
	e := &v.entries[i]
	if i == 0 {
		if len(e.Path) != 0 || e.Mode&ModeType != ModeDir {
			return fmt.Errorf("the first entry must be the root, a directory with an empty path")
		}
	} else {
		if bytes.Compare(v.entries[i-1].Path, e.Path) >= 0 {
			return fmt.Errorf("entries must be sorted by path, without duplicates")
		}
		if err := v.path(e.Path); err != nil {
			return err
		}
	}
	if e.Mode&^uint32(ModeType|ModePerm) != 0 {
		return fmt.Errorf("mode %#o has unknown bits", e.Mode)
	}
	if e.UID == noID || e.GID == noID {
		return fmt.Errorf("owner %d:%d: -1 is no id", e.UID, e.GID)
	}
	if err := validXattrs(e.Xattrs); err != nil {
		return err
	}
	return v.kind(e)
}

func (v *validator) path(p []byte) error {
	if err := validPath(p); err != nil {
		return err
	}
	parent := p[:max(bytes.LastIndexByte(p, '/'), 0)]
	if _, ok := v.dirs[string(parent)]; !ok {
		return fmt.Errorf("its parent is missing or not a directory")
	}
	return nil
}

// validPath checks the form of a path that is not the root's.
func validPath(p []byte) error {
	if len(p) == 0 || len(p) > MaxPath {
		return fmt.Errorf("path of %d bytes, want 1 to %d", len(p), MaxPath)
	}
	for rest, more := p, true; more; {
		var name []byte
		name, rest, more = bytes.Cut(rest, []byte{'/'})
		if err := validName(name); err != nil {
			return err
		}
	}
	return nil
}

func validName(name []byte) error {
	switch {
	case len(name) == 0:
		return fmt.Errorf("path has an empty component")
	case len(name) > MaxName:
		return fmt.Errorf("name of %d bytes, at most %d are allowed", len(name), MaxName)
	case len(name) == 1 && name[0] == '.', len(name) == 2 && name[0] == '.' && name[1] == '.':
		return fmt.Errorf("path has a component %q", name)
	case bytes.IndexByte(name, 0) >= 0:
		return fmt.Errorf("path has a NUL byte")
	}
	return nil
}

// kind checks that the fields fit the type of file.
func (v *validator) kind(e *Entry) error {
	typ := e.Mode & ModeType
	if typ != ModeRegular && e.File != nil {
		return fmt.Errorf("only a regular file has content")
	}
	if typ != ModeChar && typ != ModeBlock && e.Rdev != 0 {
		return fmt.Errorf("only a device has a device number")
	}
	if typ != ModeRegular && typ != ModeSymlink && len(e.Link) != 0 {
		return fmt.Errorf("only a link has a target")
	}
	switch typ {
	case ModeDir:
		v.dirs[string(e.Path)] = struct{}{}
	case ModeSymlink:
		if len(e.Link) == 0 || len(e.Link) > MaxPath || bytes.IndexByte(e.Link, 0) >= 0 {
			return fmt.Errorf("symbolic link's target has %d bytes, want 1 to %d without NUL", len(e.Link), MaxPath)
		}
	case ModeRegular:
		if len(e.Link) != 0 {
			return v.hardLink(e)
		}
		return validFile(e.File)
	case ModeChar, ModeBlock:
		if e.Rdev > 1<<32-1 {
			return fmt.Errorf("device number %#x does not fit Linux's 12 and 20 bits", e.Rdev)
		}
		if typ == ModeChar && e.Rdev == 0 {
			return fmt.Errorf("character device 0:0 is an overlay whiteout, which no tree can contain")
		}
	case ModeFIFO, ModeSocket:
	default:
		return fmt.Errorf("mode %#o is of no known type", e.Mode)
	}
	return nil
}

func (v *validator) hardLink(e *Entry) error {
	if e.File != nil {
		return fmt.Errorf("a hard link has no content of its own")
	}
	if bytes.Compare(e.Link, e.Path) >= 0 {
		return fmt.Errorf("hard link to %q, which does not sort before it", printable(e.Link))
	}
	first, ok := find(v.entries, e.Link)
	if !ok || v.entries[first].File == nil {
		return fmt.Errorf("hard link to %q, which is not the first name of a regular file", printable(e.Link))
	}
	f := &v.entries[first]
	if f.Mode != e.Mode || f.UID != e.UID || f.GID != e.GID || f.MTime != e.MTime || !equalXattrs(f.Xattrs, e.Xattrs) {
		return fmt.Errorf("hard link's metadata differ from those of %q", printable(e.Link))
	}
	return nil
}

// find looks up a path in sorted entries.
func find(entries []Entry, path []byte) (int, bool) {
	lo, hi := 0, len(entries)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if bytes.Compare(entries[mid].Path, path) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(entries) && bytes.Equal(entries[lo].Path, path)
}

func validFile(f *File) error {
	if f == nil {
		return fmt.Errorf("regular file without content")
	}
	if f.Size > MaxFileSize {
		return fmt.Errorf("file of %d bytes, at most %d are allowed", f.Size, uint64(MaxFileSize))
	}
	if want := chunkCount(f.Size); uint64(len(f.Chunks)) != want {
		return fmt.Errorf("file of %d bytes has %d chunks, want %d", f.Size, len(f.Chunks), want)
	}
	if f.Size == 0 && (f.Digest != emptyDigest || f.Verity != emptyVerity) {
		return fmt.Errorf("empty file with the digests of something else")
	}
	return nil
}

// chunkCount tells in how many chunks a file of size bytes travels; 0 means as
// one object.
func chunkCount(size uint64) uint64 {
	if size <= ChunkedAbove {
		return 0
	}
	return (size + ChunkSize - 1) / ChunkSize
}

func validXattrs(xs []Xattr) error {
	if len(xs) > MaxXattrs {
		return fmt.Errorf("%d extended attributes, at most %d are allowed", len(xs), MaxXattrs)
	}
	total := 0
	for i, x := range xs {
		if i > 0 && bytes.Compare(xs[i-1].Name, x.Name) >= 0 {
			return fmt.Errorf("extended attributes must be sorted by name, without duplicates")
		}
		if len(x.Name) > MaxXattrName || bytes.IndexByte(x.Name, 0) >= 0 {
			return fmt.Errorf("extended attribute's name has %d bytes, at most %d without NUL are allowed", len(x.Name), MaxXattrName)
		}
		if _, _, ok := xattrIndex(x.Name); !ok {
			return fmt.Errorf("extended attribute %q is of no class that EROFS can store", printable(x.Name))
		}
		if len(x.Value) > MaxXattrValue {
			return fmt.Errorf("extended attribute %q has %d bytes, at most %d are allowed", printable(x.Name), len(x.Value), MaxXattrValue)
		}
		total += len(x.Name) + len(x.Value)
	}
	if total > MaxXattrBytes {
		return fmt.Errorf("extended attributes of %d bytes, at most %d are allowed", total, MaxXattrBytes)
	}
	return nil
}

func equalXattrs(a, b []Xattr) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i].Name, b[i].Name) || !bytes.Equal(a[i].Value, b[i].Value) {
			return false
		}
	}
	return true
}

func validConfig(c Config) error {
	for _, list := range [][]string{c.Entrypoint, c.Cmd, c.Env, {c.WorkDir, c.User}} {
		if len(list) > MaxConfigItems {
			return fmt.Errorf("%d items, at most %d are allowed", len(list), MaxConfigItems)
		}
		for _, s := range list {
			if len(s) > MaxConfigString {
				return fmt.Errorf("an item of %d bytes, at most %d are allowed", len(s), MaxConfigString)
			}
			if !utf8.ValidString(s) || bytes.IndexByte([]byte(s), 0) >= 0 {
				return fmt.Errorf("item %.80q is not text", s)
			}
		}
	}
	return nil
}

// The digests of the empty file: SHA-256 of nothing, and fs-verity of nothing
// (its Merkle root is all zeros).
var (
	emptyDigest = canon.Sum(nil)
	emptyVerity = func() canon.Hash { var v Verity; return v.Sum() }()
)
