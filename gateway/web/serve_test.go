package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRequestReachesTheBackendWithWhoAsked(t *testing.T) {
	for _, two := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %v", two), func(t *testing.T) {
			rec := newRecorder(t, "web", nil)
			f := newFront(t, Limits{}, rec)
			r, _ := http.NewRequest("POST", "https://"+host+"/a%2Fb?x=%20&y;z", strings.NewReader("hello"))
			for _, name := range []string{"X-Forwarded-For", "X_Forwarded_For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "X-Real-Ip", "Proxy"} {
				r.Header[name] = []string{"evil"}
			}
			r.Header.Set("X-Mine", "kept")
			resp, err := f.client(two).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || string(b) != "ok" {
				t.Errorf("answer %d %q", resp.StatusCode, b)
			}
			mustContain(t, "what the backend saw", rec.seen(), "POST /a%2Fb?x=%20&y;z HTTP/1.1\r\n", "Host: "+host+"\r\n", "X-Forwarded-For: 127.0.0.1\r\n",
				"X-Forwarded-Proto: https\r\n", "X-Forwarded-Host: "+host+"\r\n", "X-Mine: kept\r\n", "hello")
			if strings.Contains(rec.seen(), "evil") {
				t.Errorf("the backend saw\n%s", rec.seen())
			}
			a := f.access()
			if a.Publication != "contract" || a.Host != host || a.Method != "POST" || a.Path != "/a%2Fb" || a.Status != 200 || a.In != 5 || a.Out != 2 ||
				a.Backend != "web" || a.Attempts != 1 || a.Error != "" || !a.Client.IsValid() || (a.Protocol == "HTTP/2.0") != two {
				t.Errorf("record %+v", a)
			}
		})
	}
}

func TestUnannouncedHopsDoNotTakeOurFieldsAway(t *testing.T) {
	rec := newRecorder(t, "web", nil)
	f := newFront(t, Limits{}, rec)
	f.raw("GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close, X-Forwarded-For, X-Forwarded-Proto, Host\r\nTE: gzip\r\n\r\n")
	mustContain(t, "what the backend saw", rec.seen(), "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https", "Host: "+host)
	if strings.Contains(rec.seen(), "gzip") {
		t.Errorf("the backend saw\n%s", rec.seen())
	}
}

func TestAnswerStreamsAtOnce(t *testing.T) {
	for _, head := range []string{"Transfer-Encoding: chunked\r\n\r\n", "Content-Length: 6\r\n\r\n"} {
		next := make(chan struct{})
		rec := newRecorder(t, "web", func(c net.Conn, r *http.Request, _ *bufio.Reader) bool {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head)
			for _, part := range []string{"one", "two"} {
				if strings.HasPrefix(head, "T") {
					part = "3\r\n" + part + "\r\n"
				}
				_, _ = io.WriteString(c, part)
				<-next
			}
			if strings.HasPrefix(head, "T") {
				_, _ = io.WriteString(c, "0\r\n\r\n")
			}
			return true
		})
		f := newFront(t, Limits{Window: time.Second, Idle: 10 * time.Second}, rec)
		for _, two := range []bool{false, true} {
			resp, err := f.client(two).Get("https://" + host + "/")
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 3)
			for _, part := range []string{"one", "two"} {
				if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != part {
					t.Errorf("got %q, %v", b, err)
				}
				next <- struct{}{} // only now does the backend go on
			}
			resp.Body.Close()
		}
	}
}

func TestEventStreamIsNotSlow(t *testing.T) {
	rec := newRecorder(t, "web", func(c net.Conn, r *http.Request, _ *bufio.Reader) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		for range 3 {
			<-time.After(150 * time.Millisecond) // silent for longer than the window
			_, _ = io.WriteString(c, "1\r\nx\r\n")
		}
		_, _ = io.WriteString(c, "0\r\n\r\n")
		return true
	})
	f := newFront(t, Limits{Window: 50 * time.Millisecond}, rec)
	for _, two := range []bool{false, true} {
		if status, body := get(t, f.client(two), "/"); status != 200 || body != "xxx" {
			t.Errorf("HTTP/2 %v: %d %q", two, status, body)
		}
	}
}

