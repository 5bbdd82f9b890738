package sign

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zero-os/zos/problem"
)

const space = "zos-approval-v1"

func seed(n byte) (s [32]byte) { s[0] = n; return s }

func signed(t testing.TB, s Signer, namespace, message string) []byte {
	t.Helper()
	b, err := s.Sign(context.Background(), namespace, []byte(message))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// token plays a FIDO token: an ed25519 key that signs what PROTOCOL.u2f says.
type token struct {
	key         ed25519.PrivateKey
	application string
	flags       byte
	counter     uint32
}

func newToken(n byte) *token {
	s := seed(n)
	return &token{key: ed25519.NewKeyFromSeed(s[:]), application: "ssh:", flags: flagPresent, counter: 7}
}

func (k *token) Public() PublicKey {
	b := appendString(nil, []byte(TypeSKEd25519))
	b = appendString(b, k.key.Public().(ed25519.PublicKey))
	return appendString(b, []byte(k.application))
}

// assert returns the token's 64-byte signature of data.
func (k *token) assert(data []byte) []byte {
	app, msg := sha256.Sum256([]byte(k.application)), sha256.Sum256(data)
	b := append(app[:], k.flags)
	b = binary.BigEndian.AppendUint32(b, k.counter)
	return ed25519.Sign(k.key, append(b, msg[:]...))
}

func (k *token) Sign(_ context.Context, namespace string, message []byte) ([]byte, error) {
	return blob{key: k.Public(), namespace: namespace, sig: k.assert(toSign(namespace, message)), flags: k.flags, counter: k.counter}.bytes(), nil
}

func TestSignatureHoldsForItsKeyNamespaceAndMessageOnly(t *testing.T) {
	for name, s := range map[string]Signer{"ed25519": FromSeed(seed(1)), "sk-ed25519": newToken(1)} {
		t.Run(name, func(t *testing.T) {
			sig := signed(t, s, space, "message")
			if err := Verify(s.Public(), space, []byte("message"), sig); err != nil {
				t.Fatal(err)
			}
			for what, err := range map[string]error{
				"other message":   Verify(s.Public(), space, []byte("massage"), sig),
				"other namespace": Verify(s.Public(), "zos-node-v1", []byte("message"), sig),
				"no namespace":    Verify(s.Public(), "", []byte("message"), sig),
				"other key":       Verify(FromSeed(seed(2)).Public(), space, []byte("message"), sig),
				"other type":      Verify(newToken(2).Public(), space, []byte("message"), sig),
			} {
				if problem.Code(err) != "signature-invalid" {
					t.Errorf("%s: %v, want code signature-invalid", what, err)
				}
			}
		})
	}
}

func TestEmptyNamespaceNeitherSignsNorVerifies(t *testing.T) {
	s := FromSeed(seed(1))
	if _, err := s.Sign(t.Context(), "", []byte("m")); err == nil {
		t.Error("signed in no namespace")
	}
	raw := blob{key: s.Public(), sig: ed25519.Sign(ed25519.NewKeyFromSeed(ptr(seed(1))[:]), toSign("", []byte("m")))}.bytes()
	if err := Verify(s.Public(), "", []byte("m"), raw); err == nil {
		t.Error("verified in no namespace")
	}
}

func ptr[T any](v T) *T { return &v }

func TestTokenMustHaveBeenTouched(t *testing.T) {
	for flags, ok := range map[byte]bool{
		0: false, 0x04: false, flagPresent: true, flagPresent | 0x04: true,
		flagPresent | flagAttested: false, flagPresent | flagExtensions: false, 0xfe: false,
	} {
		k := newToken(1)
		k.flags = flags
		err := Verify(k.Public(), space, []byte("m"), signed(t, k, space, "m"))
		if (err == nil) != ok {
			t.Errorf("flags %#02x: %v, want accepted %v", flags, err, ok)
		}
	}
}

func TestTokenFlagsAndCounterAreSigned(t *testing.T) {
	k := newToken(1)
	untouched := *k
	untouched.flags = 0
	s, err := parseBlob(signed(t, &untouched, space, "m"))
	if err != nil {
		t.Fatal(err)
	}
	s.flags = flagPresent
	if Verify(k.Public(), space, []byte("m"), s.bytes()) == nil {
		t.Error("presence could be added afterwards")
	}
	if s, err = parseBlob(signed(t, k, space, "m")); err != nil {
		t.Fatal(err)
	}
	s.counter++
	if Verify(k.Public(), space, []byte("m"), s.bytes()) == nil {
		t.Error("the counter could be altered")
	}
	if s, err = parseBlob(signed(t, k, space, "m")); err != nil {
		t.Fatal(err)
	}
	other := *k
	other.application = "ssh:other"
	s.key = other.Public()
	if Verify(other.Public(), space, []byte("m"), s.bytes()) == nil {
		t.Error("the application is not bound")
	}
}

func TestOnlyOneEncodingOfASignature(t *testing.T) {
	for name, s := range map[string]Signer{"ed25519": FromSeed(seed(1)), "sk-ed25519": newToken(1)} {
		t.Run(name, func(t *testing.T) {
			good := signed(t, s, space, "m")
			// Every byte matters: none can be changed, none added, none left out.
			for i := range good {
				b := bytes.Clone(good)
				b[i] ^= 0x01
				if Verify(s.Public(), space, []byte("m"), b) == nil {
					t.Errorf("accepted with byte %d altered", i)
				}
				if Verify(s.Public(), space, []byte("m"), good[:i]) == nil {
					t.Errorf("accepted cut after %d bytes", i)
				}
			}
			if Verify(s.Public(), space, []byte("m"), append(bytes.Clone(good), 0)) == nil {
				t.Error("accepted with a byte after its end")
			}
		})
	}
	// S + L is the same scalar: classic malleability of ed25519.
	s := FromSeed(seed(1))
	b, err := parseBlob(signed(t, s, space, "m"))
	if err != nil {
		t.Fatal(err)
	}
	order := []byte{0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 31: 0x10}
	carry := 0
	for i := range order {
		sum := int(b.sig[32+i]) + int(order[i]) + carry
		b.sig[32+i], carry = byte(sum), sum>>8
	}
	if Verify(s.Public(), space, []byte("m"), b.bytes()) == nil {
		t.Error("accepted a signature whose S is not reduced")
	}
}

// build returns an SSHSIG blob with chosen parts.
func build(version uint32, key, namespace, reserved, hash, inner []byte, tail ...byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte(magic), version)
	for _, f := range [][]byte{key, namespace, reserved, hash, inner} {
		b = appendString(b, f)
	}
	return append(b, tail...)
}

