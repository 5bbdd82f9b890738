// Package cpio writes and reads the one archive format that the Linux kernel
// unpacks as an initramfs: "newc" (Documentation/driver-api/early-userspace/
// buffer-format.rst).
//
// What it writes depends on the entries alone: owners are root, times are zero,
// inode numbers count up, entries are sorted. It promises that the kernel and
// Read agree on what it wrote; it does not write hard links or checksums.
package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
)

// Align is the padding of a finished archive. The kernel asks for 4 bytes;
// iPXE under UEFI joins archives correctly only when each is padded further,
// and 512 is known to work.
const Align = 512

// Bounds of Read: an initramfs of ours has a few dozen entries.
const (
	MaxEntries = 65536
	maxName    = 4096
)

// File types, as in st_mode.
const (
	TypeDir     = 0o040000
	TypeRegular = 0o100000
	TypeSymlink = 0o120000
	TypeChar    = 0o020000
	typeMask    = 0o170000
)

const (
	magic      = "070701"
	headerSize = 110
	trailer    = "TRAILER!!!"
)

// Entry is one file of an archive.
type Entry struct {
	Name string // relative, clean, e.g. "dev/console"
	Mode uint32 // type and permission bits
	// Data is the content of a regular file or the target of a symbolic link.
	Data []byte
	// Major and Minor are the device number of a TypeChar entry.
	Major, Minor uint32
}

// Dir, File and Char make the entries an initramfs is made of.
func Dir(name string, perm uint32) Entry { return Entry{Name: name, Mode: TypeDir | perm} }

// File is a regular file.
func File(name string, perm uint32, data []byte) Entry {
	return Entry{Name: name, Mode: TypeRegular | perm, Data: data}
}

// Char is a character device.
func Char(name string, perm, major, minor uint32) Entry {
	return Entry{Name: name, Mode: TypeChar | perm, Major: major, Minor: minor}
}

// Write writes the entries, sorted by name and with any parent directory that
// is missing added (mode 0755), then the trailer, and pads to Align.
func Write(w io.Writer, entries []Entry) error {
	all, err := complete(entries)
	if err != nil {
		return err
	}
	cw := &counter{w: w}
	for i, e := range all {
		if err := writeEntry(cw, uint32(i+1), e); err != nil {
			return fmt.Errorf("write cpio entry %q: %w", e.Name, err)
		}
	}
	if err := writeEntry(cw, 0, Entry{Name: trailer}); err != nil {
		return fmt.Errorf("write cpio trailer: %w", err)
	}
	return cw.pad(Align)
}

// complete checks the entries, adds missing parents and sorts. Parents sort
// before their children because a directory's name is a prefix of theirs.
func complete(entries []Entry) ([]Entry, error) {
	byName := make(map[string]Entry, len(entries))
	for _, e := range entries {
		if err := checkName(e.Name); err != nil {
			return nil, err
		}
		if _, twice := byName[e.Name]; twice {
			return nil, fmt.Errorf("cpio entry %q is there twice", e.Name)
		}
		if int64(len(e.Data)) > 1<<32-1 {
			return nil, fmt.Errorf("cpio entry %q is larger than 4 GiB", e.Name)
		}
		byName[e.Name] = e
	}
	for _, e := range entries {
		for p := path.Dir(e.Name); p != "."; p = path.Dir(p) {
			if have, ok := byName[p]; !ok {
				byName[p] = Dir(p, 0o755)
			} else if have.Mode&typeMask != TypeDir {
				return nil, fmt.Errorf("cpio entry %q lies under %q, which is no directory", e.Name, p)
			}
		}
	}
	all := make([]Entry, 0, len(byName))
	for _, e := range byName {
		all = append(all, e)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all, nil
}

func checkName(name string) error {
	if name == "" || len(name) >= maxName || path.Clean(name) != name || strings.HasPrefix(name, "/") ||
		name == "." || name == ".." || strings.HasPrefix(name, "../") || strings.Contains(name, "\x00") || name == trailer {
		return fmt.Errorf("cpio entry name %.80q is not a clean relative path", name)
	}
	return nil
}

func writeEntry(w *counter, ino uint32, e Entry) error {
	nlink := 1
	if e.Mode&typeMask == TypeDir {
		nlink = 2
	}
	_, err := fmt.Fprintf(w, "%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		magic, ino, e.Mode, 0, 0, nlink, 0, len(e.Data), 0, 0, e.Major, e.Minor, len(e.Name)+1, 0, e.Name)
	if err != nil {
		return err
	}
	if err := w.pad(4); err != nil {
		return err
	}
	if _, err := w.Write(e.Data); err != nil {
		return err
	}
	return w.pad(4)
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func (c *counter) pad(align int64) error {
	if rest := c.n % align; rest != 0 {
		_, err := c.Write(make([]byte, align-rest))
		return err
	}
	return nil
}

// ErrFormat is returned, wrapped, for bytes that are not a newc archive.
var ErrFormat = errors.New("not a newc archive")

// Read decodes the first archive in b, up to its trailer. It accepts what the
// kernel accepts of the format but bounds names and the number of entries;
// entry data points into b.
func Read(b []byte) ([]Entry, error) {
	var entries []Entry
	off := 0
	for {
		e, next, err := readEntry(b, off)
		if err != nil {
			return nil, fmt.Errorf("read cpio entry %d at offset %d: %w", len(entries), off, err)
		}
		if e.Name == trailer {
			return entries, nil
		}
		if len(entries) == MaxEntries {
			return nil, fmt.Errorf("read cpio: %w: more than %d entries", ErrFormat, MaxEntries)
		}
		entries = append(entries, e)
		off = next
	}
}

func readEntry(b []byte, off int) (Entry, int, error) {
	if len(b)-off < headerSize || !bytes.Equal(b[off:off+6], []byte(magic)) {
		return Entry{}, 0, fmt.Errorf("%w: no header", ErrFormat)
	}
	var f [13]uint32
	for i := range f {
		v, err := hex8(b[off+6+8*i : off+14+8*i])
		if err != nil {
			return Entry{}, 0, err
		}
		f[i] = v
	}
	size, nameSize := int64(f[6]), int64(f[11])
	if nameSize < 1 || nameSize > maxName {
		return Entry{}, 0, fmt.Errorf("%w: name of %d bytes", ErrFormat, nameSize)
	}
	nameEnd := int64(off) + headerSize + nameSize
	dataStart := (nameEnd + 3) &^ 3
	dataEnd := dataStart + size
	if dataEnd > int64(len(b)) {
		return Entry{}, 0, fmt.Errorf("%w: cut short", ErrFormat)
	}
	name := b[off+headerSize : nameEnd]
	if name[len(name)-1] != 0 || bytes.IndexByte(name, 0) != len(name)-1 {
		return Entry{}, 0, fmt.Errorf("%w: name without its end", ErrFormat)
	}
	e := Entry{Name: string(name[:len(name)-1]), Mode: f[1], Major: f[9], Minor: f[10]}
	if size > 0 {
		e.Data = b[dataStart:dataEnd:dataEnd]
	}
	next := (dataEnd + 3) &^ 3
	if next > int64(len(b)) {
		next = int64(len(b))
	}
	return e, int(next), nil
}

func hex8(b []byte) (uint32, error) {
	var v uint32
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uint32(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | uint32(c-'a'+10)
		case c >= 'A' && c <= 'F':
			v = v<<4 | uint32(c-'A'+10)
		default:
			return 0, fmt.Errorf("%w: %q is no hex number", ErrFormat, b)
		}
	}
	return v, nil
}
