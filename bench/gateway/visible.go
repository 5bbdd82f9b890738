package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/zero-os/zos/spec/plan"
)

// visible is how long after a configuration is given to the process a client
// finds a route that it has anew, and none that it has no more.
func (b *bench) visible() error {
	const hosts = 1000
	file, err := b.certificate()
	if err != nil {
		return err
	}
	back, err := role("web", backendAddr, file)
	if err != nil {
		return err
	}
	defer back.stop()
	for _, mode := range []string{plan.ModePassthrough, plan.ModeTerminate} {
		port := portSecure
		if mode == plan.ModeTerminate {
			port = portWeb
		}
		p, err := role("gateway", serving{At: oursAddr, Mode: mode, Hosts: hosts, Port: port, Backends: []string{backendAddr}, PEM: file}.arg())
		if err != nil {
			return err
		}
		var came, went time.Duration
		for range 2 * b.turns {
			for _, change := range []struct {
				to   int
				most *time.Duration
			}{{hosts + 1, &came}, {hosts, &went}} {
				began := time.Now()
				if _, err = p.tell(fmt.Sprint("apply ", change.to)); err != nil {
					break
				}
				if err = awaitServed(oursAddr+":443", hosts, change.to > hosts); err != nil {
					break
				}
				*change.most = max(*change.most, time.Since(began))
			}
		}
		p.stop()
		if err != nil {
			return err
		}
		b.Add(fmt.Sprintf("one of 1,000 routes that changes (%s) is seen by a new connection", mode),
			fmt.Sprintf("most %.0f ms, its end %.0f ms", came.Seconds()*1e3, went.Seconds()*1e3), "≤ 1000 ms", max(came, went) <= time.Second)
	}
	return nil
}

// awaitHost waits until the host of a number is served.
func awaitHost(at string, i int) error {
	return awaitServed(at, i, true)
}

// awaitServed waits until a host is served, or no longer.
func awaitServed(at string, i int, want bool) error {
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		var c *tls.Conn
		c, err = tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", at, &tls.Config{ServerName: hostName(i), InsecureSkipVerify: true})
		if err == nil {
			_ = c.NetConn().(*net.TCPConn).SetLinger(0)
			_ = c.NetConn().Close()
		}
		if (err == nil) == want {
			return nil
		}
	}
	return fmt.Errorf("%s at %s: served %v after 10 s: %w", hostName(i), at, !want, err)
}
