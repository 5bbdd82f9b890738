package hello

import (
	"errors"
	"strings"
)

// MaxSize bounds the bytes of a ClientHello with its record headers. Real ones,
// with post-quantum key shares, have around 2,000.
const MaxSize = 16 << 10

// ErrShort says that the bytes are the beginning of a ClientHello.
var ErrShort = errors.New("the ClientHello is not complete")

// ErrJunk says that the bytes are no ClientHello, whatever may follow.
var ErrJunk = errors.New("not a TLS ClientHello")

// Hello is what a client asks for.
type Hello struct {
	// Name is the server name (RFC 6066) in lower case; "" if the client sent none.
	// A client that encrypts its real hello (ECH) says an outer name here.
	Name string
	// Protocols are those of ALPN (RFC 7301), in the client's order.
	Protocols []string
}

// Parse reads the ClientHello with which b begins; what follows it is not looked
// at. It returns ErrShort if more bytes are needed, ErrJunk if none would help:
// also when MaxSize bytes are not enough.
func Parse(b []byte) (Hello, error) {
	if len(b) > MaxSize {
		b = b[:MaxSize]
	}
	message, err := reassemble(b)
	if errors.Is(err, ErrShort) && len(b) == MaxSize {
		err = ErrJunk
	}
	if err != nil {
		return Hello{}, err
	}
	return parse(message)
}

// Record and handshake layers, RFC 8446 §4 and §5.1.
const (
	recordHeader    = 5
	recordHandshake = 22
	maxRecord       = 1 << 14
	messageHeader   = 4
	clientHello     = 1
)

// reassemble returns the body of the handshake message at the start of b, which
// may be spread over records. Junk is recognised at the first byte that is.
func reassemble(b []byte) ([]byte, error) {
	var (
		have  int  // bytes of the message in whole or broken records so far
		want  = -1 // of its body, when its header is known
		head  [messageHeader]byte
		first []byte // payload of the first record
	)
	for at := 0; ; {
		rest := b[at:]
		if len(rest) > 0 && rest[0] != recordHandshake || len(rest) > 1 && rest[1] != 3 {
			return nil, ErrJunk
		}
		if len(rest) < recordHeader {
			return nil, ErrShort
		}
		size := int(rest[3])<<8 | int(rest[4])
		if size == 0 || size > maxRecord {
			return nil, ErrJunk
		}
		payload := rest[recordHeader:min(len(rest), recordHeader+size)]
		if have < messageHeader {
			copy(head[have:], payload)
		}
		have += len(payload)
		if have > 0 && head[0] != clientHello {
			return nil, ErrJunk
		}
		if have >= messageHeader && want < 0 {
			want = int(head[1])<<16 | int(head[2])<<8 | int(head[3])
			if want > MaxSize {
				return nil, ErrJunk
			}
		}
		if at == 0 {
			first = payload
		}
		at += recordHeader + size
		if want >= 0 && have >= messageHeader+want {
			if len(first) >= messageHeader+want {
				return first[messageHeader:][:want], nil
			}
			return join(b, want), nil
		}
		if at > len(b) {
			return nil, ErrShort
		}
	}
}

// join copies the message, which is complete, out of the records of b.
func join(b []byte, want int) []byte {
	out := make([]byte, 0, messageHeader+want)
	for len(out) < messageHeader+want {
		size := int(b[3])<<8 | int(b[4])
		out = append(out, b[recordHeader:min(len(b), recordHeader+size)]...)
		b = b[min(len(b), recordHeader+size):]
	}
	return out[messageHeader:][:want]
}

// Extensions that are read.
const (
	extensionServerName = 0
	extensionALPN       = 16
)

// parse reads the body of a ClientHello, RFC 8446 §4.1.2. Lengths that disagree
// are junk, as they are to servers.
func parse(m []byte) (Hello, error) {
	r := reader{b: m}
	r.take(2 + 32) // version, random
	if session := r.take8(); len(session) > 32 {
		return Hello{}, ErrJunk
	}
	suites := r.take16()
	compressions := r.take8()
	if r.bad || len(suites) < 2 || len(suites)%2 != 0 || len(compressions) == 0 {
		return Hello{}, ErrJunk
	}
	var h Hello
	if len(r.b) == 0 {
		return h, nil // before extensions were invented
	}
	all := reader{b: r.take16()}
	if r.bad || len(r.b) != 0 {
		return Hello{}, ErrJunk
	}
	var seen kinds
	for len(all.b) > 0 {
		kind := all.uint16()
		body := reader{b: all.take16()}
		if all.bad || !seen.add(kind) {
			return Hello{}, ErrJunk
		}
		ok := true
		switch kind {
		case extensionServerName:
			h.Name, ok = serverName(body)
		case extensionALPN:
			h.Protocols, ok = protocols(body)
		}
		if !ok {
			return Hello{}, ErrJunk
		}
	}
	return h, nil
}

// serverName reads a list of names of which one at most is a host's.
func serverName(r reader) (string, bool) {
	list := reader{b: r.take16()}
	if r.bad || len(r.b) != 0 || len(list.b) == 0 {
		return "", false
	}
	var name string
	for len(list.b) > 0 {
		kind := list.take(1)
		text := list.take16()
		if list.bad || len(text) == 0 {
			return "", false
		}
		if kind[0] != 0 {
			continue // no other is defined
		}
		// "The hostname is represented ... without a trailing dot."
		if name != "" || text[len(text)-1] == '.' {
			return "", false
		}
		name = lower(text)
	}
	return name, true
}

// lower changes ASCII letters only: other bytes are part of no host name, and
// stay as they are.
func lower(b []byte) string {
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			var out strings.Builder
			out.Grow(len(b))
			out.Write(b[:i])
			for _, c := range b[i:] {
				if 'A' <= c && c <= 'Z' {
					c += 'a' - 'A'
				}
				out.WriteByte(c)
			}
			return out.String()
		}
	}
	return string(b)
}

func protocols(r reader) ([]string, bool) {
	list := reader{b: r.take16()}
	if r.bad || len(r.b) != 0 || len(list.b) == 0 {
		return nil, false
	}
	var out []string
	for len(list.b) > 0 {
		p := list.take8()
		if list.bad || len(p) == 0 {
			return nil, false
		}
		out = append(out, string(p))
	}
	return out, true
}

// kinds are the extensions that a hello has had: a bit each, of 65,536, in
// the few words that are used.
type kinds struct {
	low  uint64 // those below 64, which is most
	more map[uint16]struct{}
}

// add returns false if the extension was there already.
func (k *kinds) add(kind uint16) bool {
	if kind < 64 {
		bit := uint64(1) << kind
		was := k.low&bit != 0
		k.low |= bit
		return !was
	}
	if _, was := k.more[kind]; was {
		return false
	}
	if k.more == nil {
		k.more = make(map[uint16]struct{}, 8)
	}
	k.more[kind] = struct{}{}
	return true
}

// reader takes fields off the front of b; bad says that one was cut off.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint16() uint16 {
	b := r.take(2)
	if r.bad {
		return 0
	}
	return uint16(b[0])<<8 | uint16(b[1])
}

func (r *reader) take8() []byte {
	b := r.take(1)
	if r.bad {
		return nil
	}
	return r.take(int(b[0]))
}

func (r *reader) take16() []byte { return r.take(int(r.uint16())) }
