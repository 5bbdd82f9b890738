package hello

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// recorded returns the first flight of a TLS client.
func recorded(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	return flight(t, func(conn net.Conn) { _ = tls.Client(conn, c).HandshakeContext(t.Context()) })
}

// flight returns the first record and all that follow it until Parse is content.
func flight(t testing.TB, client func(net.Conn)) []byte {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); client(a); a.Close() }()
	defer func() { b.Close(); <-done }()
	var all []byte
	buf := make([]byte, 4096)
	for {
		if _, err := Parse(all); err == nil || !errors.Is(err, ErrShort) {
			return all
		}
		n, err := b.Read(buf)
		if err != nil {
			t.Fatalf("the client ended after %d bytes: %v", len(all), err)
		}
		all = append(all, buf[:n]...)
	}
}

// asServer tells what crypto/tls reads of a hello, and whether it accepts it.
func asServer(b []byte) (Hello, bool) {
	var h Hello
	got := false
	conf := &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
		h, got = Hello{Name: strings.ToLower(i.ServerName), Protocols: i.SupportedProtos}, true
		return nil, io.EOF
	}}
	_ = tls.Server(&replay{r: bytes.NewReader(b)}, conf).HandshakeContext(context.Background())
	return h, got
}

type replay struct{ r *bytes.Reader }

func (c *replay) Read(b []byte) (int, error)     { return c.r.Read(b) }
func (c *replay) Write(b []byte) (int, error)    { return len(b), nil }
func (*replay) Close() error                     { return nil }
func (*replay) LocalAddr() net.Addr              { return nil }
func (*replay) RemoteAddr() net.Addr             { return nil }
func (*replay) SetDeadline(time.Time) error      { return nil }
func (*replay) SetReadDeadline(time.Time) error  { return nil }
func (*replay) SetWriteDeadline(time.Time) error { return nil }

func (h Hello) equal(o Hello) bool { return h.Name == o.Name && slices.Equal(h.Protocols, o.Protocols) }

func hellos(t testing.TB) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for name, c := range map[string]*tls.Config{
		"plain":     {ServerName: "shop.example"},
		"mixed":     {ServerName: "Shop.EXAMPLE"},
		"no name":   {InsecureSkipVerify: true},
		"address":   {ServerName: "192.0.2.1"},
		"alpn":      {ServerName: "a.b", NextProtos: []string{"h2", "http/1.1", "acme-tls/1"}},
		"1.2":       {ServerName: "old.example", MaxVersion: tls.VersionTLS12},
		"1.3":       {ServerName: "new.example", MinVersion: tls.VersionTLS13},
		"long name": {ServerName: strings.Repeat("a.", 120) + "example"},
		"many alpn": {ServerName: "x.y", NextProtos: slices.Repeat([]string{strings.Repeat("p", 255)}, 40)},
		"p256 only": {ServerName: "curve.example", CurvePreferences: []tls.CurveID{tls.CurveP256}},
	} {
		all[name] = recorded(t, c)
	}
	return all
}

func TestHellosSayWhatATLSServerReadsOfThem(t *testing.T) {
	for name, b := range hellos(t) {
		want, ok := asServer(b)
		if !ok {
			t.Fatalf("%s: crypto/tls refuses its own hello", name)
		}
		got, err := Parse(b)
		if err != nil || !got.equal(want) {
			t.Errorf("%s: got %+v, %v; crypto/tls reads %+v", name, got, err, want)
		}
		// What follows is nobody's business.
		if got, err := Parse(append(slices.Clone(b), "\x17\x03\x03junk"...)); err != nil || !got.equal(want) {
			t.Errorf("%s, followed by more: got %+v, %v", name, got, err)
		}
	}
}

