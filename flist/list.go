package flist

import (
	"unicode/utf8"

	"github.com/zero-os/zos/canon"
)

// Bytes returns the content of all files, the content of distinct files, and
// the number of regular files. Hard links count once.
func (m Manifest) Bytes() (total, unique, files uint64) {
	seen := make(map[canon.Hash]struct{}, len(m.Entries))
	for i := range m.Entries {
		f := m.Entries[i].File
		if f == nil {
			continue
		}
		files++
		total += f.Size
		if _, ok := seen[f.Digest]; !ok {
			seen[f.Digest] = struct{}{}
			unique += f.Size
		}
	}
	return total, unique, files
}

// Lookup returns the entry at path, whose form is Entry.Path's.
func (m Manifest) Lookup(path string) (Entry, bool) {
	i, ok := find(m.Entries, []byte(path))
	if !ok {
		return Entry{}, false
	}
	return m.Entries[i], true
}

// Files calls yield for every distinct non-empty file content, in order of
// first appearance, until yield returns false.
func (m Manifest) Files(yield func(path []byte, f *File) bool) {
	seen := make(map[canon.Hash]struct{}, len(m.Entries))
	for i := range m.Entries {
		f := m.Entries[i].File
		if f == nil || f.Size == 0 {
			continue
		}
		if _, ok := seen[f.Digest]; ok {
			continue
		}
		seen[f.Digest] = struct{}{}
		if !yield(m.Entries[i].Path, f) {
			return
		}
	}
}

// Listing is one line of "zos flist ls": an Entry for people and programs.
type Listing struct {
	Path   string `json:"path"`          // raw bytes, quoted by the writer of the line
	Type   string `json:"type"`          // file, dir, symlink, hardlink, char, block, fifo or socket
	Mode   string `json:"mode"`          // four octal digits, e.g. "4755"
	UID    uint32 `json:"uid"`           //
	GID    uint32 `json:"gid"`           //
	MTime  int64  `json:"mtime"`         // nanoseconds since the epoch
	Size   uint64 `json:"size"`          // content, or 0
	Link   string `json:"link"`          // target of a symbolic or hard link
	Rdev   uint64 `json:"rdev"`          // device number
	Xattrs int    `json:"xattrs"`        // how many
	Digest string `json:"digest"`        // SHA-256 of the content, hex, or ""
	Verity string `json:"verity"`        // fs-verity digest, hex, or ""
	Chunks int    `json:"chunks"`        // 0: one object
	Raw    []byte `json:"raw,omitempty"` // the path, when it is not UTF-8
}

// List returns a manifest's entries for display.
func (m Manifest) List() []Listing {
	out := make([]Listing, len(m.Entries))
	for i := range m.Entries {
		out[i] = listing(&m.Entries[i])
	}
	return out
}

func listing(e *Entry) Listing {
	l := Listing{
		Path: string(e.Path), Type: e.Type(), Mode: octal(e.Mode & ModePerm),
		UID: e.UID, GID: e.GID, MTime: e.MTime, Link: string(e.Link), Rdev: e.Rdev, Xattrs: len(e.Xattrs),
	}
	if !utf8.Valid(e.Path) {
		l.Raw = e.Path
	}
	if f := e.File; f != nil {
		l.Size, l.Digest, l.Verity, l.Chunks = f.Size, f.Digest.String(), f.Verity.String(), len(f.Chunks)
	}
	return l
}

// Type names the entry's type: file, dir, symlink, hardlink, char, block, fifo
// or socket.
func (e Entry) Type() string {
	switch e.Mode & ModeType {
	case ModeDir:
		return "dir"
	case ModeSymlink:
		return "symlink"
	case ModeChar:
		return "char"
	case ModeBlock:
		return "block"
	case ModeFIFO:
		return "fifo"
	case ModeSocket:
		return "socket"
	}
	if len(e.Link) > 0 {
		return "hardlink"
	}
	return "file"
}

func octal(n uint32) string {
	const digits = "01234567"
	return string([]byte{digits[n>>9&7], digits[n>>6&7], digits[n>>3&7], digits[n&7]})
}
