// Command zos-fault is a node's fault server: it brings objects from the hubs
// into the store at the moment they are first opened. It runs as a process of its
// own, started once per boot: overlays hang on the very mount that it made, so it
// must outlive the daemon and its upgrades.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/fault"
)

func main() {
	var c config
	flag.StringVar(&c.store, "store", "/data", "the object store's `directory`")
	flag.StringVar(&c.dir, "mount", "/run/zos/fault", "`directory` to mount on")
	flag.StringVar(&c.socket, "socket", "/run/zos/fault.sock", "control socket's `path`")
	flag.StringVar(&c.hubs, "hubs", "", "hubs' base `URLs`, comma-separated, in order of preference")
	flag.Int64Var(&c.maxBytes, "max-bytes", 0, "most `bytes` that the store may take; 0: no limit of its own")
	flag.BoolVar(&c.requireVerity, "require-verity", false, "refuse a store without fs-verity")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := run(ctx, c, log); err != nil {
		log.Error("fault server ends", "error", err)
		os.Exit(1)
	}
}

type config struct {
	store, dir, socket, hubs string
	maxBytes                 int64
	requireVerity            bool
}

func run(ctx context.Context, c config, log *slog.Logger) error {
	// It idles nearly always: give memory back rather than keep it for speed.
	debug.SetGCPercent(50)
	s, err := store.Open(c.store, store.Options{MaxBytes: c.maxBytes, RequireVerity: c.requireVerity, Logger: log})
	if err != nil {
		return err
	}
	defer s.Close()
	f, err := store.NewFetcher(s, store.FetchOptions{Hubs: split(c.hubs)})
	if err != nil {
		return err
	}
	defer f.Close()
	srv, err := fault.Mount(ctx, fault.Config{Dir: c.dir, Fetcher: f, Logger: log})
	if err != nil {
		return err
	}
	defer srv.Close()
	if err := os.MkdirAll(filepath.Dir(c.socket), 0o755); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	ctl, err := fault.ServeControl(ctx, c.socket, f, log)
	if err != nil {
		return err
	}
	defer ctl.Close()
	log.Info("fault server is up", "mount", c.dir, "store", c.store, "verity", s.Verity())
	select {
	case <-ctx.Done():
		return nil
	case <-srv.Done():
		return fmt.Errorf("%s was unmounted", c.dir)
	}
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}