func TestHellosOfOpenSSLAreRead(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("openssl is needed: ", err)
	}
	for _, args := range [][]string{
		{"-servername", "shop.example", "-alpn", "h2,http/1.1"},
		{"-servername", "shop.example", "-tls1_2"},
		{"-servername", "shop.example", "-max_send_frag", "512", "-alpn", strings.Repeat("long-protocol-name,", 60) + "h2"},
		{"-noservername"},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		cmd := exec.CommandContext(t.Context(), openssl, append([]string{"s_client", "-connect", l.Addr().String()}, args...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		var all []byte
		var h Hello
		for {
			if h, err = Parse(all); !errors.Is(err, ErrShort) {
				break
			}
			buf := make([]byte, 1000)
			n, rerr := c.Read(buf)
			if rerr != nil {
				t.Fatal(rerr)
			}
			all = append(all, buf[:n]...)
		}
		c.Close()
		_ = cmd.Wait()
		want, ok := asServer(all)
		if err != nil || !ok || !h.equal(want) {
			t.Errorf("%q: got %+v, %v; crypto/tls %v %+v", args, h, err, ok, want)
		}
	}
}

// split distributes a hello over records with payloads of size bytes.
func split(b []byte, size int) []byte {
	message := join(b, int(b[6])<<16|int(b[7])<<8|int(b[8]))
	message = append(slices.Clone(b[recordHeader:recordHeader+messageHeader]), message...)
	var out []byte
	for part := range slices.Chunk(message, size) {
		out = append(out, recordHandshake, 3, 1, byte(len(part)>>8), byte(len(part)))
		out = append(out, part...)
	}
	return out
}

func TestAHelloIsTheSameHoweverItIsSplitOverRecords(t *testing.T) {
	for name, b := range hellos(t) {
		want, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, 2, 3, 4, 5, 7, 100, 511, 16384} {
			cut := split(b, size)
			got, err := Parse(cut)
			if len(cut) > MaxSize {
				if !errors.Is(err, ErrJunk) {
					t.Errorf("%s in records of %d, %d bytes: %v", name, size, len(cut), err)
				}
				continue
			}
			if err != nil || !got.equal(want) {
				t.Errorf("%s in records of %d: got %+v, %v", name, size, got, err)
			}
		}
	}
}

func TestEveryBeginningOfAHelloIsShortAndNotJunk(t *testing.T) {
	for name, b := range hellos(t) {
		for _, all := range [][]byte{b, split(b, 3)} {
			if len(all) > MaxSize {
				continue
			}
			for n := range all {
				if _, err := Parse(all[:n]); !errors.Is(err, ErrShort) {
					t.Fatalf("%s, %d of %d bytes: %v", name, n, len(all), err)
				}
			}
		}
	}
}

func TestJunkIsRecognisedAtItsFirstByte(t *testing.T) {
	for name, b := range map[string]string{
		"http":               "G",
		"sslv2":              "\x80\x2e\x01\x00\x02",
		"ssh":                "S",
		"alert":              "\x15",
		"major version":      "\x16\x02",
		"empty record":       "\x16\x03\x01\x00\x00",
		"too long a record":  "\x16\x03\x01\x40\x01",
		"server hello":       "\x16\x03\x01\x01\x00\x02",
		"too long a message": "\x16\x03\x01\x01\x00\x01\x01\x00\x00",
		"second not a hello": "\x16\x03\x01\x00\x01\x01\x17",
	} {
		if _, err := Parse([]byte(b)); !errors.Is(err, ErrJunk) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Parse([]byte(b[:len(b)-1])); !errors.Is(err, ErrShort) {
			if name != "sslv2" {
				t.Errorf("%s, a byte less: %v", name, err)
			}
		}
	}
	endless := append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0x40, 0}, make([]byte, MaxSize)...)
	if _, err := Parse(endless); !errors.Is(err, ErrJunk) {
		t.Errorf("a hello beyond the limit: %v", err)
	}
	var never []byte
	for len(never) < MaxSize {
		never = append(never, 22, 3, 1, 0, 1, 1)
	}
	if _, err := Parse(never[:MaxSize]); errors.Is(err, ErrShort) {
		t.Error("a hello that never ends is waited for")
	}
}

// build makes a hello with the given extensions.
func build(extensions string) []byte {
	body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + "\x00\x02\x13\x01" + "\x01\x00" + string(u16(len(extensions))) + extensions
	message := "\x01\x00" + string(u16(len(body))) + body
	return []byte("\x16\x03\x01" + string(u16(len(message))) + message)
}

func u16(n int) []byte { return []byte{byte(n >> 8), byte(n)} }

func extension(kind int, body string) string {
	return string(u16(kind)) + string(u16(len(body))) + body
}

func list(body string) string { return string(u16(len(body))) + body }

func host(name string) string { return "\x00" + list(name) }

