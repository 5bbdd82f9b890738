package path

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/replay"
)

// KeyID names a channel's keys on the wire: whoever has them recognises it, to
// everybody else it is 8 random bytes.
type KeyID [8]byte

// envelopeSize is the key's id and the message's counter, before the ciphertext.
const envelopeSize = len(KeyID{}) + 8

// Overhead is how much longer a sealed message is than a plain one.
const Overhead = envelopeSize + chacha20poly1305.Overhead

// MaxSealed is the longest sealed message, bytes.
const MaxSealed = Overhead + max(1+tellSize+MaxCandidates*candidateSize, fullPingSize)

// Channel seals and opens the messages of a pair, with the keys of one exchange.
// Each sealed message opens once, at the other side only. It may be used by
// several goroutines.
type Channel struct {
	id      KeyID
	send    cipher.AEAD
	receive cipher.AEAD

	mu     sync.Mutex
	next   uint64
	filter replay.Filter
}

// NewChannel makes one side's channel; the other side has send and receive
// exchanged. No pair of keys may be used for two channels: the counter that
// makes nonces begins at 0.
func NewChannel(id KeyID, send, receive [32]byte) *Channel {
	// The only error is a key of another length than 32 bytes.
	s, _ := chacha20poly1305.New(send[:])
	r, _ := chacha20poly1305.New(receive[:])
	return &Channel{id: id, send: s, receive: r}
}

// ID returns the name that is on the channel's messages.
func (c *Channel) ID() KeyID { return c.id }

// Seal appends the sealed message to dst.
func (c *Channel) Seal(dst []byte, m Message) []byte {
	c.mu.Lock()
	n := c.next
	c.next++
	c.mu.Unlock()
	at := len(dst)
	dst = append(dst, c.id[:]...)
	dst = binary.BigEndian.AppendUint64(dst, n)
	nonce := nonceOf(n)
	return c.send.Seal(dst, nonce[:], m.Encode(), dst[at:at+envelopeSize])
}

// SealedID returns the name of the keys that a message claims to be sealed with.
func SealedID(sealed []byte) (KeyID, bool) {
	if len(sealed) < Overhead || len(sealed) > MaxSealed {
		return KeyID{}, false
	}
	return KeyID(sealed[:len(KeyID{})]), true
}

// Open returns the message in sealed if the other side made it and it was not
// opened before.
func (c *Channel) Open(sealed []byte) (Message, error) {
	if id, ok := SealedID(sealed); !ok || id != c.id {
		return Message{}, fmt.Errorf("open path message: it is of another pair")
	}
	n := binary.BigEndian.Uint64(sealed[len(KeyID{}):])
	nonce := nonceOf(n)
	plain, err := c.receive.Open(nil, nonce[:], sealed[envelopeSize:], sealed[:envelopeSize])
	if err != nil {
		return Message{}, fmt.Errorf("open path message: it is forged or damaged")
	}
	c.mu.Lock()
	// Only authentic counters move the window.
	fresh := c.filter.ValidateCounter(n, ^uint64(0))
	c.mu.Unlock()
	if !fresh {
		return Message{}, fmt.Errorf("open path message: it came before")
	}
	return DecodeMessage(plain)
}

func nonceOf(n uint64) (nonce [chacha20poly1305.NonceSize]byte) {
	binary.BigEndian.PutUint64(nonce[4:], n)
	return nonce
}
