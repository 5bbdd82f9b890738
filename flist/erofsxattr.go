package flist

import (
	"bytes"
	"encoding/binary"
)

// Classes of extended attributes that EROFS stores without their prefix.
const (
	xattrUser       = 1
	xattrACLAccess  = 2
	xattrACLDefault = 3
	xattrTrusted    = 4
	xattrSecurity   = 6
)

// xattrIndex splits a name into EROFS's class and the rest. The two ACLs have
// no rest; the others need one.
func xattrIndex(name []byte) (index byte, rest []byte, ok bool) {
	for _, c := range []struct {
		prefix string
		index  byte
	}{{"user.", xattrUser}, {"trusted.", xattrTrusted}, {"security.", xattrSecurity}} {
		if rest, found := bytes.CutPrefix(name, []byte(c.prefix)); found {
			return c.index, rest, len(rest) > 0
		}
	}
	switch string(name) {
	case "system.posix_acl_access":
		return xattrACLAccess, nil, true
	case "system.posix_acl_default":
		return xattrACLDefault, nil, true
	}
	return 0, nil, false
}

// overlayPrefix marks, within trusted.*, what overlay itself reads. An
// attribute of that name in the tree is escaped by doubling the prefix, which
// overlay undoes for whoever reads the mount (Linux 6.7 and later).
var overlayPrefix = []byte("overlay.")

// appendXattrs appends an inode's inline attribute area: those of the entry,
// and for a file with content the two by which overlay finds and verifies it.
// Nothing is appended when there are none.
func appendXattrs(b []byte, e *Entry) []byte {
	metacopy := e.File != nil && e.File.Size > 0
	if len(e.Xattrs) == 0 && !metacopy {
		return b
	}
	b = append(b, make([]byte, erofsXattrHeader)...) // no filter, nothing shared
	if metacopy {
		var v [36]byte
		v[1], v[3] = byte(len(v)), 1 // version 0, length, flags 0, algorithm SHA-256
		copy(v[4:], e.File.Verity[:])
		b = appendXattr(b, xattrTrusted, nil, []byte("overlay.metacopy"), v[:])
		b = appendXattr(b, xattrTrusted, nil, []byte("overlay.redirect"), appendObjectPath(nil, e.File))
	}
	for _, x := range e.Xattrs {
		index, rest, _ := xattrIndex(x.Name) // checked by Validate
		var escape []byte
		if index == xattrTrusted && bytes.HasPrefix(rest, overlayPrefix) {
			escape = overlayPrefix
		}
		b = appendXattr(b, index, escape, rest, x.Value)
	}
	return b
}

func appendXattr(b []byte, index byte, escape, rest, value []byte) []byte {
	b = append(b, byte(len(escape)+len(rest)), index)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	b = append(append(append(b, escape...), rest...), value...)
	return pad(b, 4)
}

// appendObjectPath appends the path of a file's object in the store, as
// overlay looks it up in its data-only layers.
func appendObjectPath(b []byte, f *File) []byte {
	const digits = "0123456789abcdef"
	for i, c := range f.Digest {
		if i < 2 {
			b = append(b, '/')
		}
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}

// pad appends zeros until len(b) is a multiple of n.
func pad(b []byte, n int) []byte {
	for len(b)%n != 0 {
		b = append(b, 0)
	}
	return b
}
