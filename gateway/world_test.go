package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/spec/plan"
)

// deadline is for what should happen at once, on a machine that is busy.
const deadline = 30 * time.Second

var lastAddr atomic.Uint32

// loopback returns an address that no other test has.
func loopback() netip.Addr {
	n, pid := lastAddr.Add(1), os.Getpid()
	return netip.AddrFrom4([4]byte{127, byte(64 + pid%128), byte(pid / 128), byte(n)})
}

// direct dials in the test's own namespace, and can be told otherwise.
type direct struct {
	hook atomic.Pointer[func(ctx context.Context, network, proto string, to netip.AddrPort) (net.Conn, error)]
}

func (d *direct) Dial(ctx context.Context, network, proto string, to netip.AddrPort) (net.Conn, error) {
	if h := d.hook.Load(); h != nil {
		return (*h)(ctx, network, proto, to)
	}
	if proto == "tcp" {
		return tcp(ctx, to)
	}
	var n net.Dialer
	return n.DialContext(ctx, proto, to.String())
}

// tcp connects a socket as one that a broker has sent.
func tcp(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return Connect(ctx, fd, to)
}

// world is a server under test.
type world struct {
	*testing.T
	*Server
	dialer *direct
	addr   netip.Addr
	access *AccessLog
	stop   func()
}

func start(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	w := &world{T: t, dialer: &direct{}, addr: loopback(), access: new(AccessLog)}
	o := Options{Dialer: w.dialer, Access: w.access}
	for _, f := range change {
		f(&o)
	}
	w.Server = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Server.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(deadline):
			t.Error("the server doesn't end")
		}
		if s := w.Status(); s.Conns != 0 || s.Flows != 0 {
			t.Errorf("%d connections and %d flows are counted after the end", s.Conns, s.Flows)
		}
	})
	t.Cleanup(func() { w.stop(); goleak.VerifyNone(t, leaks) })
	return w
}

func (w *world) apply(routes ...Route) {
	w.Helper()
	if err := w.Apply(Config{Routes: routes}); err != nil {
		w.Fatal(err)
	}
	// Before Run has begun nothing is served.
	w.until("the configuration is served", func() bool { return len(w.Status().Routes) == len(routes) })
}

func (w *world) until(what string, ok func() bool) {
	w.Helper()
	end := time.Now().Add(deadline)
	for !ok() {
		if time.Now().After(end) {
			w.Fatalf("not within %s: %s", deadline, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// records takes n records.
func (w *world) records(n int) []Record {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var all []Record
	for len(all) < n {
		r, err := w.access.Take(ctx, n-len(all))
		if err != nil {
			w.Fatalf("%d of %d records: %v", len(all), n, err)
		}
		all = append(all, r...)
	}
	return all
}

// byHost is a passthrough route, byPort one for a port.
func (w *world) byHost(host string, backends ...netip.AddrPort) Route {
	return Route{ID: "c/www/" + host, Workload: "www", Addresses: []netip.Addr{w.addr}, Host: host, Mode: plan.ModePassthrough, Port: 443,
		Network: "front", Backends: named(backends), Check: plan.CheckNone}
}

func (w *world) byPort(mode string, port uint16, backends ...netip.AddrPort) Route {
	return Route{ID: fmt.Sprintf("c/www/%d/%s", port, mode), Workload: "www", Addresses: []netip.Addr{w.addr}, Mode: mode, Port: port,
		Network: "front", Backends: named(backends), Check: plan.CheckNone}
}

func named(all []netip.AddrPort) []Backend {
	var out []Backend
	for i, a := range all {
		out = append(out, Backend{fmt.Sprintf("web%d", i+1), a})
	}
	return out
}

// backend serves connections with f until the test ends.
func (w *world) backend(f func(net.Conn)) netip.AddrPort {
	w.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			work.Go(func() {
				defer func() {
					mu.Lock()
					delete(open, c)
					mu.Unlock()
					c.Close()
				}()
				f(c)
			})
		}
	})
	w.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		work.Wait()
	})
	return addrPort(l.Addr())
}

// says answers every connection with a line, then echoes.
func (w *world) says(line string) netip.AddrPort {
	return w.backend(func(c net.Conn) {
		if _, err := io.WriteString(c, line+"\n"); err == nil {
			_, _ = io.Copy(c, c)
		}
	})
}

// shop is a TLS server that answers with a line, then echoes.
func (w *world) shop(line string) netip.AddrPort {
	conf := &tls.Config{Certificates: []tls.Certificate{certificate()}, NextProtos: []string{"h2", "http/1.1"}}
	return w.backend(func(c net.Conn) {
		t := tls.Server(c, conf)
		if _, err := io.WriteString(t, line+"\n"); err == nil {
			_, _ = io.Copy(t, t)
			_ = t.CloseWrite()
		}
	})
}

var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// dial connects to the gateway.
func (w *world) dial(port uint16) *net.TCPConn {
	w.Helper()
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(w.addr, port).String(), deadline)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(deadline))
	return c.(*net.TCPConn)
}

func client(host string) *tls.Config {
	return &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}
}

// get connects by TLS and reads the first line.
func (w *world) get(host string) (*tls.Conn, string, error) {
	w.Helper()
	c := tls.Client(w.dial(443), client(host))
	line, err := readLine(c)
	return c, line, err
}

func readLine(r io.Reader) (string, error) {
	var out []byte
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(r, b); err != nil {
			return string(out), err
		}
		if b[0] == '\n' {
			return string(out), nil
		}
		out = append(out, b[0])
	}
}

// helloBytes is the first flight of a client.
func helloBytes(t testing.TB, host string) []byte {
	t.Helper()
	a, b := net.Pipe()
	go func() { _ = tls.Client(a, client(host)).Handshake(); a.Close() }()
	buf := make([]byte, 16384)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	// One write is one record.
	for n < 5 || n < 5+int(buf[3])<<8+int(buf[4]) {
		k, err := b.Read(buf[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += k
	}
	b.Close()
	return slices.Clone(buf[:n])
}

func contains(err error, text string) bool {
	return err != nil && strings.Contains(err.Error(), text)
}
