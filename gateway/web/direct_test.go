package web

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// counter counts the connections to a backend, and tells of their ends.
type counter struct {
	*recorder
	dials atomic.Int32
	ended chan struct{}
}

func counted(r *recorder) *counter { return &counter{recorder: r, ended: make(chan struct{}, 100)} }

func (c *counter) Dial(ctx context.Context) (net.Conn, error) {
	c.dials.Add(1)
	conn, err := c.recorder.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return &countedConn{conn.(*net.TCPConn), c}, nil
}

type countedConn struct {
	*net.TCPConn
	c *counter
}

func (c *countedConn) Close() error {
	err := c.TCPConn.Close()
	if err == nil {
		c.c.ended <- struct{}{}
	}
	return err
}

func (c *counter) awaitEnd(t *testing.T) {
	t.Helper()
	select {
	case <-c.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection to the backend stays")
	}
}

func TestConnectionsToABackendAreUsedAgain(t *testing.T) {
	b := counted(newRecorder(t, "web", nil))
	f := newFront(t, Limits{}, b)
	c := f.client(false)
	for range 3 {
		if status, body := get(t, c, "/"); status != 200 || body != "ok" {
			t.Fatalf("%d %q", status, body)
		}
	}
	if n := b.dials.Load(); n != 1 {
		t.Errorf("%d connections for three requests", n)
	}
}

func TestConnectionsToABackendEndWhenTheyAreIdle(t *testing.T) {
	b := counted(newRecorder(t, "web", nil))
	f := newFront(t, Limits{Idle: 100 * time.Millisecond}, b)
	c := f.client(false)
	for range 2 {
		if status, body := get(t, c, "/"); status != 200 || body != "ok" {
			t.Fatalf("%d %q", status, body)
		}
		b.awaitEnd(t)
	}
}

func TestConnectionThatABackendEndedIsNotUsedAgain(t *testing.T) {
	b := counted(reply(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true))
	f := newFront(t, Limits{Tries: 1}, b)
	c := f.client(false)
	for range 50 { // the end comes before, while and after the next request is sent
		if status, body := get(t, c, "/"); status != 200 || body != "ok" {
			t.Fatalf("%d %q", status, body)
		}
	}
	if n := b.dials.Load(); n != 50 {
		t.Errorf("%d connections", n)
	}
}

func TestWhatABackendSaysUnaskedIsNobodys(t *testing.T) {
	say, said := make(chan struct{}), make(chan struct{})
	b := counted(newRecorder(t, "web", func(c net.Conn, r *http.Request, _ *bufio.Reader) bool {
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		if r.URL.Path == "/first" {
			<-say
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			close(said)
		}
		return err == nil
	}))
	f := newFront(t, Limits{}, b)
	c := f.client(false)
	resp, err := c.Get("https://" + host + "/first")
	close(say)
	if err != nil {
		t.Fatal(err)
	}
	<-said
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != 200 || string(body) != "ok" {
		t.Fatalf("%d %q %v", resp.StatusCode, body, err)
	}
	// Over loopback what was written has arrived.
	if status, body := get(t, c, "/second"); status != 200 || body != "ok" {
		t.Fatalf("%d %q", status, body)
	}
	if n := b.dials.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestRequestThatAClientGaveUpEndsAtTheBackend(t *testing.T) {
	for _, two := range []bool{false, true} {
		came := make(chan struct{}, 1)
		b := counted(newRecorder(t, "web", func(c net.Conn, r *http.Request, br *bufio.Reader) bool {
			came <- struct{}{}
			_, _ = br.ReadByte() // until the end
			return false
		}))
		f := newFront(t, Limits{}, b)
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() { <-came; cancel() }()
		if resp, err := f.client(two).Do(r); err == nil {
			resp.Body.Close()
			t.Fatal("there is an answer")
		}
		b.awaitEnd(t)
		if a := f.access(); a.Error != reasonClient {
			t.Errorf("record %+v", a)
		}
	}
}

func TestAnswersToRequestsThatMayNotBeRepeatedAreAsStrict(t *testing.T) {
	rec := reply(t, strings.Repeat("HTTP/1.1 102 Processing\r\nX: y\r\n\r\n", 1000)+"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", true)
	f := newFront(t, Limits{}, rec)
	for _, method := range []string{"POST", "DELETE"} {
		got := f.raw(method + " / HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		if strings.Contains(got, "evil") || !strings.Contains(got, "HTTP/1.1 502") {
			t.Errorf("%s: the client saw\n%.300s", method, got)
		}
	}
}