func TestOddHellosAreJudgedAsATLSServerDoes(t *testing.T) {
	name := extension(0, list(host("a.example")))
	for what, c := range map[string]struct {
		extensions string
		ok         bool
		name       string
	}{
		"one name":             {name, true, "a.example"},
		"grease":               {extension(0x0a0a, "") + name + extension(0xfafa, "x"), true, "a.example"},
		"outer name of ech":    {extension(0, list(host("outer.example"))) + extension(0xfe0d, "\x00rest"), true, "outer.example"},
		"twice":                {name + name, false, ""},
		"grease twice":         {extension(0x0a0a, "") + extension(0x0a0a, ""), false, ""},
		"two names":            {extension(0, list(host("a.b")+host("c.d"))), false, ""},
		"another kind of name": {extension(0, list("\x01"+list("x")+host("c.d"))), true, "c.d"},
		"empty name":           {extension(0, list(host(""))), false, ""},
		"empty list":           {extension(0, list("")), false, ""},
		"no list":              {extension(0, ""), false, ""},
		"trailing dot":         {extension(0, list(host("a.example."))), false, ""},
		"rest after list":      {extension(0, list(host("a.b"))+"x"), false, ""},
		"list too long":        {extension(0, "\x00\xff"+host("a.b")), false, ""},
		"name too long":        {extension(0, list("\x00\x00\xffa.b")), false, ""},
		"nul in name":          {extension(0, list(host("a\x00b"))), true, "a\x00b"},
		"empty protocol":       {extension(16, list("\x00")), false, ""},
		"no protocols":         {extension(16, list("")), false, ""},
		"extension cut off":    {"\x00\x00\x00\xff", false, ""},
		"half an extension":    {"\x00", false, ""},
	} {
		got, err := Parse(build(c.extensions))
		if (err == nil) != c.ok || got.Name != c.name {
			t.Errorf("%s: got %+v, %v", what, got, err)
		}
		if !c.ok && !errors.Is(err, ErrJunk) {
			t.Errorf("%s: %v is not junk", what, err)
		}
	}
}

// A server that reads more into a hello than this package would be given what
// another name's owner should get: whatever both accept, they read the same.
func TestAlteredHellosAreReadAsATLSServerReadsThem(t *testing.T) {
	rnd := mathrand.New(mathrand.NewPCG(1, 2))
	compared := 0
	for _, b := range hellos(t) {
		for range 3000 {
			altered := slices.Clone(b)
			for range 1 + rnd.IntN(3) {
				altered[5+rnd.IntN(len(altered)-5)] = byte(rnd.Uint32())
			}
			compared += compare(t, altered)
		}
	}
	if compared < 1000 {
		t.Errorf("only %d altered hellos were accepted by both", compared)
	}
}

func compare(t testing.TB, b []byte) int {
	t.Helper()
	want, ok := asServer(b)
	got, err := Parse(b)
	if !ok || err != nil {
		return 0
	}
	if !strings.EqualFold(got.Name, want.Name) || !slices.Equal(got.Protocols, want.Protocols) {
		t.Errorf("%x: got %+v, crypto/tls reads %+v", b, got, want)
	}
	return 1
}

func FuzzParse(f *testing.F) {
	for _, b := range hellos(f) {
		f.Add(b)
		f.Add(split(b, 9))
	}
	f.Add(build(extension(0, list(host("a.b")))))
	f.Add([]byte("\x80\x2e\x01\x00\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Parse(b)
		switch {
		case err == nil:
			compare(t, b)
			if len(b) > 0 && len(h.Name) > len(b) {
				t.Error("a name longer than the hello")
			}
		case errors.Is(err, ErrJunk):
			if _, err := Parse(append(slices.Clone(b), 0)); !errors.Is(err, ErrJunk) {
				t.Errorf("junk becomes %v by one more byte", err)
			}
		case !errors.Is(err, ErrShort):
			t.Error(err)
		}
	})
}

// A hello whose real name is encrypted shows an outer one, by which it is
// routed.
func TestTheOuterNameOfAnEncryptedHelloIsRead(t *testing.T) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// ECHConfig (RFC 9849 §4): one key, one suite (HKDF-SHA256, AES-128-GCM).
	contents := "\x07" + "\x00\x20" + list(string(key.PublicKey().Bytes())) + list("\x00\x01\x00\x01") + "\x20" + string(byte(len("outer.example"))) + "outer.example" + list("")
	config := list(string(u16(0xfe0d)) + list(contents))
	b := recorded(t, &tls.Config{ServerName: "inner.example", MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: []byte(config)})
	h, err := Parse(b)
	if err != nil || h.Name != "outer.example" || bytes.Contains(b, []byte("inner")) {
		t.Errorf("got %+v, %v", h, err)
	}
}

func BenchmarkParse(b *testing.B) {
	hello := recorded(b, &tls.Config{ServerName: "shop.example", NextProtos: []string{"h2", "http/1.1"}})
	b.SetBytes(int64(len(hello)))
	for b.Loop() {
		if _, err := Parse(hello); err != nil {
			b.Fatal(err)
		}
	}
}
