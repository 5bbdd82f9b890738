package flist

import (
	"fmt"
)

// checkShape walks the CBOR bytes of a manifest and refuses what has another
// structure, or more items than a manifest may have, before anything is
// allocated for them: a generic decoder would spend 200 bytes on each one-byte
// item that claims to be an entry. What it lets pass is still decoded
// strictly; it allocates nothing itself.
func checkShape(b []byte) error {
	s := shape{b: b}
	s.head(5, 3, 3) // the three keys in canonical order
	s.key("v")
	s.number()
	s.key("config")
	s.config()
	s.key("entries")
	for n := s.head(4, 1, MaxEntries); n > 0 && s.err == nil; n-- {
		s.entry()
	}
	if s.err == nil && s.at != len(b) {
		s.fail("bytes follow it")
	}
	return s.err
}

type shape struct {
	b   []byte
	at  int
	err error
}

func (s *shape) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("at byte %d: %s", s.at, fmt.Sprintf(format, args...))
	}
}

// any reads the head of an item: its major type and argument.
func (s *shape) any() (major byte, arg uint64) {
	if s.err != nil {
		return 0, 0
	}
	if s.at >= len(s.b) {
		s.fail("the bytes end early")
		return 0, 0
	}
	first := s.b[s.at]
	major, low := first>>5, first&31
	size := 0
	switch {
	case low < 24:
		s.at++
		return major, uint64(low)
	case low < 28:
		size = 1 << (low - 24)
	default:
		s.fail("indefinite or reserved length")
		return 0, 0
	}
	if len(s.b)-s.at-1 < size {
		s.fail("the bytes end early")
		return 0, 0
	}
	for _, c := range s.b[s.at+1 : s.at+1+size] {
		arg = arg<<8 | uint64(c)
	}
	s.at += 1 + size
	return major, arg
}

// head reads an item that must be of one major type, its argument within
// bounds.
func (s *shape) head(major byte, least, most uint64) uint64 {
	m, n := s.any()
	if s.err == nil && (m != major || n < least || n > most) {
		s.fail("item of type %d and %d, want type %d and %d to %d", m, n, major, least, most)
	}
	if s.err != nil {
		return 0
	}
	return n
}

// bytes reads a byte string (major 2) or text string (major 3).
func (s *shape) bytes(major byte, least, most uint64) []byte {
	n := s.head(major, least, most)
	if uint64(len(s.b)-s.at) < n {
		s.fail("the bytes end early")
	}
	if s.err != nil {
		return nil
	}
	s.at += int(n)
	return s.b[s.at-int(n) : s.at]
}

func (s *shape) key(want string) {
	if k := s.bytes(3, 1, 16); s.err == nil && string(k) != want {
		s.fail("key %q, want %q", k, want)
	}
}

func (s *shape) number() { s.head(0, 0, 1<<64-1) }

func (s *shape) config() {
	s.head(5, 5, 5)
	for _, key := range []string{"cmd", "env", "user", "workdir", "entrypoint"} {
		s.key(key)
		n := uint64(1)
		if key != "user" && key != "workdir" {
			n = s.head(4, 0, MaxConfigItems)
		}
		for ; n > 0 && s.err == nil; n-- {
			s.bytes(3, 0, MaxConfigString)
		}
	}
}

func (s *shape) entry() {
	s.head(4, 9, 9)
	s.bytes(2, 0, MaxPath)
	s.number()                                             // mode
	s.number()                                             // uid
	s.number()                                             // gid
	if m, _ := s.any(); s.err == nil && m != 0 && m != 1 { // mtime may be negative
		s.fail("time is not an integer")
	}
	s.number() // rdev
	s.bytes(2, 0, MaxPath)
	for n := s.head(4, 0, MaxXattrs); n > 0 && s.err == nil; n-- {
		s.head(4, 2, 2)
		s.bytes(2, 0, MaxXattrName)
		s.bytes(2, 0, MaxXattrValue)
	}
	s.file()
}

func (s *shape) file() {
	const null = 0xf6
	if s.err == nil && s.at < len(s.b) && s.b[s.at] == null {
		s.at++
		return
	}
	s.head(4, 4, 4)
	s.number() // size
	s.bytes(2, 32, 32)
	s.bytes(2, 32, 32)
	for n := s.head(4, 0, MaxChunks); n > 0 && s.err == nil; n-- {
		s.bytes(2, 32, 32)
	}
}
