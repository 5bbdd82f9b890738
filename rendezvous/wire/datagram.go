package wire

import (
	"crypto/cipher"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"
)

// Types of datagrams.
const (
	DatagramSealed = 1
	// DatagramObserve leaves from a WireGuard socket, which sends no probe that
	// begins as a message of WireGuard's (1 to 4).
	DatagramObserve = 0xf1
)

// Sizes of datagrams in bytes.
const (
	headSize = 1 + SessionSize + 8
	// Overhead is what sealing adds to type and body of a frame.
	Overhead = headSize + chacha20poly1305.Overhead + 1
	// PacketOverhead is what a Send or Recv adds to its packet.
	PacketOverhead = Overhead + 32
	// MaxDatagram is the largest one that is sent.
	MaxDatagram = PacketOverhead + MaxPacket
	// ObserveSize is the size of an observe datagram.
	ObserveSize = 1 + TokenSize
)

// Buffer is the memory for one datagram: everything that sealing and opening
// needs, so that neither allocates.
type Buffer struct {
	B     [MaxDatagram + 64]byte
	nonce [chacha20poly1305.NonceSize]byte
}

// DatagramKeys are the keys of one TLS channel's datagrams: of the client's, and
// of the server's.
func DatagramKeys(c *tls.Conn) (client, server [32]byte, err error) {
	cs := c.ConnectionState()
	b, err := cs.ExportKeyingMaterial(labelUDP, nil, 64)
	if err != nil {
		return client, server, fmt.Errorf("make datagram keys: %w", err)
	}
	return [32]byte(b[:32]), [32]byte(b[32:]), nil
}

// Sealer makes datagrams of one direction. It may be used by several goroutines,
// each with its own Buffer.
type Sealer struct {
	session [SessionSize]byte
	aead    cipher.AEAD
	counter atomic.Uint64
}

// NewSealer begins at counter 0: a key belongs to one Sealer only.
func NewSealer(session [SessionSize]byte, key [32]byte) (*Sealer, error) {
	a, err := chacha20poly1305.New(key[:])
	if err != nil {
		return nil, fmt.Errorf("seal datagrams: %w", err)
	}
	return &Sealer{session: session, aead: a}, nil
}

// Seal returns a datagram in b, nil if it would be larger than MaxDatagram. pad
// zero bytes follow the parts.
func (s *Sealer) Seal(b *Buffer, t Type, x, y []byte, pad int) []byte {
	n := headSize + 1 + len(x) + len(y) + pad
	if pad < 0 || n+chacha20poly1305.Overhead > MaxDatagram {
		return nil
	}
	counter := s.counter.Add(1)
	b.B[0] = DatagramSealed
	copy(b.B[1:], s.session[:])
	binary.BigEndian.PutUint64(b.B[1+SessionSize:], counter)
	b.B[headSize] = byte(t)
	at := headSize + 1 + copy(b.B[headSize+1:], x)
	at += copy(b.B[at:], y)
	clear(b.B[at:n])
	binary.BigEndian.PutUint64(b.nonce[4:], counter)
	sealed := s.aead.Seal(b.B[headSize:headSize], b.nonce[:], b.B[headSize:n], b.B[:headSize])
	return b.B[:headSize+len(sealed)]
}

// Errors of opening a datagram.
var (
	errDatagram = errors.New("open datagram: it is not one of this session")
	errReplayed = errors.New("open datagram: it came before, or is too old")
)

// Session reads whose sealed datagram this claims to be.
func Session(datagram []byte) (s [SessionSize]byte, ok bool) {
	if len(datagram) < Overhead || datagram[0] != DatagramSealed {
		return s, false
	}
	return [SessionSize]byte(datagram[1:]), true
}

// Opener checks datagrams of one direction: each counts once. It may be used by
// several goroutines.
type Opener struct {
	aead cipher.AEAD
	mu   sync.Mutex
	seen window
}

// NewOpener opens what a Sealer with the same key made.
func NewOpener(key [32]byte) (*Opener, error) {
	a, err := chacha20poly1305.New(key[:])
	if err != nil {
		return nil, fmt.Errorf("open datagrams: %w", err)
	}
	return &Opener{aead: a}, nil
}

// Open decrypts a datagram in place; b is memory to work with. newest tells that
// no later one was opened before: its sender's address is the present one.
func (o *Opener) Open(b *Buffer, d []byte) (t Type, body []byte, newest bool, err error) {
	if len(d) < Overhead || d[0] != DatagramSealed {
		return 0, nil, false, errDatagram
	}
	counter := binary.BigEndian.Uint64(d[1+SessionSize:])
	o.mu.Lock()
	fresh := o.seen.fresh(counter)
	o.mu.Unlock()
	if !fresh {
		return 0, nil, false, errReplayed
	}
	clear(b.nonce[:4])
	binary.BigEndian.PutUint64(b.nonce[4:], counter)
	plain, err := o.aead.Open(d[headSize:headSize], b.nonce[:], d[headSize:], d[:headSize])
	if err != nil {
		return 0, nil, false, errDatagram
	}
	// Only what is authentic moves the window; and of two equal ones that were
	// opened at once, one counts.
	o.mu.Lock()
	fresh, newest = o.seen.mark(counter)
	o.mu.Unlock()
	if !fresh {
		return 0, nil, false, errReplayed
	}
	return Type(plain[0]), plain[1:], newest, nil
}
