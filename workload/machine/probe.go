package machine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload/control"
)

// probeOutside checks a machine that has no agent, over its own interface.
func (i *instance) probeOutside(ctx context.Context, p control.Probe) error {
	if i.config.Probe == nil || p.Kind == plan.CheckExec {
		return i.unsupported(control.VerbProbe)
	}
	conn, err := i.config.Probe.dial(ctx, p.Port)
	if err != nil {
		return err
	}
	defer conn.Close()
	if p.Kind == plan.CheckTCP {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	status, err := get(conn, net.JoinHostPort(i.config.Probe.To, strconv.Itoa(int(p.Port))), p.Path)
	if err == nil && (status < 200 || status > 399) {
		err = fmt.Errorf("status %d", status)
	}
	if err != nil {
		return fmt.Errorf("check by http: %w", err)
	}
	return nil
}

// maxStatusLine bounds the first line of an answer, in bytes.
const maxStatusLine = 1024

// get asks by HTTP/1.1 and reads the status alone. A shim has no room for net/http.
func get(conn io.ReadWriter, host, path string) (status int, err error) {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: zos-health\r\nConnection: close\r\n\r\n", path, host); err != nil {
		return 0, err
	}
	line, err := bufio.NewReaderSize(io.LimitReader(conn, maxStatusLine), maxStatusLine).ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("no status line: %w", err)
	}
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.Atoi(code)
	if err != nil || !strings.HasPrefix(version, "HTTP/1.") || len(code) != 3 {
		return 0, fmt.Errorf("status line %.40q", line)
	}
	return n, nil
}

// dial connects from the router's network namespace.
func (f ProbeFrom) dial(ctx context.Context, port uint16) (net.Conn, error) {
	ns, err := netns.Open(f.Netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var conn net.Conn
	err = netns.Do(int(ns.Fd()), func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(f.To, strconv.Itoa(int(port))))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("check by tcp: %w", err)
	}
	return conn, nil
}
