package gateway

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/zero-os/zos/spec/plan"
)

func TestANameIsCarriedToItsBackendUntouched(t *testing.T) {
	w := start(t)
	w.apply(w.byHost("one.example", w.shop("this is one")), w.byHost("two.example", w.shop("this is two")))
	for host, want := range map[string]string{"one.example": "this is one", "two.example": "this is two", "ONE.Example": "this is one"} {
		c, got, err := w.get(host)
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v", host, got, err)
			continue
		}
		if p := c.ConnectionState().NegotiatedProtocol; p != "h2" {
			t.Errorf("%s: protocol %q", host, p)
		}
		if _, err := io.WriteString(c, "echo\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := readLine(c); err != nil || line != "echo" {
			t.Errorf("%s: %q, %v", host, line, err)
		}
		c.Close()
	}
	for _, r := range w.records(3) {
		if r.Outcome != OutcomeOK && r.Outcome != OutcomeReset || r.In < 500 || r.Out < 500 || r.Backend != "web1" || !r.Client.IsValid() || r.Workload != "www" {
			t.Errorf("record %+v", r)
		}
	}
	st := w.Status()
	if st.Routes[0].Total != 2 || st.Routes[0].Conns != 0 || st.Routes[0].In == 0 || st.Routes[0].Problem != "" {
		t.Errorf("status %+v", st.Routes[0])
	}
}

func TestAnUnknownNameGetsAnAlertThatSaysSo(t *testing.T) {
	w := start(t)
	closed := w.byHost("closed.example", w.shop("secret"))
	closed.Problem = "the name is not its group's any more"
	w.apply(w.byHost("one.example", w.shop("one")), closed)
	for _, host := range []string{"other.example", "closed.example", ""} {
		_, _, err := w.get(host)
		if !contains(err, "unrecognized name") {
			t.Errorf("%q: %v", host, err)
		}
	}
	if st := w.Status(); st.Unknown != 3 || st.Routes[1].Problem != closed.Problem || st.Routes[1].Total != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestBytesArriveAsTheyWereSentInBothDirectionsWithHalfCloses(t *testing.T) {
	w := start(t)
	// The backend reads all, and answers with the digest after the client's end only.
	digest := w.backend(func(c net.Conn) {
		h := sha256.New()
		if _, err := io.Copy(h, c); err == nil {
			_, _ = c.Write(h.Sum(nil))
		}
	})
	// The other way round: the client says nothing and ends; the backend sends.
	const size = 20 << 20
	data := make([]byte, size)
	mathrand.NewChaCha8([32]byte{7}).Read(data)
	source := w.backend(func(c net.Conn) {
		_, _ = io.Copy(io.Discard, c)
		for b := data; len(b) > 0; {
			n := min(len(b), 1+mathrand.IntN(100_000))
			if _, err := c.Write(b[:n]); err != nil {
				return
			}
			b = b[n:]
		}
	})
	w.apply(w.byPort(plan.ModeTCP, 5001, digest), w.byPort(plan.ModeTCP, 5002, source))
	c := w.dial(5001)
	for b := data; len(b) > 0; {
		n := min(len(b), 1+mathrand.IntN(100_000))
		if _, err := c.Write(b[:n]); err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	_ = c.CloseWrite()
	got, err := io.ReadAll(c)
	if want := sha256.Sum256(data); err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("got %x, %v; want %x", got, err, want)
	}
	c = w.dial(5002)
	_ = c.CloseWrite()
	got, err = io.ReadAll(c)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, size)
	}
	for _, r := range w.records(2) {
		if r.Outcome != OutcomeOK || r.In+r.Out != size && r.In+r.Out != size+32 {
			t.Errorf("record %+v", r)
		}
	}
}

