package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

func hostName(i int) string { return fmt.Sprintf("host%d.bench.example", i) }

// play does what a role does: it says "ready", and answers lines until its
// input ends.
func play(name string, args []string) int {
	var err error
	switch name {
	case "gateway":
		err = playGateway(args)
	case "web":
		err = playWeb(args)
	case "requests":
		err = answerOnce(func() (any, error) { return requestMany(args) })
	case "visits":
		err = answerOnce(func() (any, error) { return visit(args) })
	case "entry":
		err = playEntry(args)
	case "join":
		err = answerOnce(func() (any, error) { return joinOnce(args) })
	case "backend":
		err = playBackend(args)
	case "source":
		err = answerOnce(func() (any, error) { return readBulk(args) })
	case "tls", "hello":
		err = answerOnce(func() (any, error) { return connectMany(name, args) })
	case "latency":
		err = answerOnce(func() (any, error) { return timeConnects(args) })
	case "hold":
		err = hold(args)
	default:
		err = fmt.Errorf("no role %q", name)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: role %s: %v\n", name, err)
		return 1
	}
	return 0
}

// answerOnce does one thing when it is told to.
func answerOnce(f func() (any, error)) error {
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	out, err := f()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func awaitPort(at string) error {
	var err error
	for range 200 {
		var c net.Conn
		if c, err = net.Dial("tcp", at); err == nil {
			return c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// playBackend serves all three ports at ADDRESS.
func playBackend(args []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, SessionTicketsDisabled: true}
	big := make([]byte, 256<<10)
	for port, serve := range map[int]func(net.Conn){
		portTLS: func(c net.Conn) {
			t := tls.Server(c, conf)
			one := make([]byte, 1)
			if _, err := io.ReadFull(t, one); err == nil {
				_, _ = t.Write(one)
				_, _ = c.Read(one)
			}
		},
		portSource: func(c net.Conn) {
			if _, err := c.Read(make([]byte, 4096)); err != nil {
				return
			}
			for {
				if _, err := c.Write(big); err != nil {
					return
				}
			}
		},
		portHold: func(c net.Conn) {
			b := make([]byte, 4096)
			for {
				if _, err := c.Read(b); err != nil {
					return
				}
				if _, err := c.Write(b[:1]); err != nil {
					return
				}
			}
		},
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
				go func() { defer c.Close(); serve(c) }()
			}
		}()
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// firstFlight is the ClientHello of a client for a name.
func firstFlight(host string) []byte {
	a, b := net.Pipe()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: host, InsecureSkipVerify: true}).Handshake()
		a.Close()
	}()
	buf := make([]byte, 16384)
	n, _ := b.Read(buf)
	for n < 5+int(buf[3])<<8+int(buf[4]) {
		k, err := b.Read(buf[n:])
		if err != nil {
			break
		}
		n += k
	}
	b.Close()
	return buf[:n]
}

// readBulk reads from AT over N connections for a DURATION, and returns bytes a
// second. The hello is real, what follows isn't encrypted: the ends
// should cost less than what is between them.
func readBulk(args []string) (any, error) {
	n, d, err := countAndTime(args)
	if err != nil {
		return nil, err
	}
	var total atomic.Int64
	var work sync.WaitGroup
	hello := firstFlight(hostName(0))
	began := time.Now()
	for range n {
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			return nil, err
		}
		work.Go(func() {
			defer c.Close()
			_ = c.SetDeadline(began.Add(d))
			if _, err := c.Write(hello); err != nil {
				return
			}
			buf := make([]byte, 256<<10)
			for {
				k, err := c.Read(buf)
				total.Add(int64(k))
				if err != nil {
					return
				}
			}
		})
	}
	work.Wait()
	return float64(total.Load()) / time.Since(began).Seconds(), nil
}

func countAndTime(args []string) (int, time.Duration, error) {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return 0, 0, err
	}
	d, err := time.ParseDuration(args[2])
	return n, d, err
}

// connectMany makes connections to AT by N clients for a DURATION, and returns
// how many a second were answered: "tls" with handshakes, "hello" with the first
// flight alone.
func connectMany(kind string, args []string) (any, error) {
	n, d, err := countAndTime(args)
	if err != nil {
		return nil, err
	}
	var total, failed atomic.Int64
	var last atomic.Pointer[error]
	var work sync.WaitGroup
	hello := firstFlight(hostName(0))
	end := time.Now().Add(d)
	began := time.Now()
	for range n {
		work.Go(func() {
			for time.Now().Before(end) {
				if err := once(kind, args[0], hostName(0), hello); err != nil {
					failed.Add(1)
					last.Store(&err)
					time.Sleep(time.Millisecond)
					continue
				}
				total.Add(1)
			}
		})
	}
	work.Wait()
	if failed.Load() > total.Load()/100 {
		return nil, fmt.Errorf("%d of %d connections failed: %w", failed.Load(), failed.Load()+total.Load(), *last.Load())
	}
	return float64(total.Load()) / time.Since(began).Seconds(), nil
}

// once makes a connection and has a byte answered.
func once(kind, at, host string, hello []byte) error {
	c, err := net.DialTimeout("tcp", at, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_ = c.(*net.TCPConn).SetLinger(0) // or the ports of this machine would be used up
	var conn io.ReadWriter = c
	if kind == "tls" {
		conn, hello = tls.Client(c, &tls.Config{ServerName: host, InsecureSkipVerify: true}), []byte{1}
	}
	if _, err := conn.Write(hello); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}

// timeConnects makes N connections of KIND to AT one after the other, for names
// of HOSTS in turn, and returns the seconds that each took.
func timeConnects(args []string) (any, error) {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return nil, err
	}
	hosts, err := strconv.Atoi(args[3])
	if err != nil {
		return nil, err
	}
	var out []float64
	for i := range n {
		host := hostName(i * 7919 % hosts)
		var hello []byte
		if args[2] != "tls" {
			hello = firstFlight(host)
		}
		began := time.Now()
		if err := once(args[2], args[0], host, hello); err != nil {
			return nil, err
		}
		out = append(out, time.Since(began).Seconds())
	}
	return out, nil
}

// hold opens N connections to AT, each answered once, and keeps them.
func hold(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	hello := firstFlight(hostName(0))
	in := bufio.NewScanner(os.Stdin)
	var all []net.Conn
	for in.Scan() {
		for len(all) < n {
			c, err := net.DialTimeout("tcp", args[0], 5*time.Second)
			if err != nil {
				return err
			}
			if _, err := c.Write(hello); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				return err
			}
			all = append(all, c)
		}
		fmt.Println(len(all))
	}
	return nil
}
