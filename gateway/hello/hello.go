package hello

import "errors"

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
	Name string
	// Protocols are those of ALPN (RFC 7301), in the client's order.
	Protocols []string
}
