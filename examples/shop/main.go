// Command shop is an image to publish: a page (shop web) and its database
// (shop db), which speaks enough of Redis' protocol for redis-cli.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	run := map[string]func(context.Context) error{"web": web, "db": db}
	if len(os.Args) != 2 || run[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: shop web | shop db")
		os.Exit(2)
	}
	if err := run[os.Args[1]](ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(1)
	}
}

// env is a variable of the environment, or what it is otherwise.
func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// web serves the page: in the clear on port 8080, for a gateway that ends TLS,
// and by TLS with a key of its own on port 8443.
func web(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/", page)
	cert, err := selfSigned(env("HOST", "localhost"))
	if err != nil {
		return err
	}
	plain := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	own := &http.Server{Addr: ":8443", Handler: mux, ReadHeaderTimeout: 10 * time.Second, TLSConfig: cert}
	ended := make(chan error, 2)
	go func() { ended <- plain.ListenAndServe() }()
	go func() { ended <- own.ListenAndServeTLS("", "") }()
	fmt.Println("the page is on ports 8080 and 8443")
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(err, plain.Shutdown(end), own.Shutdown(end))
}

// page shows what is in the database.
func page(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	item, err := ask(ctx, "GET", "item")
	if err == nil {
		var visits string
		if visits, err = ask(ctx, "INCR", "visits"); err == nil {
			fmt.Fprintf(w, "for sale: %s (visit %s, %s)\n", item, visits, r.Proto)
			return
		}
	}
	http.Error(w, "the database does not answer: "+err.Error(), http.StatusServiceUnavailable)
}

// ask sends one command to the database.
func ask(ctx context.Context, command ...string) (string, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", env("DATABASE", "db:6379"))
	if err != nil {
		return "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return "", err
	}
	if err := writeCommand(c, command...); err != nil {
		return "", err
	}
	return readReply(c)
}
