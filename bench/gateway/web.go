package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/zero-os/zos/spec/plan"
)

const (
	portWeb    = 9446 // a web server: a GET of /N is answered with N bytes
	portSecure = 9447 // the same in TLS
)

// certificate writes a key and a certificate (ECDSA, P-256) for all hosts into a
// file, as HAProxy wants them.
func (b *bench) certificate() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"*.bench.example"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(90 * 24 * time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	// Our certificates' store wants a certificate first.
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	file := filepath.Join(b.dir, "host.pem")
	return file, os.WriteFile(file, text, 0o600)
}

// terminated is requests on connections that stand, by both protocols, of bodies of
// two sizes.
func (b *bench) terminated() error {
	file, err := b.certificate()
	if err != nil {
		return err
	}
	back, err := role("web", backendAddr, file)
	if err != nil {
		return err
	}
	defer back.stop()
	ours, err := role("gateway", serving{At: oursAddr, Mode: plan.ModeTerminate, Hosts: 1, Port: portWeb, Backends: []string{backendAddr}, PEM: file}.arg())
	if err != nil {
		return err
	}
	defer ours.stop()
	theirs, err := b.haproxyWeb(file)
	if err != nil {
		return err
	}
	defer theirs.stop()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
		for _, size := range []int{1 << 10, 64 << 10} {
			one := func(x *process, at string) (turn, error) {
				return b.measure(x, "requests", at+":443", proto, strconv.Itoa(size), b.each.String())
			}
			o, t, err := b.turnBy(func() (turn, error) { return one(ours, oursAddr) }, func() (turn, error) { return one(theirs, haproxyAddr) })
			if err != nil {
				return err
			}
			of, oc := middle(o)
			tf, tc := middle(t)
			mb := float64(size) / 1e6
			b.Add(fmt.Sprintf("terminated %s, bodies of %d KiB, %s", proto, size>>10, clientsOf(proto)),
				fmt.Sprintf("%.2fx, %.0f of %.0f requests/s, %.0f of %.0f MB/s; processor time %.0f (HAProxy %.0f) µs each", of/tf, of, tf, of*mb, tf*mb, oc*1e6, tc*1e6),
				"≥ 0.6x of HAProxy", of/tf >= 0.6)
		}
	}
	return nil
}

// haproxyWeb starts it with TLS that ends there, tuned as one would: the same
// cipher as ours, connections to the backend used again.
func (b *bench) haproxyWeb(file string) (*process, error) {
	return b.haproxyWith(fmt.Sprintf(`global
  maxconn 9500
  ssl-default-bind-options ssl-min-ver TLSv1.2
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode http
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 2m
frontend f
  bind %s:443 ssl crt %s alpn h2,http/1.1
  http-request set-header X-Forwarded-Proto https
  use_backend web if { req.hdr(host),lower -m str %s }
backend web
  server a %s:%d check inter 400ms
`, haproxyAddr, file, hostName(0), backendAddr, portWeb))
}

// Clients of a protocol. As many requests are under way in both.
const (
	connsOne = 16
	connsTwo = 4
	streams  = 4
)

func clientsOf(proto string) string {
	if proto == "HTTP/2" {
		return fmt.Sprintf("%d connections of %d streams", connsTwo, streams)
	}
	return fmt.Sprintf("%d connections", connsOne)
}

// playWeb serves at ADDRESS, with the certificate of a FILE in TLS. It costs little:
// what is measured is before it.
func playWeb(args []string) error {
	pair, err := tls.LoadX509KeyPair(args[1], args[1])
	if err != nil {
		return err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}}
	answers := map[string][]byte{}
	for _, size := range []int{1 << 10, 64 << 10} {
		answers[fmt.Sprintf("GET /%d ", size)] = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%s", size, make([]byte, size))
	}
	serve := func(c net.Conn) {
		defer c.Close()
		r := bufio.NewReader(c)
		for {
			first, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			var answer []byte
			for begin, a := range answers {
				if bytes.HasPrefix(first, []byte(begin)) {
					answer = a
				}
			}
			for len(first) > 2 {
				if first, err = r.ReadSlice('\n'); err != nil {
					return
				}
			}
			if _, err := c.Write(answer); err != nil || answer == nil {
				return
			}
		}
	}
	for port, wrap := range map[int]func(net.Conn) net.Conn{
		portWeb:    func(c net.Conn) net.Conn { return c },
		portSecure: func(c net.Conn) net.Conn { return tls.Server(c, conf) },
	} {
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", args[0], port))
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go serve(wrap(c))
			}
		}()
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// requestMany asks AT by PROTOCOL for bodies of SIZE for a DURATION, and returns
// how many a second came.
func requestMany(args []string) (any, error) {
	size, err := strconv.Atoi(args[2])
	if err != nil {
		return nil, err
	}
	d, err := time.ParseDuration(args[3])
	if err != nil {
		return nil, err
	}
	conns, ask, next := connsOne, askOne, "http/1.1"
	if args[1] == "HTTP/2" {
		conns, ask, next = connsTwo, askTwo, "h2"
	}
	var all []*tls.Conn
	for range conns {
		c, err := tls.Dial("tcp", args[0], &tls.Config{ServerName: hostName(0), InsecureSkipVerify: true, NextProtos: []string{next}})
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if s := c.ConnectionState(); s.NegotiatedProtocol != next || s.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
			return nil, fmt.Errorf("%s speaks %q by %s", args[0], s.NegotiatedProtocol, tls.CipherSuiteName(s.CipherSuite))
		}
		all = append(all, c)
	}
	var total atomic.Int64
	var work sync.WaitGroup
	var failed atomic.Pointer[error]
	began := time.Now()
	for _, c := range all {
		work.Go(func() {
			_ = c.SetDeadline(began.Add(d))
			if err := ask(c, size, &total); !errors.Is(err, os.ErrDeadlineExceeded) {
				failed.Store(&err)
			}
		})
	}
	work.Wait()
	if err := failed.Load(); err != nil {
		return nil, fmt.Errorf("a connection ended: %w", *err)
	}
	return float64(total.Load()) / time.Since(began).Seconds(), nil
}

