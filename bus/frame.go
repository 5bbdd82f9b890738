package bus

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// frame is what travels on a duplex stream, either way, once it stands. A frame
// may carry a message, and always tells how far its sender is with the other's.
type frame struct {
	// Sequence numbers the messages of one direction: 1, 2, 3 …; 0: none is in it.
	Sequence uint64 `cbor:"seq"`
	// Received is the highest message of the other side up to which none is
	// missing; Taken how many of them its program has read. The other side may
	// number its messages up to Taken + DuplexWindow.
	Received uint64 `cbor:"received"`
	Taken    uint64 `cbor:"taken"`
	// Beat is the number of the lease: the node's present one; from the asker, with
	// Renew, the one that is to be renewed.
	Beat  uint64 `cbor:"beat"`
	Renew bool   `cbor:"renew"`
	// Tell asks the other side to say at once how far it is.
	Tell bool `cbor:"tell"`
	// Last ends the stream: from the node in the order of its messages, from the
	// asker at once.
	Last    bool   `cbor:"last"`
	Code    string `cbor:"code"`    // "" or a problem code; only with Last, of the node
	Message string `cbor:"message"` // what went wrong, one line
	Data    []byte `cbor:"data"`    // 1 to MaxDuplex bytes, if it carries a message
}

const (
	// MaxDuplex bounds a message on a duplex stream, in bytes: 64 KiB of data and
	// what a method writes around it.
	MaxDuplex = 65 << 10
	// DuplexWindow is how many messages of one direction may be on the way.
	DuplexWindow = 16

	// frameVersion begins all frames: HKDF-SHA256, AES-256-GCM. What is sealed to a
	// node begins with another byte.
	frameVersion = 2
	frameHead    = 1 + len(canon.Hash{}) + 8
	maxFrame     = frameHead + MaxDuplex + 2<<10
	secretSize   = 32
)

// frameKeys are the two directions of one duplex stream.
type frameKeys struct{ up, down cipher.AEAD }

// deriveFrames makes the keys of a stream from two secrets: the asker's came in
// the request, sealed to the node and signed by the account; the node's went back
// in the first reply, sealed to a key made for this request and signed by the
// node. So neither key of the node alone opens a stream, and nobody who did not
// make both secrets does.
func deriveFrames(grid, slot canon.Hash, epoch uint64, request canon.Hash, asker, node []byte) (frameKeys, error) {
	if len(asker) != secretSize || len(node) != secretSize {
		return frameKeys{}, problem.New("request-invalid", "derive the keys of a stream: a secret has not %d bytes", secretSize)
	}
	base := string(sealInfo("duplex\x00", grid, slot, epoch)) + string(request[:])
	one := func(direction string) (cipher.AEAD, error) {
		secret := append(append(make([]byte, 0, 2*secretSize), asker...), node...)
		key, err := hkdf.Key(sha256.New, secret, nil, base+direction, 32)
		if err != nil {
			return nil, fmt.Errorf("derive the keys of a stream: %w", err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("derive the keys of a stream: %w", err)
		}
		return cipher.NewGCM(block)
	}
	up, err := one("up")
	if err != nil {
		return frameKeys{}, err
	}
	down, err := one("down")
	return frameKeys{up, down}, err
}

// sealFrame encrypts one frame. count must differ for each frame of a direction,
// also for one that is sent again: it is the nonce.
//
//	2, the hash of the request, count (8 bytes, big-endian), ciphertext
func sealFrame(key cipher.AEAD, request canon.Hash, count uint64, f frame) ([]byte, error) {
	plain, err := canon.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	head := append([]byte{frameVersion}, request[:]...)
	head = binary.BigEndian.AppendUint64(head, count)
	return key.Seal(head, frameNonce(count), plain, head), nil
}

func frameNonce(count uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4), count)
}

// frameOf tells of which stream a frame says it is. It proves nothing.
func frameOf(data []byte) (request canon.Hash, ok bool) {
	if len(data) < frameHead || len(data) > maxFrame || data[0] != frameVersion {
		return canon.Hash{}, false
	}
	return canon.Hash(data[1:][:len(request)]), true
}

// openFrame decrypts a frame of the stream and checks its form.
func openFrame(key cipher.AEAD, data []byte) (frame, error) {
	if _, ok := frameOf(data); !ok {
		return frame{}, problem.New("frame-invalid", "open frame: %d bytes in no known format", len(data))
	}
	head := data[:frameHead:frameHead]
	plain, err := key.Open(nil, frameNonce(binary.BigEndian.Uint64(head[frameHead-8:])), data[frameHead:], head)
	if err != nil {
		return frame{}, problem.New("unsealable", "open frame: it is of another stream or direction, or was altered")
	}
	return decodeFrame(plain)
}

// decodeFrame reads an opened frame.
func decodeFrame(plain []byte) (frame, error) {
	var f frame
	if err := canon.UnmarshalLimit(plain, maxFrame, &f); err != nil {
		return frame{}, problem.New("frame-invalid", "decode frame: %w", err)
	}
	const most = 1 << 62 // no sum of ours overflows
	switch {
	case f.Sequence > most || f.Received > most || f.Taken > most || f.Beat > most:
		return frame{}, problem.New("frame-invalid", "decode frame: a number is too high")
	case f.Taken > f.Received:
		return frame{}, problem.New("frame-invalid", "decode frame: more is taken than was received")
	case len(f.Data) > MaxDuplex || len(f.Message) > MaxMessage || len(f.Code) > MaxCode:
		return frame{}, problem.New("frame-invalid", "decode frame: a field is too long")
	case (len(f.Data) > 0) != (f.Sequence > 0 && !f.Last):
		return frame{}, problem.New("frame-invalid", "decode frame: a message without a number, or a number without a message")
	case f.Code != "" && !f.Last:
		return frame{}, problem.New("frame-invalid", "decode frame: an error that is not the end")
	}
	return f, nil
}
