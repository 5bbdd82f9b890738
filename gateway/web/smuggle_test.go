package web

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// smuggled is what an attacker wants the backend to take for a request of its own.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: " + host + "\r\n\r\n"

// corpus is what clients send over HTTP/1.1; each is answered with 400 (or the
// status given) and nothing of "smuggled" comes to a backend.
var corpus = []struct{ name, request, status string }{
	{"length and chunks", "POST /a HTTP/1.1\r\nHost: H\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nS", ""},
	{"chunks and length", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n0\r\n\r\nS", ""},
	{"two lengths", "POST /a HTTP/1.1\r\nHost: H\r\nContent-Length: 0\r\nContent-Length: 60\r\n\r\nS", ""},
	{"equal lengths twice", "POST /a HTTP/1.1\r\nHost: H\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n1S", ""},
	{"list of lengths", "POST /a HTTP/1.1\r\nHost: H\r\nContent-Length: 0, 60\r\n\r\nS", ""},
	{"length with a sign", "POST /a HTTP/1.1\r\nHost: H\r\nContent-Length: +0\r\n\r\nS", ""},
	{"negative length", "POST /a HTTP/1.1\r\nHost: H\r\nContent-Length: -1\r\n\r\nS", ""},
	{"hexadecimal length", "POST /a HTTP/1.1\r\nHost: H\r\nContent-Length: 0x0\r\n\r\nS", ""},
	{"length out of range", "POST /a HTTP/1.1\r\nHost: H\r\nContent-Length: 18446744073709551616\r\n\r\nS", ""},
	{"empty length", "POST /a HTTP/1.1\r\nHost: H\r\nContent-Length:\r\n\r\nS", ""},
	{"length with a blank within", "POST /a HTTP/1.1\r\nHost: H\r\nContent-Length: 1 0\r\n\r\nS", ""},
	{"two encodings", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\nS", ""},
	{"encoding twice", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nS", ""},
	{"list of encodings", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nS", ""},
	{"unknown encoding", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: xchunked\r\nContent-Length: 60\r\n\r\nS", ""},
	{"identity", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: identity\r\nContent-Length: 60\r\n\r\nS", ""},
	{"quoted encoding", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\nS", ""},
	{"empty encoding", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding:\r\nContent-Length: 60\r\n\r\nS", ""},
	{"encoding after a vertical tab", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\nS", ""},
	{"encoding with parameters", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\nS", ""},
	{"blank before the colon", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nS", ""},
	{"blank before the name", "POST /a HTTP/1.1\r\nHost: H\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nS", ""},
	{"continued line", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nS", ""},
	{"continued length", "POST /a HTTP/1.1\r\nHost: H\r\nContent-Length: 6\r\n\t0\r\n\r\nS", ""},
	{"continuation first", "POST /a HTTP/1.1\r\n Host: H\r\nContent-Length: 0\r\n\r\nS", ""},
	{"bare line feed ends a line", "POST /a HTTP/1.1\r\nHost: H\nContent-Length: 0\r\n\r\nS", ""},
	{"bare line feeds end the header", "GET /a HTTP/1.1\r\nHost: H\r\nX: y\n\nS", ""},
	{"carriage return within a value", "GET /a HTTP/1.1\r\nHost: H\r\nX: y\rTransfer-Encoding: chunked\r\n\r\nS", ""},
	{"zero byte within a value", "GET /a HTTP/1.1\r\nHost: H\r\nX: y\x00z\r\n\r\nS", ""},
	{"zero byte within a name", "GET /a HTTP/1.1\r\nHost: H\r\nX\x00: y\r\n\r\nS", ""},
	{"name without colon", "GET /a HTTP/1.1\r\nHost: H\r\nX\r\n\r\nS", ""},
	{"empty name", "GET /a HTTP/1.1\r\nHost: H\r\n: x\r\n\r\nS", ""},
	{"underscored encoding is another field", "POST /a HTTP/1.1\r\nHost: H\r\nContent-Length: 0\r\nTransfer_Encoding: chunked\r\nConnection: close\r\n\r\n", "200"},
	{"chunk extension", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\n0;x=\"\r\n\r\nS", ""},
	{"chunk extension with a line feed", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\n2;\n\r\nxx\r\n0\r\n\r\nS", ""},
	{"chunk size ends with a line feed", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\n0\n\nS", ""},
	{"chunk size with a prefix", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\nS", ""},
	{"chunk size with a blank", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\n0 \r\n\r\nS", ""},
	{"chunk size out of range", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\nS", ""},
	{"chunk longer than its size", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\nS", ""},
	{"chunk ends with a line feed", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\n0\r\n\r\nS", ""},
	{"no chunk size", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\n\r\nS", ""},
	{"length in a trailer", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\nContent-Length: 5\r\n\r\nS", ""},
	{"malformed trailer", "POST /a HTTP/1.1\r\nHost: H\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx\r\n\r\nS", ""},
	{"chunks in HTTP/1.0", "POST /a HTTP/1.0\r\nHost: H\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\nS", ""},
	{"absolute target", "GET https://other.example.org/smuggled HTTP/1.1\r\nHost: H\r\n\r\n", ""},
	{"absolute target and another host", "GET https://H/smuggled HTTP/1.1\r\nHost: other.example.org\r\n\r\n", ""},
	{"target with a blank", "GET /a b HTTP/1.1\r\nHost: H\r\n\r\nS", ""},
	{"target with a tab", "GET /a\tb HTTP/1.1\r\nHost: H\r\n\r\nS", ""},
	{"target of two hosts", "GET //other.example.org/smuggled HTTP/1.1/../ HTTP/1.1\r\nHost: H\r\n\r\n", ""},
	{"two blanks", "GET  /a HTTP/1.1\r\nHost: H\r\n\r\nS", ""},
	{"target without a path", "GET smuggled HTTP/1.1\r\nHost: H\r\n\r\nS", ""},
	{"no version", "GET /a\r\nHost: H\r\n\r\nS", ""},
	{"old version", "GET /a HTTP/0.9\r\nHost: H\r\n\r\nS", ""},
	{"unknown version", "GET /a HTTP/1.2\r\nHost: H\r\n\r\nS", ""},
	{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nS", ""},
	{"empty line first", "\r\nGET /a HTTP/1.1\r\nHost: H\r\n\r\nS", ""},
	{"two hosts", "GET /a HTTP/1.1\r\nHost: H\r\nHost: other.example.org\r\n\r\nS", ""},
	{"no host", "GET /a HTTP/1.1\r\n\r\nS", ""},
	{"another host", "GET /a HTTP/1.1\r\nHost: other.example.org\r\nConnection: close\r\n\r\n", "421"},
	{"another port", "GET /a HTTP/1.1\r\nHost: H:8443\r\nConnection: close\r\n\r\n", "421"},
	{"host with user", "GET /a HTTP/1.1\r\nHost: x@H\r\nConnection: close\r\n\r\n", ""},
	{"connect", "CONNECT /smuggled HTTP/1.1\r\nHost: H\r\nConnection: close\r\n\r\n", ""},
	{"connect to a host", "CONNECT other.example.org:443 HTTP/1.1\r\nHost: other.example.org:443\r\n\r\nS", ""},
	{"trace", "TRACE /smuggled HTTP/1.1\r\nHost: H\r\nConnection: close\r\n\r\n", ""},
	{"upgrade to HTTP/2", "GET /a HTTP/1.1\r\nHost: H\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "200"},
}

func TestNoRequestIsSmuggledThroughHTTP1(t *testing.T) {
	rec := newRecorder(t, "web", nil)
	f := newFront(t, Limits{}, rec)
	for _, c := range corpus {
		t.Run(c.name, func(t *testing.T) {
			before := len(rec.seen())
			request := strings.ReplaceAll(strings.ReplaceAll(c.request, "H\r\n", host+"\r\n"), "://H/", "://"+host+"/")
			request = strings.ReplaceAll(strings.ReplaceAll(request, ": H:", ": "+host+":"), "@H", "@"+host)
			if strings.HasSuffix(request, "S") {
				request = strings.TrimSuffix(request, "S") + smuggled
			}
			want := "400"
			if c.status != "" {
				want = c.status
			}
			got := f.raw(request)
			if !strings.HasPrefix(got, "HTTP/1.1 "+want) {
				t.Errorf("answered, not with %s:\n%s", want, got)
			}
			if n := strings.Count(got, "HTTP/1.1 "); n != 1 {
				t.Errorf("%d answers to one request:\n%s", n, got)
			}
			seen := rec.seen()[before:]
			if strings.Contains(seen, "smuggled") || strings.Contains(strings.ToLower(seen), "h2c") {
				t.Errorf("the backend saw\n%s", seen)
			}
			for _, v := range fieldOf(seen, "Host") {
				if v != host {
					t.Errorf("the backend saw host %q", v)
				}
			}
		})
	}
}

// TestPipelinedRequestsAreWhatTheyAre shows that the guard does not only refuse.
func TestPipelinedRequestsAreWhatTheyAre(t *testing.T) {
	rec := newRecorder(t, "web", nil)
	f := newFront(t, Limits{}, rec)
	got := f.raw("POST /1 HTTP/1.1\r\nHost: " + host + "\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\n" +
		"POST /2 HTTP/1.1\r\nHost: " + host + ":443\r\ncontent-length:\t4 \r\n\r\nwxyz" +
		"OPTIONS * HTTP/1.1\r\nHost: " + host + "\r\n\r\n" +
		"GET /3?a=b;c=%20&d HTTP/1.1\r\nHost: SHOP.example.ORG\r\nConnection: close\r\n\r\n")
	if n := strings.Count(got, "HTTP/1.1 200 OK"); n != 4 {
		t.Errorf("%d answers, want 4:\n%s", n, got)
	}
	mustContain(t, "what the backend saw", rec.seen(), "POST /1 HTTP/1.1\r\n", "POST /2 HTTP/1.1\r\n", "\r\n\r\nwxyz", "GET /3?a=b;c=%20&d HTTP/1.1\r\n")
}

func TestBadChunkInTheMiddleNeverEndsTheBody(t *testing.T) {
	ended := make(chan error, 1)
	rec := newRecorder(t, "web", func(c net.Conn, r *http.Request, _ *bufio.Reader) bool {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
		return false
	})
	f := newFront(t, Limits{}, rec)
	c := f.dial("http/1.1")
	_, _ = io.WriteString(c, "POST /a HTTP/1.1\r\nHost: "+host+"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	_, _ = io.WriteString(c, "3;x\r\nabc\r\n0\r\n\r\n"+smuggled)
	got, _ := io.ReadAll(c)
	if err := <-ended; err == nil {
		t.Error("the backend saw a complete body")
	}
	if !strings.HasPrefix(string(got), "HTTP/1.1 400 ") || strings.Contains(rec.seen(), "smuggled") {
		t.Errorf("client saw\n%s\nbackend saw\n%s", got, rec.seen())
	}
}

func FuzzGuardAgreesWithNetHTTP(f *testing.F) {
	for _, c := range corpus {
		f.Add([]byte(strings.ReplaceAll(c.request, "H\r\n", host+"\r\n") + smuggled))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// What the guard lets through as whole messages, net/http reads as the same
		// number of messages, to the last byte.
		g := framer{max: 32 << 10}
		messages, end := 0, 0
		for i := range b {
			n, err := g.take(b[i : i+1])
			if err != nil || n != 1 {
				break
			}
			if g.state == inRequest && len(g.line) == 0 {
				messages++
				end = i + 1
			}
		}
		br := bufio.NewReaderSize(strings.NewReader(string(b[:end])), 64<<10)
		for i := range messages {
			r, err := http.ReadRequest(br)
			if err != nil {
				return // net/http is stricter here: it answers 400 and ends the connection
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				t.Fatalf("message %d of %d: body: %v", i, messages, err)
			}
		}
		if rest, _ := io.ReadAll(br); len(rest) > 0 {
			t.Fatalf("net/http sees more after %d messages: %q", messages, rest)
		}
		// And in one piece it says the same.
		whole := framer{max: 32 << 10}
		if n, err := whole.take(b[:end]); err != nil || n != end {
			t.Fatalf("in one piece %d of %d bytes: %v", n, end, err)
		}
	})
}