// askOne makes one request after the other by HTTP/1.1, until the deadline.
func askOne(c *tls.Conn, size int, total *atomic.Int64) error {
	r := bufio.NewReaderSize(c, 64<<10)
	request := fmt.Appendf(nil, "GET /%d HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n", size, hostName(0))
	for {
		if _, err := c.Write(request); err != nil {
			return err
		}
		if err := readAnswer(r, size); err != nil {
			return err
		}
		total.Add(1)
	}
}

// readAnswer reads an answer that has to be 200 with a body of that size.
func readAnswer(r *bufio.Reader, size int) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("the answer is %q", line)
	}
	length := -1
	for len(line) > 2 {
		if line, err = r.ReadSlice('\n'); err != nil {
			return err
		}
		const name = "content-length:"
		if len(line) > len(name) && strings.EqualFold(string(line[:len(name)]), name) {
			if length, err = strconv.Atoi(strings.TrimSpace(string(line[len(name):]))); err != nil {
				return err
			}
		}
	}
	if length != size {
		return fmt.Errorf("the answer has %d bytes, want %d", length, size)
	}
	_, err = r.Discard(size)
	return err
}

// askTwo keeps requests under way by HTTP/2, until the deadline. It is a bare
// client, with windows such as browsers have.
func askTwo(c *tls.Conn, size int, total *atomic.Int64) error {
	const window = 6 << 20
	r, w := bufio.NewReaderSize(c, 64<<10), bufio.NewWriter(c)
	f := http2.NewFramer(w, r)
	f.SetReuseFrames()
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := w.WriteString(http2.ClientPreface); err != nil {
		return err
	}
	if err := f.WriteSettings(http2.Setting{ID: http2.SettingEnablePush}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}); err != nil {
		return err
	}
	if err := f.WriteWindowUpdate(0, window); err != nil {
		return err
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	id := uint32(1)
	begin := func() error {
		block.Reset()
		for _, x := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", hostName(0)}, {":path", fmt.Sprint("/", size)}, {"user-agent", "bench"}, {"accept", "*/*"}} {
			if err := enc.WriteField(hpack.HeaderField{Name: x[0], Value: x[1]}); err != nil {
				return err
			}
		}
		err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		id += 2
		return err
	}
	for range streams {
		if err := begin(); err != nil {
			return err
		}
	}
	got := map[uint32]int{}
	read := 0
	for {
		if r.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
		x, err := f.ReadFrame()
		if err != nil {
			return err
		}
		ended := false
		switch x := x.(type) {
		case *http2.MetaHeadersFrame:
			if s := x.PseudoValue("status"); s != "200" {
				return fmt.Errorf("the answer is %s", s)
			}
			ended = x.StreamEnded()
		case *http2.DataFrame:
			got[x.StreamID] += len(x.Data())
			read += int(x.Length)
			ended = x.StreamEnded()
		case *http2.SettingsFrame:
			if !x.IsAck() {
				err = f.WriteSettingsAck()
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return fmt.Errorf("the answer is %s", x)
		}
		if err == nil && read > window/2 {
			err = f.WriteWindowUpdate(0, uint32(read))
			read = 0
		}
		if err == nil && ended {
			if n := got[x.Header().StreamID]; n != size {
				return fmt.Errorf("the answer has %d bytes, want %d", n, size)
			}
			delete(got, x.Header().StreamID)
			total.Add(1)
			err = begin()
		}
		if err != nil {
			return err
		}
	}
}
