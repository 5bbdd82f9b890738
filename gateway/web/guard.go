package web

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
)

// guard is a client's HTTP/1 connection that lets only messages through about
// whose framing no two readers can disagree. net/http would accept some that it
// should not (a length and chunks at once, of which it drops the length; an
// absolute target, for which it drops Host; bare line feeds), and a reader before
// or behind it may see another message there. What is refused ends the
// connection: net/http answers 400 to the error that Read returns.
type guard struct {
	net.Conn
	f    framer
	err  error // of the bytes after those that Read returned
	open atomic.Bool
}

func newGuard(c net.Conn, header int) *guard {
	return &guard{Conn: c, f: framer{max: header}}
}

// Read returns bytes of checked messages only.
func (g *guard) Read(b []byte) (int, error) {
	if g.open.Load() {
		return g.Conn.Read(b)
	}
	if g.err != nil {
		return 0, g.err
	}
	n, err := g.Conn.Read(b)
	ok, bad := g.f.take(b[:n])
	if bad != nil {
		g.err = bad
		if ok == 0 {
			return 0, bad
		}
		return ok, nil
	}
	return n, err
}

// unguard lets everything through: the connection speaks another protocol now.
func (g *guard) unguard() { g.open.Store(true) }

// framer follows the messages of a connection byte by byte. Its zero value with
// max set waits for a request.
type framer struct {
	max  int // bytes of a header, with the request line; also of trailers
	line []byte
	size int // bytes of this header so far

	state  state
	left   uint64 // of the body or the chunk
	length uint64
	has    struct{ host, length, chunked, old bool }
}

type state int

const (
	inRequest state = iota // before and in the request line
	inHeader
	inBody      // left bytes of known length
	inSize      // a chunk's size
	inChunk     // left bytes of a chunk
	inChunkEnd  // the line end after a chunk
	inTrailer   // after the last chunk
	maxSizeLine = 16
)

var errTooLong = errors.New("header too large")

// take reads b and returns how many of its bytes belong to a valid prefix of a
// sequence of messages.
func (f *framer) take(b []byte) (int, error) {
	for i := 0; i < len(b); {
		if f.state == inBody || f.state == inChunk {
			n := min(uint64(len(b)-i), f.left)
			i += int(n)
			f.left -= n
			if f.left == 0 && f.state == inBody {
				f.state = inRequest
			} else if f.left == 0 {
				f.state = inChunkEnd
			}
			continue
		}
		c := b[i]
		// A header whose line or whole is too long is net/http's to refuse, with a
		// status of its own; this is the bound of what is kept here.
		if f.size++; f.size > f.max+8192 || (f.state == inSize || f.state == inChunkEnd) && len(f.line) > maxSizeLine {
			return i, errTooLong
		}
		if last := len(f.line) - 1; c == '\n' {
			if last < 0 || f.line[last] != '\r' {
				return i, errors.New("line ends without carriage return")
			}
			if err := f.endLine(f.line[:last]); err != nil {
				return i, err
			}
			f.line = f.line[:0]
		} else if last >= 0 && f.line[last] == '\r' {
			return i, errors.New("carriage return within a line")
		} else if c < ' ' && c != '\t' && c != '\r' || c == 0x7f {
			return i, fmt.Errorf("control character %#x", c)
		} else {
			f.line = append(f.line, c)
		}
		i++
	}
	return len(b), nil
}

// endLine judges a line, without its end.
func (f *framer) endLine(line []byte) error {
	switch f.state {
	case inRequest:
		if len(line) == 0 && f.size == 2 {
			return errors.New("empty line before a request")
		}
		f.length, f.has.host, f.has.length, f.has.chunked = 0, false, false, false
		f.state = inHeader
		return f.requestLine(line)
	case inHeader:
		if len(line) == 0 {
			return f.endHeader()
		}
		return f.field(line)
	case inSize:
		size, err := parseSize(line, 16)
		if err != nil {
			return err
		}
		f.left, f.state, f.size = size, inChunk, 0
		if size == 0 {
			f.state = inTrailer
		}
		return nil
	case inChunkEnd:
		if len(line) != 0 {
			return errors.New("chunk longer than its size")
		}
		f.state, f.size = inSize, 0
		return nil
	default: // inTrailer
		if len(line) == 0 {
			f.state, f.size = inRequest, 0
			return nil
		}
		name, _, err := splitField(line)
		if err == nil && (equalFold(name, "content-length") || equalFold(name, "transfer-encoding") || equalFold(name, "host")) {
			err = errors.New("framing in a trailer")
		}
		return err
	}
}

