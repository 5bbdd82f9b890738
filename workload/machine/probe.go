package machine

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/health"
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
	if err := health.HTTP(conn, net.JoinHostPort(i.config.Probe.To, strconv.Itoa(int(p.Port))), p.Path); err != nil {
		return fmt.Errorf("check by http: %w", err)
	}
	return nil
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
