package web

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// hostile is what a backend answers; the client gets status and nothing of "evil".
var hostile = []struct{ name, answer, status string }{
	{"two answers", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX: evil\r\nContent-Length: 4\r\n\r\nevil", "200"},
	{"two answers without a body", "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", "204"},
	{"body of an answer that has none", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil", "304"},
	{"flood of informational answers", strings.Repeat("HTTP/1.1 102 Processing\r\nX: y\r\n\r\n", 1000) + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", "502"},
	{"switch that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: Upgrade\r\n\r\nevil", "502"},
	{"one huge field", "HTTP/1.1 200 OK\r\nX: evil" + strings.Repeat("x", 200<<10) + "\r\nContent-Length: 0\r\n\r\n", "502"},
	{"many fields", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: evil\r\n", 20<<10) + "\r\n", "502"},
	{"huge status line", "HTTP/1.1 200 evil" + strings.Repeat("x", 200<<10) + "\r\n\r\n", "502"},
	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 4\r\n\r\nevil", "502"},
	{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nevil", "502"},
	{"unknown encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: evil\r\n\r\nevil", "502"},
	{"not HTTP", "SSH-2.0-evil\r\n", "502"},
	{"no status", "HTTP/1.1 evil\r\n\r\n", "502"},
	{"continued line", "HTTP/1.1 200 OK\r\n X: evil\r\n\r\n", "502"},
	{"zero byte in a value", "HTTP/1.1 200 OK\r\nX: evil\x00\r\n\r\n", "502"},
}

func TestHostileAnswersDoNotReachTheClient(t *testing.T) {
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			rec := reply(t, c.answer, c.status == "502")
			f := newFront(t, Limits{}, rec)
			got := f.raw("GET /1 HTTP/1.1\r\nHost: " + host + "\r\n\r\nGET /2 HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
			if n := strings.Count(got, "HTTP/1.1 102"); n > 2*(maxInformational+1) {
				t.Errorf("%d informational answers", n)
			}
			got = strings.ReplaceAll(got, "HTTP/1.1 102 Processing\r\nX: y\r\n\r\n", "")
			if !strings.HasPrefix(got, "HTTP/1.1 "+c.status) {
				t.Errorf("answered, not with %s:\n%.600s", c.status, got)
			}
			if strings.Contains(got, "evil") {
				t.Errorf("the client saw\n%.600s", got)
			}
			// The next request has an answer of its own, as good as the first.
			if n := strings.Count(got, "HTTP/1.1 "+c.status); n != 2 {
				t.Errorf("%d answers to two requests:\n%.600s", n, got)
			}
		})
	}
}

func TestBodyThatBreaksOffIsSeenToBreakOff(t *testing.T) {
	for name, answer := range map[string]string{
		"short of its length": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok",
		"bad chunk":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\nevil\r\n0\r\n\r\n",
		"long chunk":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokevil\r\n0\r\n\r\n",
		"no last chunk":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFront(t, Limits{}, reply(t, answer, true))
			for _, two := range []bool{false, true} {
				resp, err := f.client(two).Get("https://" + host + "/")
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err == nil || strings.Contains(string(b), "evil") {
					t.Errorf("HTTP/2 %v: body %q, error %v", two, b, err)
				}
				if a := f.access(); a.Error == "" {
					t.Errorf("record %+v", a)
				}
			}
		})
	}
}

func TestSilentBackendIsGivenUp(t *testing.T) {
	release := make(chan struct{})
	rec := newRecorder(t, "web", func(net.Conn, *http.Request, *bufio.Reader) bool { <-release; return false })
	defer close(release)
	f := newFront(t, Limits{ResponseTime: 100 * time.Millisecond}, rec)
	if status, _ := get(t, f.client(false), "/"); status != http.StatusGatewayTimeout {
		t.Errorf("status %d", status)
	}
	if a := f.access(); a.Error != reasonSlow || a.Attempts != 1 || a.Backend != "web" {
		t.Errorf("record %+v", a)
	}
}

func TestClientThatDoesNotReadIsGivenUp(t *testing.T) {
	over := make(chan struct{}, 2)
	rec := newRecorder(t, "web", func(c net.Conn, r *http.Request, _ *bufio.Reader) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		b := make([]byte, 64<<10)
		for {
			if _, err := c.Write(b); err != nil {
				over <- struct{}{}
				return false
			}
		}
	})
	f := newFront(t, Limits{Window: 300 * time.Millisecond}, rec)
	c := f.dial("http/1.1")
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
	resp, err := f.client(true).Get("https://" + host + "/") // and never read
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for range 2 {
		if a := f.access(); a.Error == "" {
			t.Errorf("record %+v", a)
		}
		select {
		case <-over:
		case <-time.After(10 * time.Second):
			t.Fatal("the backend's connection stays")
		}
	}
}

func TestClientThatTricklesItsBodyIsGivenUp(t *testing.T) {
	rec := newRecorder(t, "web", nil)
	f := newFront(t, Limits{Window: 300 * time.Millisecond, Rate: 1 << 10}, rec)
	c := f.dial("http/1.1")
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: "+host+"\r\nContent-Length: 1000000\r\n\r\n")
	stop := make(chan struct{})
	t.Cleanup(func() { <-stop })
	go func() {
		defer close(stop)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := c.Write([]byte("x")); err != nil { // never silent, and 50 bytes a second
				return
			}
		}
	}()
	a := f.access()
	if a.Error != reasonClient || a.In == 0 || a.In > 1000 {
		t.Errorf("record %+v", a)
	}
	c.Close()
}

func TestSlowHeaderIsGivenUp(t *testing.T) {
	f := newFront(t, Limits{HeaderTime: 100 * time.Millisecond, HandshakeTime: 100 * time.Millisecond}, newRecorder(t, "web", nil))
	c := f.dial("http/1.1")
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: ")
	if b, err := io.ReadAll(c); err != nil || strings.Contains(string(b), "200") {
		t.Errorf("%q, %v", b, err)
	}
	raw, err := net.Dial("tcp", f.tls.Addr().String()) // no handshake at all
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(raw); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
}

func TestHugeRequestHeaderIsRefused(t *testing.T) {
	rec := newRecorder(t, "web", nil)
	f := newFront(t, Limits{}, rec)
	for name, fields := range map[string]string{
		"one field": "X: " + strings.Repeat("x", 40<<10) + "\r\n", "many fields": strings.Repeat("X: y\r\n", 10<<10),
	} {
		got := f.raw("GET / HTTP/1.1\r\nHost: " + host + "\r\n" + fields + "\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 431 ") && !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("%s: %.100q", name, got)
		}
	}
	r, _ := http.NewRequest("GET", "https://"+host+"/", nil)
	r.Header.Set("X", strings.Repeat("x", 40<<10))
	resp, err := f.client(true).Do(r)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("HTTP/2: status %d", resp.StatusCode)
		}
	}
	if rec.seen() != "" {
		t.Errorf("the backend saw %.200q", rec.seen())
	}
}
