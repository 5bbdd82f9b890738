package netnode

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/zero-os/zos/rendezvous/server"
)

// ServerConfig is what a rendezvous server is.
type ServerConfig struct {
	Listen  string // host:port
	CertDir string
	Limits  server.Limits
}

type serverProcess struct{ *server.Server }

func newServerProcess(ctx context.Context, cfg ServerConfig, log *slog.Logger) (process, error) {
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
		url, err := args[string](raw)
		if err != nil {
			return nil, err
		}
		return nil, s.AddRoute(url)
	case "peers":
		return s.Peers(), nil
	}
	return nil, fmt.Errorf("no operation %q", op)
}

func (s serverProcess) close() error { return s.Stop() }
