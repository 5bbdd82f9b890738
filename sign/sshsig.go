package sign

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"

	"github.com/zero-os/zos/problem"
)

// The format is OpenSSH's PROTOCOL.sshsig; hardware keys add the fields of
// PROTOCOL.u2f.
const (
	magic         = "SSHSIG"
	formatVersion = 1
	hashAlgorithm = "sha512"

	// MaxSigSize bounds a signature blob in bytes.
	MaxSigSize = 2048

	armorType = "SSH SIGNATURE"
)

// Flags of a hardware key's signature (WebAuthn §6.1).
const (
	flagPresent    = 0x01 // the person touched the key
	flagAttested   = 0x40 // more data follows that PROTOCOL.u2f doesn't carry
	flagExtensions = 0x80 // likewise
)

// blob is an SSHSIG signature taken apart.
type blob struct {
	key       PublicKey
	namespace string
	sig       []byte // 64 bytes
	flags     byte   // of hardware keys
	counter   uint32 // of hardware keys; it proves nothing here, but is signed
}

// toSign returns what the key signs for a message in a namespace.
func toSign(namespace string, message []byte) []byte {
	h := sha512.Sum512(message)
	b := []byte(magic)
	b = appendString(b, []byte(namespace))
	b = appendString(b, nil) // reserved
	b = appendString(b, []byte(hashAlgorithm))
	return appendString(b, h[:])
}

// bytes returns the one encoding of s.
func (s blob) bytes() []byte {
	inner := appendString(nil, []byte(s.key.Type()))
	inner = appendString(inner, s.sig)
	if s.key.Type() == TypeSKEd25519 {
		inner = append(inner, s.flags)
		inner = binary.BigEndian.AppendUint32(inner, s.counter)
	}
	b := binary.BigEndian.AppendUint32([]byte(magic), formatVersion)
	b = appendString(b, s.key)
	b = appendString(b, []byte(s.namespace))
	b = appendString(b, nil)
	b = appendString(b, []byte(hashAlgorithm))
	return appendString(b, inner)
}

// parseBlob takes a signature apart and refuses every encoding but the one that
// bytes gives.
func parseBlob(raw []byte) (blob, error) {
	bad := func(format string, args ...any) (blob, error) {
		return blob{}, problem.New("signature-invalid", "read signature: "+format, args...)
	}
	if len(raw) > MaxSigSize {
		return bad("%d bytes, at most %d are allowed", len(raw), MaxSigSize)
	}
	r := reader{rest: raw}
	if string(r.take(uint64(len(magic)))) != magic {
		return bad("not an SSHSIG signature")
	}
	if v := r.u32(); r.bad || v != formatVersion {
		return bad("SSHSIG version %d is not supported", v)
	}
	wire, namespace, reserved, hash, inner := r.str(), r.str(), r.str(), r.str(), r.str()
	if !r.done() {
		return bad("cut short or with bytes after its end")
	}
	if len(reserved) != 0 {
		return bad("its reserved field is not empty")
	}
	if string(hash) != hashAlgorithm {
		return bad("made with hash %.20q, only %s is accepted", hash, hashAlgorithm)
	}
	k, err := parseKey(wire)
	if err != nil {
		return blob{}, fmt.Errorf("read signature: %w", err)
	}
	s := blob{key: bytes.Clone(wire), namespace: string(namespace)}
	in := reader{rest: inner}
	kind := string(in.str())
	s.sig = bytes.Clone(in.str())
	if k.kind == TypeSKEd25519 {
		s.flags, s.counter = in.u8(), in.u32()
	}
	if !in.done() || kind != k.kind || len(s.sig) != ed25519.SignatureSize {
		return bad("its inner signature is not one of a %s key", k.kind)
	}
	if !bytes.Equal(s.bytes(), raw) {
		return bad("not in its canonical form")
	}
	return s, nil
}

// Verify checks that sig is pub's SSHSIG signature of message in namespace. A
// hardware key must have been touched for it. Errors have the code
// "signature-invalid", or "key-invalid" for an unusable key.
func Verify(pub PublicKey, namespace string, message, sig []byte) error {
	bad := func(why string) error {
		return problem.New("signature-invalid", "check signature by %s in %q: %s", pub.Fingerprint(), namespace, why)
	}
	k, err := parseKey(pub)
	if err != nil {
		return err
	}
	s, err := parseBlob(sig)
	if err != nil {
		return err
	}
	if namespace == "" || s.namespace != namespace {
		return bad(fmt.Sprintf("it was made for %.64q", s.namespace))
	}
	if !s.key.Equal(pub) {
		return bad("it was made by " + s.key.Fingerprint())
	}
	data := toSign(namespace, message)
	if k.kind == TypeSKEd25519 {
		if s.flags&flagPresent == 0 {
			return bad("the hardware key was not touched")
		}
		if s.flags&(flagAttested|flagExtensions) != 0 {
			return bad("the hardware key signed more than the statement")
		}
		data = skData(k.application, s.flags, s.counter, data)
	}
	// crypto/ed25519 takes only the reduced S and compares R's bytes, so the
	// signature can't be altered into another valid one.
	if !ed25519.Verify(k.raw, data, s.sig) {
		return bad("it does not match the bytes")
	}
	return nil
}

// skData is what a FIDO token signs (PROTOCOL.u2f, "SSH U2F Signatures").
func skData(application string, flags byte, counter uint32, data []byte) []byte {
	app, msg := sha256.Sum256([]byte(application)), sha256.Sum256(data)
	b := append(app[:], flags)
	b = binary.BigEndian.AppendUint32(b, counter)
	return append(b, msg[:]...)
}

// Armor returns sig in the text form of ssh-keygen's .sig files.
func Armor(sig []byte) []byte {
	// OpenSSH breaks lines after 70 characters, encoding/pem after 64.
	text := base64.StdEncoding.EncodeToString(sig)
	b := []byte("-----BEGIN " + armorType + "-----\n")
	for len(text) > 0 {
		n := min(70, len(text))
		b = append(append(b, text[:n]...), '\n')
		text = text[n:]
	}
	return append(b, "-----END "+armorType+"-----\n"...)
}

// Dearmor reads what Armor or ssh-keygen wrote: one signature, blank space
// around it allowed, nothing else.
func Dearmor(text []byte) ([]byte, error) {
	text = bytes.TrimSpace(text)
	if len(text) > 2*MaxSigSize || !bytes.HasPrefix(text, []byte("-----BEGIN "+armorType+"-----")) {
		return nil, problem.New("signature-invalid", "read signature: not an armored SSH signature")
	}
	block, rest := pem.Decode(append(text, '\n'))
	if block == nil || block.Type != armorType || len(block.Headers) > 0 || len(rest) > 0 {
		return nil, problem.New("signature-invalid", "read signature: damaged armor")
	}
	if _, err := parseBlob(block.Bytes); err != nil {
		return nil, err
	}
	return block.Bytes, nil
}

// Parse takes apart the signature blob sig and returns the key and namespace
// that it claims; it does not verify it.
func Parse(sig []byte) (PublicKey, string, error) {
	s, err := parseBlob(sig)
	return s.key, s.namespace, err
}
