package web

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// BenchmarkTerminatedRequest is one small request on a connection that stands, over
// loopback, with client and backend in the same process.
func BenchmarkTerminatedRequest(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 1024)
	backend := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })}
	done := make(chan struct{})
	go func() { defer close(done); _ = backend.Serve(l) }()
	defer func() { backend.Close(); <-done }()
	for _, two := range []bool{false, true} {
		b.Run(fmt.Sprintf("HTTP2=%v", two), func(b *testing.B) {
			f := newFront(b, Limits{}, &dialer{name: "web", addr: l.Addr().String()})
			go func() { // nobody reads the records
				for range f.logged {
				}
			}()
			defer close(f.logged)
			c := f.client(two)
			c.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					resp, err := c.Get("https://" + host + "/")
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		})
	}
}