// requestLine accepts METHOD SP target SP HTTP/1.x with a target that is a path,
// or "*" of OPTIONS.
func (f *framer) requestLine(line []byte) error {
	i := 0
	for i < len(line) && isToken(line[i]) {
		i++
	}
	if i == 0 || i > 32 || i == len(line) || line[i] != ' ' {
		return errors.New("malformed method")
	}
	method, rest := string(line[:i]), line[i+1:]
	j := 0
	for j < len(rest) && rest[j] > ' ' && rest[j] < 0x7f {
		j++
	}
	target := rest[:j]
	if len(target) == 0 || target[0] != '/' && (string(target) != "*" || method != "OPTIONS") {
		return errors.New("target is no path")
	}
	switch string(rest[j:]) {
	case " HTTP/1.1":
		f.has.old = false
	case " HTTP/1.0":
		f.has.old = true
	default:
		return errors.New("malformed request line")
	}
	return nil
}

func (f *framer) field(line []byte) error {
	name, value, err := splitField(line)
	if err != nil {
		return err
	}
	switch {
	case equalFold(name, "host"):
		if f.has.host {
			return errors.New("two hosts")
		}
		f.has.host = true
	case equalFold(name, "content-length"):
		if f.has.length {
			return errors.New("two lengths")
		}
		f.has.length = true
		f.length, err = parseSize(value, 10)
		return err
	case equalFold(name, "transfer-encoding"):
		if f.has.chunked {
			return errors.New("two transfer encodings")
		}
		if !equalFold(value, "chunked") {
			return errors.New("unknown transfer encoding")
		}
		f.has.chunked = true
	}
	return nil
}

func (f *framer) endHeader() error {
	f.size = 0
	switch {
	case !f.has.host:
		return errors.New("no host")
	case f.has.chunked && (f.has.length || f.has.old):
		return errors.New("chunks together with a length, or in HTTP/1.0")
	case f.has.chunked:
		f.state = inSize
	case f.length > 0:
		f.left, f.state = f.length, inBody
	default:
		f.state = inRequest
	}
	return nil
}

// splitField cuts a field line. Continued lines and blanks before the colon are
// refused.
func splitField(line []byte) (name, value []byte, err error) {
	i := 0
	for i < len(line) && isToken(line[i]) {
		i++
	}
	if i == 0 || i == len(line) || line[i] != ':' {
		return nil, nil, errors.New("malformed field name")
	}
	value = line[i+1:]
	for len(value) > 0 && (value[0] == ' ' || value[0] == '\t') {
		value = value[1:]
	}
	for n := len(value); n > 0 && (value[n-1] == ' ' || value[n-1] == '\t'); n-- {
		value = value[:n-1]
	}
	return line[:i], value, nil
}

// parseSize reads digits and nothing else, at most 2^62.
func parseSize(b []byte, base uint64) (uint64, error) {
	if len(b) == 0 || len(b) > 19 {
		return 0, errors.New("malformed size")
	}
	var n uint64
	for _, c := range b {
		var d uint64
		switch {
		case c >= '0' && c <= '9':
			d = uint64(c - '0')
		case base == 16 && c|0x20 >= 'a' && c|0x20 <= 'f':
			d = uint64(c|0x20-'a') + 10
		default:
			return 0, errors.New("malformed size")
		}
		if n > (1<<62-d)/base {
			return 0, errors.New("size out of range")
		}
		n = n*base + d
	}
	return n, nil
}

func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func isToken(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return false
}