func TestASplitHelloIsRead(t *testing.T) {
	w := start(t)
	got := make(chan []byte, 1)
	w.apply(w.byHost("one.example", w.backend(func(c net.Conn) {
		b, _ := io.ReadAll(c)
		got <- b
	})))
	hello := helloBytes(t, "one.example")
	c := w.dial(443)
	for i := range hello {
		if _, err := c.Write(hello[i : i+1]); err != nil {
			t.Fatalf("at byte %d of %d: %v", i, len(hello), err)
		}
	}
	_ = c.CloseWrite()
	if b := <-got; !bytes.Equal(b, hello) {
		t.Errorf("%d bytes arrived of %d, or others", len(b), len(hello))
	}
}

func TestJunkReachesNobody(t *testing.T) {
	w := start(t, func(o *Options) { o.HelloTimeout = 300 * time.Millisecond })
	reached := make(chan struct{}, 100)
	w.apply(w.byHost("one.example", w.backend(func(net.Conn) { reached <- struct{}{} })))
	endless := append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0}, make([]byte, 30_000)...)
	for what, b := range map[string][]byte{
		"http": []byte("GET / HTTP/1.1\r\nHost: one.example\r\n\r\n"), "ssh": []byte("SSH-2.0-x\r\n"), "sslv2": {0x80, 0x2e, 1, 0, 2},
		"nothing": nil, "endless": endless, "half": helloBytes(t, "one.example")[:200],
	} {
		c := w.dial(443)
		_, _ = c.Write(b)
		if n, err := c.Read(make([]byte, 10)); n != 0 || err == nil || errors.Is(err, errTimeout(err)) {
			t.Errorf("%s: got %d bytes, %v", what, n, err)
		}
	}
	w.until("all are counted", func() bool { return w.Status().Junk == 6 })
	if len(reached) != 0 {
		t.Error("junk reached a backend")
	}
}

func errTimeout(err error) error {
	var e net.Error
	if errors.As(err, &e) && e.Timeout() {
		return err
	}
	return errors.New("no timeout")
}

func TestABackendsResetIsTheClientsReset(t *testing.T) {
	w := start(t)
	w.apply(w.byPort(plan.ModeTCP, 5001, w.backend(func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		_ = c.(*net.TCPConn).SetLinger(0)
	})))
	c := w.dial(5001)
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadAll(c); !contains(err, "reset") {
		t.Errorf("got %v", err)
	}
	if r := w.records(1)[0]; r.Outcome != OutcomeReset {
		t.Errorf("record %+v", r)
	}
}

func TestWhenNoBackendAnswersTheClientIsTold(t *testing.T) {
	w := start(t)
	nobody := netip.AddrPortFrom(loopback(), 1)
	w.apply(w.byHost("one.example", nobody), w.byPort(plan.ModeTCP, 5001, nobody))
	if _, _, err := w.get("one.example"); !contains(err, "internal error") {
		t.Errorf("by name: %v", err)
	}
	if c, err := w.dialFrom(clientAddr(1), 5001); err == nil { // it may be reset already
		if _, err := io.ReadAll(c); err == nil {
			t.Error("by port: an end as if all were well")
		}
		c.Close()
	}
	for _, r := range w.records(2) {
		if r.Outcome != OutcomeNoBackend {
			t.Errorf("record %+v", r)
		}
	}
	if st := w.Status().Routes[0]; st.Failures != 1 || st.Backends[0].Healthy || st.Backends[0].Error == "" {
		t.Errorf("status %+v", st)
	}
}

func TestTLSResumptionAndBothVersionsPass(t *testing.T) {
	w := start(t)
	w.apply(w.byHost("one.example", w.shop("one")))
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		conf := client("one.example")
		conf.MinVersion, conf.MaxVersion, conf.ClientSessionCache = v, v, tls.NewLRUClientSessionCache(1)
		for i := range 2 {
			c := tls.Client(w.dial(443), conf)
			if line, err := readLine(c); err != nil || line != "one" {
				t.Fatalf("%x: %q, %v", v, line, err)
			}
			if c.ConnectionState().DidResume != (i == 1) {
				t.Errorf("%x, connection %d: resumed %t", v, i, c.ConnectionState().DidResume)
			}
			c.Close()
		}
	}
}
