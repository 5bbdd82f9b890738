package netnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/rendezvous/server"
)

// ServerConfig is what a rendezvous server is.
type ServerConfig struct {
	Listen  string // host:port
	CertDir string
	Limits  server.Limits
	// First lets the server have a processor before the nodes, as if it were on a
	// machine of its own: with many nodes on few processors it would have the
	// share of one node, and all wait for it.
	First bool
}

// first raises the priority of this process: of all threads that are and, as they
// inherit it, of those to come.
func first() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, id, -15); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("raise the priority of a server: %w", err)
		}
	}
	return nil
}

type serverProcess struct{ *server.Server }

func newServerProcess(ctx context.Context, cfg ServerConfig, log *slog.Logger) (process, error) {
	if cfg.First {
		if err := first(); err != nil {
			return nil, err
		}
	}
	s, err := server.Serve(ctx, server.Config{
		Listen: cfg.Listen, CertDir: cfg.CertDir, Grid: Grid, Bound: bound, Limits: cfg.Limits, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	return serverProcess{s}, nil
}

func (s serverProcess) do(_ context.Context, op string, raw json.RawMessage) (any, error) {
	switch op {
	case "url":
		return s.URL(), nil
	case "route":
		return with(raw, func(url string) (any, error) { return nil, s.AddRoute(url) })
	case "peers":
		return s.Peers(), nil
	}
	return nil, fmt.Errorf("no operation %q", op)
}

func (s serverProcess) close() error { return s.Stop() }
