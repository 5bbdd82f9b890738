package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

func (a *app) metricsCommand() *cobra.Command {
	var nodes []string
	var listen string
	cmd := &cobra.Command{
		Use:   "metrics [CONTRACT[/WORKLOAD]…]",
		Short: "Show figures of workloads and nodes in Prometheus' text format, or serve them",
		Long: `Show what workloads use in Prometheus' text format; without a name, those of every
contract of your groups. With --node also what a node has and uses, which takes the key
of its farm; with it alone, only that.

With --listen they are served at http://ADDRESS/metrics until Ctrl-C. Who reaches the
address reads them: keep it on this machine, or behind something that asks who comes.`,
		Example:           "  zos metrics demo/shop\n  zos metrics --node node-1 --as farmer\n  zos metrics --listen 127.0.0.1:9100",
		ValidArgsFunction: a.completeAll(workloadNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				m := &meter{a: a, client: c, refs: args, nodes: nodes, most: 30 * time.Second}
				if len(nodes) > 0 && len(args) == 0 {
					m.nodesOnly = true
				}
				if listen != "" {
					return a.serveMetrics(ctx, listen, m)
				}
				text, err := m.read(ctx)
				if err == nil || len(text) > 0 {
					_, werr := a.out.Write(text)
					err = errors.Join(err, werr)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&nodes, "node", nil, "also of this node; may be given several times")
	f.StringVar(&listen, "listen", "", "serve them at this address, like 127.0.0.1:9100")
	_ = cmd.RegisterFlagCompletionFunc("node", a.completeAll(nodeNames))
	return cmd
}

// meter reads figures. Its sessions are made at the first reading, so that a key
// that must be touched is touched once in eight hours.
type meter struct {
	a         *app
	client    *client.Client
	refs      []string
	nodes     []string
	nodesOnly bool
	most      time.Duration // for one reading
}

// read asks every node; those that don't answer are in the text, as not up, and in
// the error.
func (m *meter) read(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, m.most)
	defer cancel()
	names, err := m.client.Names(ctx)
	if err != nil {
		return nil, err
	}
	var scopes []scope
	if !m.nodesOnly {
		if scopes, err = m.a.scopes(ctx, m.client, m.refs); err != nil {
			return nil, err
		}
	}
	var samples []client.Sample
	var errs []error
	for _, s := range scopes {
		if err := m.client.UseSession(ctx, s.by); err != nil {
			return nil, err
		}
	}
	_ = eachNode(ctx, scopes, false, func(ctx context.Context, s scope, slot canon.Hash) error {
		ctx, cancel := context.WithTimeout(ctx, nodeWait)
		defer cancel()
		figures, err := m.client.Metrics(ctx, slot, s.contract.ID, s.one(), s.by)
		sample := client.Sample{Contract: s.name, Node: names.Of(slot), Metrics: figures}
		if err != nil {
			sample.Failed = codeFor(err)
			errs = append(errs, fmt.Errorf("%s on %s: %w", s.name, sample.Node, err))
		}
		sample.Metrics.Workloads = slices.DeleteFunc(sample.Metrics.Workloads, func(w protocol.Stats) bool { return !s.has(w.Name, slot) })
		samples = append(samples, sample)
		return nil
	})
	var nodes []client.NodeSample
	for _, name := range m.nodes {
		sample, err := m.node(ctx, name)
		if err != nil {
			if sample.Node == "" {
				return nil, err
			}
			sample.Failed = codeFor(err)
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		nodes = append(nodes, sample)
	}
	return client.Prometheus(samples, nodes), errors.Join(errs...)
}

// node asks a node by its farm's key.
func (m *meter) node(ctx context.Context, name string) (client.NodeSample, error) {
	n, err := m.client.FindNode(ctx, name)
	if err != nil {
		return client.NodeSample{}, err
	}
	home, err := m.client.Farm(ctx, n.Farm)
	if err != nil {
		return client.NodeSample{}, err
	}
	by, err := m.client.SignerAmong(ctx, m.a.as, func(key sign.PublicKey) bool { return key.Equal(sign.PublicKey(home.Key)) })
	if err != nil {
		return client.NodeSample{}, err
	}
	if err := m.client.UseSession(ctx, by); err != nil {
		return client.NodeSample{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, nodeWait)
	defer cancel()
	figures, err := m.client.NodeMetrics(ctx, n.Slot, by)
	return client.NodeSample{Node: n.Name, Metrics: figures}, err
}

// nodeWait is how long one node may take, so that one that is away does not hold up
// the others past a scraper's patience.
const nodeWait = 8 * time.Second

// serveMetrics serves readings until ctx ends, one at a time.
func (a *app) serveMetrics(ctx context.Context, listen string, m *meter) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return problem.New("address-unavailable", "listen on %s: %w", listen, err).WithFix("choose another address with --listen")
	}
	busy := make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		select {
		case busy <- struct{}{}:
			defer func() { <-busy }()
		case <-r.Context().Done():
			return
		}
		text, err := m.read(r.Context())
		if err != nil {
			a.progress("%s", printableLines(err.Error()))
		}
		if len(text) == 0 && err != nil {
			http.Error(w, "figures could not be read: "+codeFor(err), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(text) // the scraper may be gone
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: time.Minute, BaseContext: func(net.Listener) context.Context { return ctx }}
	if a.format == "json" {
		err = a.jsonLine(map[string]string{"url": "http://" + l.Addr().String() + "/metrics"})
	} else {
		_, err = fmt.Fprintf(a.out, "serving http://%s/metrics\n", l.Addr())
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) || ctx.Err() == nil {
		return err
	}
	return nil
}
