package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
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
	Overhead = headSize + tagSize + 1
	// PacketOverhead is what a Send or Recv adds to its packet.
	PacketOverhead = Overhead + 32
	// MaxDatagram is the largest one that is sent.
	MaxDatagram = PacketOverhead + MaxPacket
	// ObserveSize is the size of an observe datagram.
	ObserveSize = 1 + TokenSize
	tagSize     = 16 // of all ciphers
	nonceSize   = 12
)

// maxSealed is how many datagrams one key seals. After as many full ones, what
// AES-GCM makes is told from noise with a probability of about 2⁻⁵¹ (by the bound
// of RFC 9001, appendix B.1). That is 6 TB in one direction; then the client logs
// in again.
const maxSealed = 1 << 32

// Nonce is memory that sealing works with, so that it need not allocate.
type Nonce [nonceSize]byte

// Key is that of one direction's datagrams. The zero Key is one for tests.
type Key struct {
	secret [32]byte
	suite  uint16 // of TLS
}

// DatagramKeys are the keys of one TLS channel's datagrams: of the client's, and
// of the server's. The cipher is the one that TLS agreed on: AES where both ends
// have instructions for it. Ciphers are most of what a relayed packet costs, and
// there ChaCha20 takes twice as long.
func DatagramKeys(c *tls.Conn) (client, server Key, err error) {
	cs := c.ConnectionState()
	b, err := cs.ExportKeyingMaterial(labelUDP, nil, 64)
	if err != nil {
		return client, server, fmt.Errorf("make datagram keys: %w", err)
	}
	return Key{[32]byte(b[:32]), cs.CipherSuite}, Key{[32]byte(b[32:]), cs.CipherSuite}, nil
}

func (k Key) aead() (cipher.AEAD, error) {
	size := 16
	switch k.suite {
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return chacha20poly1305.New(k.secret[:])
	case tls.TLS_AES_256_GCM_SHA384:
		size = 32
	}
	block, err := aes.NewCipher(k.secret[:size])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Sealer makes datagrams of one direction. It may be used by several goroutines,
// each with its own Nonce.
type Sealer struct {
	session [SessionSize]byte
	aead    cipher.AEAD
	counter atomic.Uint64
}

// NewSealer begins at counter 0: a key belongs to one Sealer only.
func NewSealer(session [SessionSize]byte, key Key) (*Sealer, error) {
	a, err := key.aead()
	if err != nil {
		return nil, fmt.Errorf("seal datagrams: %w", err)
	}
	return &Sealer{session: session, aead: a}, nil
}

// Seal makes a datagram that fills d, which has room for Overhead and the parts;
// zero bytes follow them. It is not called once the key is Spent.
func (s *Sealer) Seal(d []byte, nonce *Nonce, t Type, x, y []byte) {
	counter := s.counter.Add(1)
	d[0] = DatagramSealed
	copy(d[1:], s.session[:])
	binary.BigEndian.PutUint64(d[1+SessionSize:], counter)
	n := len(d) - tagSize
	d[headSize] = byte(t)
	at := headSize + 1 + copy(d[headSize+1:n], x)
	at += copy(d[at:n], y)
	clear(d[at:n])
	clear(nonce[:4])
	binary.BigEndian.PutUint64(nonce[4:], counter)
	s.aead.Seal(d[headSize:headSize], nonce[:], d[headSize:n], d[:headSize])
}

// Spent tells that the key has sealed as much as it may: a new session is needed.
func (s *Sealer) Spent() bool { return s.counter.Load() >= maxSealed }

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

// Opener checks datagrams of one direction: each counts once. One goroutine may
// use it.
type Opener struct {
	aead  cipher.AEAD
	nonce Nonce
	seen  window
}

// NewOpener opens what a Sealer with the same key made.
func NewOpener(key Key) (*Opener, error) {
	a, err := key.aead()
	if err != nil {
		return nil, fmt.Errorf("open datagrams: %w", err)
	}
	return &Opener{aead: a}, nil
}

// Open decrypts a datagram in place. newest tells that no later one was opened
// before: its sender's address is the present one.
func (o *Opener) Open(d []byte) (t Type, body []byte, newest bool, err error) {
	if len(d) < Overhead || d[0] != DatagramSealed {
		return 0, nil, false, errDatagram
	}
	counter := binary.BigEndian.Uint64(d[1+SessionSize:])
	if !o.seen.fresh(counter) {
		return 0, nil, false, errReplayed
	}
	binary.BigEndian.PutUint64(o.nonce[4:], counter)
	plain, err := o.aead.Open(d[headSize:headSize], o.nonce[:], d[headSize:], d[:headSize])
	if err != nil {
		return 0, nil, false, errDatagram
	}
	// Only what is authentic moves the window.
	_, newest = o.seen.mark(counter)
	return Type(plain[0]), plain[1:], newest, nil
}
