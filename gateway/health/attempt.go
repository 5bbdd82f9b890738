package health

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/zero-os/zos/spec/plan"
)

// attempt checks a backend. A lost packet is no failed backend: when the first
// try is silent for a while a second one runs beside it, and either may succeed.
func (c *Checker) attempt(k Key) error {
	ctx, cancel := context.WithTimeout(c.ctx, c.o.Timeout)
	defer cancel()
	results := make(chan error, 2)
	try := func() { c.work.Go(func() { results <- c.once(ctx, k) }) }
	try()
	again := time.NewTimer(c.o.Again)
	defer again.Stop()
	running := 1
	defer func() { // a check that has ended holds no socket
		cancel()
		for ; running > 0; running-- {
			<-results
		}
	}()
	for {
		select {
		case err := <-results:
			if running--; err == nil || running == 0 {
				return err
			}
		case <-again.C:
			running++
			try()
		case <-ctx.Done():
			return errors.New("no answer in time")
		}
	}
}

// once connects to a backend and, if asked, gets a page of it.
func (c *Checker) once(ctx context.Context, k Key) error {
	conn, err := c.o.Dial(ctx, k.Network, k.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if k.Check != plan.CheckHTTP {
		// Reset, and no state stays in a TIME_WAIT at either side.
		if tcp, ok := conn.(interface{ SetLinger(int) error }); ok {
			_ = tcp.SetLinger(0)
		}
		return nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	// It is the gateway's own connection, and nobody's behind it.
	switch k.Proxy {
	case 1:
		_, err = io.WriteString(conn, "PROXY UNKNOWN\r\n")
	case 2:
		_, err = io.WriteString(conn, "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00")
	}
	if err != nil {
		return err
	}
	host := k.Host
	if host == "" {
		host = k.Addr.String()
	}
	if k.TLS {
		// It is the workload's own certificate and the gateway forwards ciphertext:
		// who answers is for clients to judge.
		t := tls.Client(conn, &tls.Config{ServerName: k.Host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err := t.HandshakeContext(ctx); err != nil {
			return err
		}
		conn = t
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: zos-gateway\r\nConnection: close\r\n\r\n", k.Path, host); err != nil {
		return err
	}
	return status(conn)
}

// maxStatusLine bounds what is read of an answer.
const maxStatusLine = 1024

// status reads the first line of an answer and refuses all but 200 to 399.
func status(r io.Reader) error {
	line, err := bufio.NewReaderSize(io.LimitReader(r, maxStatusLine), maxStatusLine).ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	var code int
	if len(line) >= 12 && string(line[:7]) == "HTTP/1." && line[8] == ' ' {
		for _, d := range line[9:12] {
			if d < '0' || d > '9' {
				code = 0
				break
			}
			code = code*10 + int(d-'0')
		}
	}
	switch {
	case code < 100:
		return errors.New("the answer is not HTTP")
	case code < 200 || code > 399:
		return fmt.Errorf("it answered %d", code)
	}
	return nil
}