func TestTrailersGoBothWays(t *testing.T) {
	for _, two := range []bool{false, true} {
		rec := newRecorder(t, "web", func(c net.Conn, r *http.Request, _ *bufio.Reader) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: %s%s\r\n\r\n", r.Trailer.Get("X-Sent"), r.Trailer.Get("X-Forwarded-For"))
			return err == nil
		})
		f := newFront(t, Limits{}, rec)
		r, _ := http.NewRequest("POST", "https://"+host+"/", io.MultiReader(strings.NewReader("body")))
		r.Trailer = http.Header{"X-Sent": {"seven"}, "X-Forwarded-For": {"evil"}, "X-Real-Ip": {"evil"}}
		resp, err := f.client(two).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if got := resp.Trailer.Get("X-Sum"); got != "seven" {
			t.Errorf("HTTP/2 %v: trailer %q", two, got)
		}
		if strings.Contains(rec.seen(), "evil") {
			t.Errorf("the backend saw\n%s", rec.seen())
		}
	}
}

func TestWebSocketIsPassedOnUntilItIsSilent(t *testing.T) {
	rec := newRecorder(t, "web", func(c net.Conn, r *http.Request, br *bufio.Reader) bool {
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			return false
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
		_, _ = io.Copy(c, br) // an echo
		return false
	})
	f := newFront(t, Limits{Idle: 300 * time.Millisecond}, rec)
	c := f.dial("http/1.1")
	_, _ = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: "+host+"\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%+v, %v", resp, err)
	}
	frames := "\x81\x05\x00\n\r\x00\xff" + smuggled
	_, _ = io.WriteString(c, frames)
	b := make([]byte, 5+len(frames))
	if _, err := io.ReadFull(br, b); err != nil || string(b) != "hello"+frames {
		t.Errorf("got %q, %v", b, err)
	}
	if rest, err := io.ReadAll(br); err != nil && !errors.Is(err, syscall.ECONNRESET) || len(rest) > 0 {
		t.Errorf("after silence %q, %v", rest, err)
	}
	if a := f.access(); a.Status != 101 || a.Path != "/ws" {
		t.Errorf("record %+v", a)
	}
}

func TestShutdownEndsUpgradedConnections(t *testing.T) {
	rec := newRecorder(t, "web", func(c net.Conn, r *http.Request, br *bufio.Reader) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(c, br)
		return false
	})
	f := newFront(t, Limits{}, rec)
	c := f.dial("http/1.1")
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("%+v, %v", resp, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := f.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown: %v", err)
	}
	if _, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("connection: %v", err)
	}
}

