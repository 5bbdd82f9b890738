// Package health asks the one question of health checks by HTTP, alike for containers,
// micro-VMs and machines. It is small: shims and the agent in guests have no room for
// net/http.
package health

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// maxLine bounds what is read of an answer, in bytes.
const maxLine = 4 << 10

// HTTP asks for path over a fresh connection, as host, and returns nil if it is answered
// by a status of 200 to 399. It reads the first line alone. Deadlines are conn's.
func HTTP(conn io.ReadWriter, host, path string) error {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: zos-health\r\nAccept: */*\r\nConnection: close\r\n\r\n", path, host); err != nil {
		return err
	}
	line := make([]byte, 0, 256)
	for buf := make([]byte, 256); len(line) < maxLine; {
		n, err := conn.Read(buf)
		line = append(line, buf[:n]...)
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			return judge(bytes.TrimRight(line[:i], "\r"))
		}
		if err != nil {
			return fmt.Errorf("answered with no whole line: %w", err)
		}
	}
	return errors.New("answered with no HTTP")
}

func judge(line []byte) error {
	version, rest, _ := bytes.Cut(line, []byte{' '})
	digits, _, _ := bytes.Cut(rest, []byte{' '})
	code, err := strconv.ParseUint(string(digits), 10, 16)
	switch {
	case !bytes.HasPrefix(version, []byte("HTTP/1.")) || len(digits) != 3 || err != nil:
		return fmt.Errorf("answered with %.40q, which is no HTTP", line)
	case code < 200 || code > 399:
		return fmt.Errorf("answered with status %d", code)
	}
	return nil
}
