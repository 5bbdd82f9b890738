package imagetest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxAnswer bounds what a check reads, in bytes.
const maxAnswer = 1 << 20

type check = func(ctx context.Context, d Dialer, address string) error

// httpAnswers is passed by a server whose page at path holds all of the words.
func httpAnswers(path string, words ...string) check {
	return func(ctx context.Context, d Dialer, address string) error {
		transport := &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			return err
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answered %s: %.200s", path, resp.Status, body)
		}
		for _, w := range words {
			if !bytes.Contains(body, []byte(w)) {
				return fmt.Errorf("%s answered %.200q, without %q", path, body, w)
			}
		}
		return nil
	}
}

// dial connects, and ends the connection with ctx.
func dial(ctx context.Context, d Dialer, address string) (net.Conn, func(), error) {
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return c, func() { stop(); c.Close() }, nil
}

// redisAnswers writes a value and reads it back.
func redisAnswers(ctx context.Context, d Dialer, address string) error {
	c, done, err := dial(ctx, d, address)
	if err != nil {
		return err
	}
	defer done()
	r := bufio.NewReaderSize(io.LimitReader(c, maxAnswer), 4096)
	for _, step := range []struct{ say, want string }{
		{"PING\r\n", "+PONG"}, {"SET zos 42\r\n", "+OK"}, {"INCR zos\r\n", ":43"}, {"GET zos\r\n", "$2"}, {"", "43"},
	} {
		if _, err := io.WriteString(c, step.say); err != nil {
			return err
		}
		line, err := r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("after %q: %w", step.say, err)
		}
		if got := strings.TrimRight(line, "\r\n"); got != step.want {
			return fmt.Errorf("after %q: %.200q, want %q", step.say, got, step.want)
		}
	}
	return nil
}

// loginKey is the key that tests log in to machines with: made once for each run.
var loginKey = sync.OnceValue(func() ssh.Signer {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	key, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		panic(err)
	}
	return key
})

// logsIn is passed by a machine whose cloud-init let the key in, and whose process 1 is
// systemd. Nobody knows the machine's host key before.
func logsIn(key ssh.Signer) check {
	return func(ctx context.Context, d Dialer, address string) error {
		c, done, err := dial(ctx, d, address)
		if err != nil {
			return err
		}
		defer done()
		conn, channels, requests, err := ssh.NewClientConn(c, address, &ssh.ClientConfig{
			User: "debian", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		})
		if err != nil {
			return err
		}
		client := ssh.NewClient(conn, channels, requests)
		defer client.Close()
		session, err := client.NewSession()
		if err != nil {
			return err
		}
		defer session.Close()
		out, err := session.CombinedOutput("cat /proc/1/comm")
		if err != nil {
			return err
		}
		if got := strings.TrimSpace(string(out)); got != "systemd" {
			return fmt.Errorf("process 1 is %.80q, want systemd", got)
		}
		return nil
	}
}

// postgresAnswers makes a table, writes a row and reads it, by the simple query
// protocol: https://www.postgresql.org/docs/15/protocol-flow.html
func postgresAnswers(ctx context.Context, d Dialer, address string) error {
	c, done, err := dial(ctx, d, address)
	if err != nil {
		return err
	}
	defer done()
	start := []byte{0, 3, 0, 0} // version 3.0
	for _, s := range []string{"user", "postgres", "database", "postgres", ""} {
		start = append(append(start, s...), 0)
	}
	if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(start)+4)), start...)); err != nil {
		return err
	}
	r := bufio.NewReader(io.LimitReader(c, maxAnswer))
	if _, err := postgresReply(r); err != nil {
		return err
	}
	for _, step := range []struct{ query, want string }{
		{"SELECT 1", "1"},
		{"CREATE TEMPORARY TABLE zos (n int)", ""},
		{"INSERT INTO zos VALUES (41), (1)", ""},
		{"SELECT sum(n) FROM zos", "42"},
	} {
		b := append(binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(len(step.query)+5)), step.query...)
		if _, err := c.Write(append(b, 0)); err != nil {
			return err
		}
		got, err := postgresReply(r)
		if err != nil {
			return fmt.Errorf("%s: %w", step.query, err)
		}
		if got != step.want {
			return fmt.Errorf("%s: %q, want %q", step.query, got, step.want)
		}
	}
	return nil
}

// postgresReply reads messages until the server is ready for a query, and returns
// the last row's first column.
func postgresReply(r *bufio.Reader) (value string, err error) {
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(r, head); err != nil {
			return "", err
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n < 4 || n > maxAnswer {
			return "", fmt.Errorf("a message of %d bytes", n)
		}
		body := make([]byte, n-4)
		if _, err := io.ReadFull(r, body); err != nil {
			return "", err
		}
		switch head[0] {
		case 'R':
			if len(body) < 4 || binary.BigEndian.Uint32(body) != 0 {
				return "", errors.New("it wants a password")
			}
		case 'E':
			return "", fmt.Errorf("it says %.300q", body)
		case 'D': // columns, then the first one's length and value
			if len(body) < 6 {
				return "", errors.New("a row that is too short")
			}
			size := int64(binary.BigEndian.Uint32(body[2:]))
			if size > int64(len(body)-6) {
				return "", errors.New("a value that is longer than its row")
			}
			value = string(body[6 : 6+size])
		case 'Z':
			return value, nil
		}
	}
}