func TestRequestGoesToAnotherBackendWhenOneFails(t *testing.T) {
	dead := &dialer{name: "dead", addr: "127.0.0.1:1"}
	cut := newRecorder(t, "cut", func(c net.Conn, r *http.Request, _ *bufio.Reader) bool { return false }) // takes it and hangs up
	good := newRecorder(t, "good", nil)
	good.load = 5 // the others are preferred
	f := newFront(t, Limits{}, dead, cut, good)
	c := f.client(false)
	for range 10 {
		if status, body := get(t, c, "/"); status != 200 || body != "ok" {
			t.Fatalf("%d %q", status, body)
		}
		if a := f.access(); a.Backend != "good" || a.Attempts != 3 {
			t.Errorf("record %+v", a)
		}
	}
	// What may have been done is not done twice.
	for range 5 {
		resp, err := c.Post("https://"+host+"/", "text/plain", strings.NewReader("pay"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if a := f.access(); a.Backend != "cut" || resp.StatusCode != http.StatusBadGateway {
			t.Errorf("status %d, record %+v", resp.StatusCode, a)
		}
	}
	if strings.Contains(good.seen(), "pay") || strings.Count(cut.seen(), "POST") != 5 {
		t.Errorf("payments: cut saw\n%s\ngood saw\n%s", cut.seen(), good.seen())
	}
	// What was never sent may, body and all.
	f.route(host, dead, good)
	resp, err := c.Post("https://"+host+"/", "text/plain", strings.NewReader("pay"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if a := f.access(); resp.StatusCode != 200 || a.Backend != "good" || !strings.Contains(good.seen(), "pay") {
		t.Errorf("status %d, record %+v", resp.StatusCode, a)
	}
}

func TestNoBackendIsSaidSo(t *testing.T) {
	f := newFront(t, Limits{}, &dialer{name: "dead", addr: "127.0.0.1:1"})
	if status, body := get(t, f.client(false), "/"); status != http.StatusServiceUnavailable || strings.Contains(body, "127.") {
		t.Errorf("%d %q", status, body)
	}
	if a := f.access(); a.Error != reasonBackend || a.Attempts != 1 {
		t.Errorf("record %+v", a)
	}
	f.route(host)
	if status, _ := get(t, f.client(false), "/"); status != http.StatusServiceUnavailable {
		t.Errorf("without any: %d", status)
	}
}

func TestLeastLoadedBackendIsChosen(t *testing.T) {
	hold := make(chan struct{})
	busy := newRecorder(t, "busy", func(c net.Conn, r *http.Request, _ *bufio.Reader) bool {
		<-hold
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		return err == nil
	})
	free := newRecorder(t, "free", nil)
	f := newFront(t, Limits{}, busy)
	c := f.client(true)
	done := make(chan struct{})
	go func() { defer close(done); get(t, c, "/hold") }()
	for deadline := time.Now().Add(10 * time.Second); f.pools.load(busy) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the request does not arrive")
		}
		time.Sleep(time.Millisecond)
	}
	f.route(host, busy, free)
	for range 10 {
		get(t, c, "/")
		if a := f.access(); a.Backend != "free" {
			t.Errorf("record %+v", a)
		}
	}
	close(hold)
	<-done
}

func TestRouteThatWentIsNotServedOnOldConnections(t *testing.T) {
	f := newFront(t, Limits{}, newRecorder(t, "web", nil))
	for _, two := range []bool{false, true} {
		c := f.client(two)
		if status, _ := get(t, c, "/"); status != 200 {
			t.Fatalf("status %d", status)
		}
		f.routes.mu.Lock()
		route := f.routes.routes[host]
		delete(f.routes.routes, host)
		f.routes.mu.Unlock()
		if status, _ := get(t, c, "/"); status != http.StatusMisdirectedRequest {
			t.Errorf("status %d", status)
		}
		f.routes.mu.Lock()
		f.routes.routes[host] = route
		f.routes.mu.Unlock()
	}
}

func TestPlainPortRedirectsOrAnswersAuthorities(t *testing.T) {
	f := newFront(t, Limits{})
	f.challenges[host+"/.well-known/acme-challenge/token"] = "token.thumb"
	for _, c := range []struct{ request, status, location, body string }{
		{"GET /a?b=c HTTP/1.1\r\nHost: shop.example.org\r\n\r\n", "308", "https://shop.example.org/a?b=c", ""},
		{"POST / HTTP/1.1\r\nHost: OTHER.example.org:80\r\nContent-Length: 1\r\n\r\nx", "308", "https://other.example.org/", ""},
		{"GET //evil.example HTTP/1.1\r\nHost: shop.example.org\r\n\r\n", "308", "https://shop.example.org//evil.example", ""},
		{"GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: shop.example.org\r\n\r\n", "200", "", "token.thumb"},
		{"GET / HTTP/1.1\r\nHost: unknown.example\r\n\r\n", "404", "", ""},
		{"GET / HTTP/1.1\r\nHost: evil.example/shop.example.org\r\n\r\n", "400", "", ""},
		{"GET http://evil.example/ HTTP/1.1\r\nHost: shop.example.org\r\n\r\n", "400", "", ""},
		{"GET /\r\nSet-Cookie: a HTTP/1.1\r\nHost: shop.example.org\r\n\r\n", "400", "", ""},
	} {
		conn, err := net.Dial("tcp", f.plain.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, c.request)
		b, _ := io.ReadAll(conn)
		conn.Close()
		got := string(b)
		if !strings.HasPrefix(got, "HTTP/1.1 "+c.status) || !strings.HasSuffix(got, c.body) || strings.Count(got, "HTTP/1.1") != 1 {
			t.Errorf("%q: answered\n%s", c.request, got)
		}
		if v := fieldOf(got, "Location"); c.location != "" && (len(v) != 1 || v[0] != c.location) {
			t.Errorf("%q: location %q", c.request, v)
		}
	}
}
