package guest

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
)

// The stuffed stream, see doc.go.
const (
	esc         = 0xF5 // in no UTF-8 text, so logs pass as they are
	escByte     = 0x00 // esc itself
	markHello   = 0x01
	markWelcome = 0x02
)

// nonceLen is the length of a session's number in hex digits, which never are esc.
const nonceLen = 32

// mark is what stands between sessions.
type mark struct {
	kind  byte // markHello, markWelcome, or 0 for a sequence that means nothing
	nonce string
}

// newNonce is a session's number. Only its being new counts: it is no secret.
func newNonce() string {
	var b [nonceLen / 2]byte
	_, _ = rand.Read(b[:]) // never fails, says crypto/rand
	return hex.EncodeToString(b[:])
}

func (m mark) bytes() []byte { return append([]byte{esc, m.kind}, m.nonce...) }

// stuff appends p to dst so that no mark is in it.
func stuff(dst, p []byte) []byte {
	for {
		i := bytes.IndexByte(p, esc)
		if i < 0 {
			return append(dst, p...)
		}
		dst = append(append(dst, p[:i]...), esc, escByte)
		p = p[i+1:]
	}
}

// decoder reads a stuffed stream. It holds one buffer and never more than a mark.
type decoder struct {
	r       io.Reader
	buf     []byte
	pending []byte // of buf, not yet looked at
	escaped bool   // the byte before was esc
	kind    byte   // of the mark whose digits come
	digits  []byte
}

func newDecoder(r io.Reader) *decoder {
	return &decoder{r: r, buf: make([]byte, 32<<10)}
}

// next returns the next bytes of the session, valid until the call after, or the next mark.
func (d *decoder) next() (data []byte, m *mark, err error) {
	for {
		for len(d.pending) == 0 {
			n, err := d.r.Read(d.buf)
			d.pending = d.buf[:n]
			if n == 0 && err != nil {
				return nil, nil, err
			}
		}
		switch {
		case d.escaped:
			c := d.pending[0]
			if c == esc {
				// What was there before was cut off: this one counts.
				d.pending, d.kind = d.pending[1:], 0
				continue
			}
			d.escaped = false
			data, d.pending = d.pending[:1], d.pending[1:]
			switch c {
			case escByte:
				data[0] = esc
				return data, nil, nil
			case markHello, markWelcome:
				d.kind, d.digits = c, d.digits[:0]
			default:
				return nil, &mark{}, nil
			}
		case d.kind != 0:
			c := d.pending[0]
			if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
				d.kind = 0 // a mark cut off; c is looked at again
				return nil, &mark{}, nil
			}
			d.pending = d.pending[1:]
			if d.digits = append(d.digits, c); len(d.digits) == nonceLen {
				m = &mark{kind: d.kind, nonce: string(d.digits)}
				d.kind = 0
				return nil, m, nil
			}
		default:
			i := bytes.IndexByte(d.pending, esc)
			if i < 0 {
				data, d.pending = d.pending, nil
				return data, nil, nil
			}
			data, d.pending = d.pending[:i], d.pending[i+1:]
			d.escaped = true
			if i > 0 {
				return data, nil, nil
			}
		}
	}
}

// errMark is the end of a session by a mark in its midst.
func (m mark) err() error {
	return fmt.Errorf("the other side's stream has a mark %d within a session", m.kind)
}
