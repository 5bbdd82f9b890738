package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// The boot source is a trusted role: whoever serves these files decides what a
// node runs, until they are one signed image under Secure Boot. It serves four
// files and nothing else.

// Handler serves the boot files in dir.
func Handler(dir string, log *slog.Logger) http.Handler {
	served := map[string]string{
		"/" + KernelFile: "application/octet-stream",
		"/" + InitrdFile: "application/octet-stream",
		"/" + GridFile:   "application/octet-stream",
		"/" + ScriptFile: "text/plain; charset=utf-8",
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		contentType, ok := served[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		f, err := os.Open(filepath.Join(dir, filepath.Base(r.URL.Path)))
		if err != nil {
			log.Error("boot file is missing", "file", r.URL.Path, "err", err)
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "no-cache") // a new image must be seen at the next boot
		log.Info("boot file served", "file", r.URL.Path, "to", r.RemoteAddr)
		http.ServeContent(w, r, r.URL.Path, info.ModTime(), f)
	})
}

// Serve is a boot source on l until ctx ends: it then finishes what it is
// sending, for at most two seconds, and returns nil.
func Serve(ctx context.Context, l net.Listener, dir string, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           Handler(dir, log),
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      10 * time.Minute, // 20 MB over a very slow line
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve boot files: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	err := srv.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-ended
	if err != nil {
		return fmt.Errorf("stop serving boot files: %w", err)
	}
	return nil
}
