package canon

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Major types of CBOR (RFC 8949 §3.1), in the three high bits of a head.
const (
	majorUint  = 0
	majorNeg   = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
)

// check tells whether b is one item of the canonical subset: it looks at the
// bytes alone, knows no Go type, allocates nothing and never recurses deeper
// than MaxDepth.
func check(b []byte) error {
	c := checker{rest: b}
	if err := c.item(0); err != nil {
		return fmt.Errorf("at byte %d: %w", len(b)-len(c.rest), err)
	}
	if len(c.rest) > 0 {
		return fmt.Errorf("at byte %d: %d bytes follow the value", len(b)-len(c.rest), len(c.rest))
	}
	return nil
}

var errCut = errors.New("bytes end inside a value")

// checker walks the items of rest from left to right.
type checker struct{ rest []byte }

func (c *checker) item(depth int) error {
	if depth > MaxDepth {
		return fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	major, n, err := c.head()
	if err != nil {
		return err
	}
	switch major {
	case majorUint, majorNeg:
		return nil
	case majorBytes:
		_, err := c.take(n)
		return err
	case majorText:
		s, err := c.take(n)
		if err == nil && !utf8.Valid(s) {
			err = errors.New("text is not UTF-8")
		}
		return err
	case majorArray:
		if n > MaxArray {
			return fmt.Errorf("array of %d elements, at most %d are allowed", n, MaxArray)
		}
		for range n {
			if err := c.item(depth + 1); err != nil {
				return err
			}
		}
		return nil
	case majorMap:
		return c.pairs(n, depth)
	default: // simple values: head lets only false, true and null pass
		return nil
	}
}

// pairs walks the n keys and values of a map. Keys are text and rise strictly
// in the order of their encoded bytes, so none occurs twice.
func (c *checker) pairs(n uint64, depth int) error {
	if n > MaxPairs {
		return fmt.Errorf("map of %d keys, at most %d are allowed", n, MaxPairs)
	}
	var last []byte
	for range n {
		start := c.rest
		if len(start) > 0 && start[0]>>5 != majorText {
			return errors.New("map key is not text")
		}
		if err := c.item(depth + 1); err != nil {
			return err
		}
		key := start[:len(start)-len(c.rest)]
		if last != nil && bytes.Compare(last, key) >= 0 {
			return errors.New("map keys are not sorted or occur twice")
		}
		last = key
		if err := c.item(depth + 1); err != nil {
			return err
		}
	}
	return nil
}

// head reads the major type and the argument in its shortest form.
func (c *checker) head() (major byte, n uint64, err error) {
	h, err := c.take(1)
	if err != nil {
		return 0, 0, err
	}
	major, info := h[0]>>5, h[0]&31
	switch {
	case major == 6:
		return 0, 0, errors.New("tags are not allowed")
	case major == 7:
		if info < 20 || info > 22 {
			return 0, 0, errors.New("floats and simple values other than false, true and null are not allowed")
		}
		return major, 0, nil
	case info < 24:
		return major, uint64(info), nil
	case info > 27:
		return 0, 0, errors.New("indefinite lengths are not allowed")
	}
	size := 1 << (info - 24)
	arg, err := c.take(uint64(size))
	if err != nil {
		return 0, 0, err
	}
	var full [8]byte
	copy(full[8-size:], arg)
	n = binary.BigEndian.Uint64(full[:])
	shortest := uint64(24) // the first value that needs one byte
	if size > 1 {
		shortest = 1 << (8 * size / 2)
	}
	if n < shortest {
		return 0, 0, errors.New("number is not in its shortest form")
	}
	return major, n, nil
}

func (c *checker) take(n uint64) ([]byte, error) {
	if n > uint64(len(c.rest)) {
		return nil, errCut
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b, nil
}
