package sign

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/zero-os/zos/problem"
)

// The two types of key.
const (
	TypeEd25519   = "ssh-ed25519"
	TypeSKEd25519 = "sk-ssh-ed25519@openssh.com" // on a FIDO token
)

// MaxKeySize bounds a public key in SSH wire format, in bytes.
const MaxKeySize = 512

// PublicKey is a public key in SSH wire format (RFC 4253 §6.6). Each key has
// exactly one accepted encoding, so equal keys are equal bytes; one that came
// from elsewhere should go through ParsePublicKey.
type PublicKey []byte

// ParsePublicKey checks that wire is exactly one public key of a known type and
// returns a copy. Errors have the code "key-invalid".
func ParsePublicKey(wire []byte) (PublicKey, error) {
	if _, err := parseKey(wire); err != nil {
		return nil, err
	}
	return bytes.Clone(wire), nil
}

// ParseAuthorizedKey reads a line in the form of authorized_keys and of *.pub
// files, "type base64 [comment]", without options.
func ParseAuthorizedKey(line string) (PublicKey, error) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return nil, problem.New("key-invalid", "read public key: want \"type base64 [comment]\"")
	}
	wire, err := base64.StdEncoding.Strict().DecodeString(fields[1])
	if err != nil {
		return nil, problem.New("key-invalid", "read public key: %w", err)
	}
	key, err := ParsePublicKey(wire)
	if err != nil {
		return nil, err
	}
	if key.Type() != fields[0] {
		return nil, problem.New("key-invalid", "read public key: the line says %.40q, the key says %q", fields[0], key.Type())
	}
	return key, nil
}

// FromEd25519 returns the SSH form of a raw ed25519 public key of 32 bytes.
func FromEd25519(raw ed25519.PublicKey) PublicKey {
	return appendString(appendString(nil, []byte(TypeEd25519)), raw)
}

// Type returns TypeEd25519 or TypeSKEd25519, "" for an invalid key.
func (p PublicKey) Type() string {
	k, err := parseKey(p)
	if err != nil {
		return ""
	}
	return k.kind
}

// String returns the key as in authorized_keys, without a comment.
func (p PublicKey) String() string {
	return p.Type() + " " + base64.StdEncoding.EncodeToString(p)
}

// Fingerprint returns OpenSSH's "SHA256:…" form.
func (p PublicKey) Fingerprint() string {
	h := sha256.Sum256(p)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(h[:])
}

// Equal tells whether p and q are the same key.
func (p PublicKey) Equal(q PublicKey) bool { return bytes.Equal(p, q) }

// AllowedSigner returns a line of ssh-keygen's allowed_signers file, newline
// included: who (without blanks or commas) may sign with key in the namespaces;
// no namespaces means any.
func AllowedSigner(who string, key PublicKey, namespaces ...string) string {
	options := ""
	if len(namespaces) > 0 {
		options = fmt.Sprintf("namespaces=%q ", strings.Join(namespaces, ","))
	}
	return who + " " + options + key.String() + "\n"
}

// key is a parsed PublicKey.
type key struct {
	kind        string
	raw         ed25519.PublicKey
	application string // of hardware keys: "ssh:" or "ssh:…"
}

func parseKey(wire []byte) (key, error) {
	bad := func(format string, args ...any) (key, error) {
		return key{}, problem.New("key-invalid", "read public key: "+format, args...).
			WithFix("use a key of type ed25519 or ed25519-sk (ssh-keygen -t ed25519)")
	}
	if len(wire) > MaxKeySize {
		return bad("%d bytes, at most %d are allowed", len(wire), MaxKeySize)
	}
	r := reader{rest: wire}
	k := key{kind: string(r.str())}
	if r.bad {
		return bad("not in SSH wire format")
	}
	if k.kind != TypeEd25519 && k.kind != TypeSKEd25519 {
		return bad("type %.40q is not supported", k.kind)
	}
	k.raw = r.str()
	if k.kind == TypeSKEd25519 {
		k.application = string(r.str())
	}
	if !r.done() || len(k.raw) != ed25519.PublicKeySize {
		return bad("%s key of a wrong length", k.kind)
	}
	if k.kind == TypeSKEd25519 && !strings.HasPrefix(k.application, "ssh:") {
		return bad("a hardware key's application begins with \"ssh:\"")
	}
	if !soundPoint(k.raw) {
		return bad("the point is weak or has a second encoding")
	}
	return k, nil
}

// soundPoint refuses encodings that crypto/ed25519 would accept although they
// are no one's key: y ≥ p, which is a second spelling of another point, and the
// points of small order, under which signatures hold for any message. The list
// is that of the curve's eight-torsion points (by y, the sign bit ignored).
func soundPoint(raw []byte) bool {
	y := [32]byte(raw)
	y[31] &= 0x7f
	// p = 2^255 - 19: little-endian ed ff … ff 7f.
	high := y[31] == 0x7f
	for _, b := range y[1:31] {
		high = high && b == 0xff
	}
	if high && y[0] >= 0xec { // p-1 has order 2; p and above are not reduced
		return false
	}
	for _, weak := range [...]string{
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
		"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
	} {
		if string(y[:]) == weak {
			return false
		}
	}
	return true
}

// sshKey is p as x/crypto/ssh knows it, for talking to an agent.
func (p PublicKey) sshKey() (ssh.PublicKey, error) {
	if _, err := parseKey(p); err != nil {
		return nil, err
	}
	return ssh.ParsePublicKey(p)
}

// appendString appends b in SSH wire format: its length in 4 bytes, then b.
func appendString(to, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(to, uint32(len(b))), b...)
}

// reader takes apart SSH wire format. After any failure bad is set and what it
// returns is empty.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u32() uint32 {
	b := r.take(4)
	if r.bad {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (r *reader) u8() byte {
	b := r.take(1)
	if r.bad {
		return 0
	}
	return b[0]
}

func (r *reader) str() []byte { return r.take(uint64(r.u32())) }

// done tells whether everything was read, and nothing wrongly.
func (r *reader) done() bool { return !r.bad && len(r.rest) == 0 }
