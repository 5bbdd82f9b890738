package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway"
	"github.com/zero-os/zos/gateway/certs"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/gateway/web"

	// Authorities of the internet, for a process that sees no file.
	_ "golang.org/x/crypto/x509roots/fallback"
)

// controlFD is the socket at which the daemon is awaited: bound, not listening.
const controlFD = 3

// endTimeout bounds how long requests may take when the process is to end.
const endTimeout = time.Second

// serve runs the whole process until ctx ends.
func serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l, err := listenControl()
	if err != nil {
		return fmt.Errorf("listen for the daemon: %w", err)
	}
	notes := &noteWriter{}
	log := slog.New(slog.NewTextHandler(notes, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: plain}))
	s := &service{log: log}
	p := control.NewProcess(l, s, log)
	notes.to = p
	s.dialer = control.NewDialer(p)
	defer s.dialer.Close()
	access := &gateway.AccessLog{}
	s.names = newNames(log)
	defer s.names.listen(nil)
	s.challenges = newChallenges(p.Record, s.names.texts)
	if s.certs, err = certs.New(certs.Options{Resolve: p.Resolve, Challenges: s.challenges, Log: log}); err != nil {
		return err
	}
	ends := web.NewTerminator(web.TerminatorOptions{
		Certs: s.certs, Store: func(id canon.Hash) certs.Store { return sharedStore{p, id} }, Logger: log,
	})
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		_ = ends.Shutdown(end)
	}()
	s.server = gateway.New(gateway.Options{Dialer: s.dialer, Log: log, Access: access, Terminator: ends})
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, part := range map[string]func(context.Context) error{
		"control":      p.Run,
		"data plane":   s.server.Run,
		"certificates": s.certs.Run,
		"access log":   func(ctx context.Context) error { return sendAccess(ctx, access, p) },
	} {
		wg.Go(func() {
			if err := part(ctx); ctx.Err() == nil {
				cancel(fmt.Errorf("%s ended: %w", name, err))
			}
		})
	}
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// listenControl listens at the inherited socket: whoever connects learns from the
// kernel that it is this process that listens.
func listenControl() (*net.UnixListener, error) {
	if err := unix.Listen(controlFD, 4); err != nil {
		return nil, err
	}
	f := os.NewFile(controlFD, "control")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("it is a %T", l), l.Close())
	}
	return u, nil
}

// noteWriter sends each line of the log to the daemon.
type noteWriter struct{ to *control.Process }

func (w *noteWriter) Write(p []byte) (int, error) {
	if w.to != nil {
		w.to.Note(control.Note{Level: int64(slog.LevelInfo), Text: string(p)})
	}
	return len(p), nil
}

// plain leaves time and level to the daemon's log.
func plain(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