func TestOtherFormsOfSSHSIGAreRefused(t *testing.T) {
	s := FromSeed(seed(1))
	pub, ns, h := []byte(s.Public()), []byte(space), []byte("sha512")
	good, err := parseBlob(signed(t, s, space, "m"))
	if err != nil {
		t.Fatal(err)
	}
	inner := appendString(appendString(nil, []byte(TypeEd25519)), good.sig)
	if err := Verify(s.Public(), space, []byte("m"), build(1, pub, ns, nil, h, inner)); err != nil {
		t.Fatalf("the test's own builder is wrong: %v", err)
	}
	// A true sha256 signature, to see that the hash itself is refused.
	digest := sha256.Sum256([]byte("m"))
	data := []byte(magic)
	for _, f := range [][]byte{ns, nil, []byte("sha256"), digest[:]} {
		data = appendString(data, f)
	}
	key1 := seed(1)
	inner256 := appendString(appendString(nil, []byte(TypeEd25519)), ed25519.Sign(ed25519.NewKeyFromSeed(key1[:]), data))
	for name, b := range map[string][]byte{
		"sha256":                build(1, pub, ns, nil, []byte("sha256"), inner256),
		"version 2":             build(2, pub, ns, nil, h, inner),
		"reserved in use":       build(1, pub, ns, []byte("x"), h, inner),
		"tail":                  build(1, pub, ns, nil, h, inner, 0),
		"key with tail":         build(1, append(bytes.Clone(pub), 0), ns, nil, h, inner),
		"inner with tail":       build(1, pub, ns, nil, h, append(bytes.Clone(inner), 0)),
		"inner of another type": build(1, pub, ns, nil, h, appendString(appendString(nil, []byte("ssh-rsa")), good.sig)),
		"inner of a token":      build(1, pub, ns, nil, h, append(appendString(appendString(nil, []byte(TypeSKEd25519)), good.sig), 1, 0, 0, 0, 0)),
		"short signature":       build(1, pub, ns, nil, h, appendString(appendString(nil, []byte(TypeEd25519)), good.sig[:63])),
		"no magic":              build(1, pub, ns, nil, h, inner)[6:],
		"huge":                  build(1, pub, make([]byte, MaxSigSize), nil, h, inner),
		"nothing":               nil,
	} {
		if err := Verify(s.Public(), space, []byte("m"), b); problem.Code(err) != "signature-invalid" && problem.Code(err) != "key-invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlyOneEncodingOfAKey(t *testing.T) {
	raw := FromSeed(seed(1)).Public()
	if _, err := ParsePublicKey(raw); err != nil {
		t.Fatal(err)
	}
	point := raw[len(raw)-32:]
	ed := func(p []byte, tail ...byte) []byte {
		return append(appendString(appendString(nil, []byte(TypeEd25519)), p), tail...)
	}
	sk := func(p []byte, app string, tail ...byte) []byte {
		return append(appendString(appendString(appendString(nil, []byte(TypeSKEd25519)), p), []byte(app)), tail...)
	}
	if _, err := ParsePublicKey(sk(point, "ssh:work")); err != nil {
		t.Fatal(err)
	}
	le := func(b byte, rest byte, top byte) []byte {
		p := bytes.Repeat([]byte{rest}, 32)
		p[0], p[31] = b, top
		return p
	}
	for name, wire := range map[string][]byte{
		"nothing":            nil,
		"trailing byte":      ed(point, 0),
		"long point":         ed(append(bytes.Clone(point), 0)),
		"short point":        ed(point[1:]),
		"rsa":                appendString(appendString(nil, []byte("ssh-rsa")), point),
		"certificate":        appendString(appendString(nil, []byte("ssh-ed25519-cert-v01@openssh.com")), point),
		"token, no app":      appendString(appendString(nil, []byte(TypeSKEd25519)), point),
		"token, web app":     sk(point, "https://example.org"),
		"token, tail":        sk(point, "ssh:", 0),
		"too large":          sk(point, "ssh:"+strings.Repeat("x", MaxKeySize)),
		"identity":           ed(le(1, 0, 0)),
		"identity, negative": ed(le(1, 0, 0x80)),
		"zero":               ed(le(0, 0, 0)),
		"minus one":          ed(le(0xec, 0xff, 0x7f)),
		"p":                  ed(le(0xed, 0xff, 0x7f)),
		"p+1":                ed(le(0xee, 0xff, 0x7f)),
		"2^255-1":            ed(le(0xff, 0xff, 0x7f)),
		"2^255-1, negative":  ed(le(0xff, 0xff, 0xff)),
	} {
		if _, err := ParsePublicKey(wire); problem.Code(err) != "key-invalid" {
			t.Errorf("%s: %v, want code key-invalid", name, err)
		}
	}
}

// The points that soundPoint names are weak indeed: one signature holds for
// about every eighth message, made without any key.
func TestWeakPointsAreRefused(t *testing.T) {
	weak := [][]byte{
		bytes.Repeat([]byte{0}, 32),
		append([]byte{1}, make([]byte, 31)...),
		append(append([]byte{0xec}, bytes.Repeat([]byte{0xff}, 30)...), 0x7f),
		[]byte("\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05"),
		[]byte("\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a"),
	}
	identity := append([]byte{1}, make([]byte, 31)...)
	for _, p := range weak {
		for _, sign := range []byte{0, 0x80} {
			q := bytes.Clone(p)
			q[31] |= sign
			if soundPoint(q) {
				t.Errorf("%x is taken for sound", q)
			}
			forged := false
			sig := append(bytes.Clone(identity), make([]byte, 32)...) // R = 0, S = 0
			for i := range 256 {
				forged = forged || ed25519.Verify(q, []byte{byte(i)}, sig)
			}
			// With the sign bit set, x = 0 has no such encoding in some decoders.
			if !forged && sign == 0 {
				t.Errorf("%x is listed but not weak", q)
			}
		}
	}
}

func TestAuthorizedKeysForm(t *testing.T) {
	for _, p := range []PublicKey{FromSeed(seed(1)).Public(), newToken(1).Public()} {
		got, err := ParseAuthorizedKey(p.String() + " red@example\n")
		if err != nil || !got.Equal(p) {
			t.Errorf("%s: %v, %v", p, got, err)
		}
	}
	good := FromSeed(seed(1)).Public().String()
	for _, bad := range []string{"", "ssh-ed25519", "ssh-rsa " + strings.Fields(good)[1], good + "AA", "ssh-ed25519 !!!"} {
		if _, err := ParseAuthorizedKey(bad); problem.Code(err) != "key-invalid" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestKeyFileComesBack(t *testing.T) {
	b, err := MarshalPrivate(seed(5), "red")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := FromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Public().Equal(FromSeed(seed(5)).Public()) {
		t.Error("another key came back")
	}
	if _, err := FromFile(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(underlying(err)) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, append(b, make([]byte, maxKeyFile)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FromFile(path); problem.Code(err) != "key-invalid" {
		t.Errorf("a huge file: %v", err)
	}
	if err := os.WriteFile(path, []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FromFile(path); problem.Code(err) != "key-invalid" {
		t.Errorf("no key file: %v", err)
	}
}

func underlying(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil {
			return err
		}
		if os.IsNotExist(err) {
			return err
		}
		err = u.Unwrap()
	}
}

func TestGeneratedKeysDiffer(t *testing.T) {
	s1, a, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	s2, b, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	if s1 == s2 || a.Public().Equal(b.Public()) {
		t.Error("two generated keys are equal")
	}
	if !FromSeed(s1).Public().Equal(a.Public()) {
		t.Error("the seed is not the key's")
	}
}

func TestArmorComesBack(t *testing.T) {
	sig := signed(t, FromSeed(seed(1)), space, "m")
	got, err := Dearmor(Armor(sig))
	if err != nil || !bytes.Equal(got, sig) {
		t.Errorf("got %x, %v", got, err)
	}
	text := string(Armor(sig))
	for name, bad := range map[string]string{
		"nothing":     "",
		"cut":         text[:len(text)/2],
		"other type":  strings.ReplaceAll(text, "SSH SIGNATURE", "PRIVATE KEY"),
		"two":         text + text,
		"junk before": "junk\n" + text,
		"junk after":  text + "junk\n",
		"header":      strings.Replace(text, "\n", "\nA: b\n\n", 1),
		"not SSHSIG":  "-----BEGIN SSH SIGNATURE-----\n" + base64.StdEncoding.EncodeToString([]byte("hello")) + "\n-----END SSH SIGNATURE-----\n",
	} {
		if _, err := Dearmor([]byte(bad)); problem.Code(err) != "signature-invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzSignature(f *testing.F) {
	s, k := FromSeed(seed(1)), newToken(1)
	for _, sig := range [][]byte{signed(f, s, space, "m"), signed(f, k, space, "m")} {
		f.Add(sig)
		f.Add(Armor(sig))
		f.Add(sig[:len(sig)/2])
	}
	f.Add([]byte(s.Public()))
	f.Add([]byte(k.Public()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if key, ns, err := Parse(b); err == nil {
			p, err := parseBlob(b)
			if err != nil || !bytes.Equal(p.bytes(), b) || p.namespace != ns || !p.key.Equal(key) {
				t.Errorf("accepted %x, which is not how it would be written", b)
			}
		}
		if p, err := ParsePublicKey(b); err == nil {
			if q, err := ParseAuthorizedKey(p.String()); err != nil || !q.Equal(p) {
				t.Errorf("key %x does not come back: %v", b, err)
			}
		}
		if sig, err := Dearmor(b); err == nil {
			if again, err := Dearmor(Armor(sig)); err != nil || !bytes.Equal(again, sig) {
				t.Errorf("armor of %x does not come back: %v", sig, err)
			}
		}
		_ = Verify(s.Public(), space, []byte("m"), b)
	})
}
