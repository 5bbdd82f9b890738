package web

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// injected is header lists that HTTP/2 can carry and HTTP/1.1 can't, or not in the
// same meaning.
var injected = []struct {
	name   string
	fields []string // name, value, …; added to a plain GET unless it begins with its own pseudo fields
	ok     bool     // it goes on, without what is wrong with it
}{
	{"line end in a value", []string{"x", "y\r\nTransfer-Encoding: chunked"}, false},
	{"line feed in a value", []string{"x", "y\nsmuggled: 1"}, false},
	{"zero byte in a value", []string{"x", "y\x00smuggled"}, false},
	{"line end in a name", []string{"x\r\nsmuggled", "y"}, false},
	{"colon in a name", []string{"smuggled: x", "y"}, false},
	{"blank in a name", []string{"smuggled x", "y"}, false},
	{"upper case name", []string{"Smuggled", "y"}, false},
	{"connection", []string{"connection", "smuggled"}, false},
	{"transfer-encoding", []string{"transfer-encoding", "chunked"}, false},
	{"upgrade", []string{"upgrade", "smuggled"}, false},
	{"keep-alive", []string{"keep-alive", "smuggled"}, false},
	{"proxy-connection", []string{"proxy-connection", "smuggled"}, false},
	{"te", []string{"te", "smuggled"}, false},
	{"blank in the path", []string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/ HTTP/1.1 smuggled"}, false},
	{"blank in the query", []string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/?x HTTP/1.1 smuggled"}, false},
	{"line end in the path", []string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/ HTTP/1.1\r\nsmuggled: 1"}, false},
	{"absolute path", []string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "https://other.example.org/smuggled"}, false},
	{"no slash", []string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "smuggled"}, false},
	{"fragment", []string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/#smuggled"}, false},
	{"empty path", []string{":method", "GET", ":scheme", "https", ":authority", host, ":path", ""}, false},
	{"line end in the method", []string{":method", "GET /smuggled HTTP/1.1\r\nx: y", ":scheme", "https", ":authority", host, ":path", "/"}, false},
	{"blank in the method", []string{":method", "GET /smuggled", ":scheme", "https", ":authority", host, ":path", "/"}, false},
	{"connect", []string{":method", "CONNECT", ":authority", "smuggled:443"}, false},
	{"trace", []string{":method", "TRACE", ":scheme", "https", ":authority", host, ":path", "/smuggled"}, false},
	{"another authority", []string{":method", "GET", ":scheme", "https", ":authority", "other.example.org", ":path", "/smuggled"}, false},
	{"line end in the authority", []string{":method", "GET", ":scheme", "https", ":authority", host + "\r\nsmuggled: 1", ":path", "/"}, false},
	{"no authority, another host", []string{":method", "GET", ":scheme", "https", ":path", "/smuggled", "host", "other.example.org"}, false},
	{"authority and another host", []string{"host", "smuggled"}, false},
	{"pseudo field twice", []string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/", ":path", "/smuggled"}, false},
	{"pseudo field after others", []string{":method", "GET", ":scheme", "https", ":authority", host, "x", "y", ":path", "/smuggled"}, false},
	{"unknown pseudo field", []string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/", ":smuggled", "x"}, false},
	{"length of a body that is not there", []string{"content-length", "60"}, false},
	{"two lengths", []string{"content-length", "0", "content-length", "60"}, false},
	{"malformed length", []string{"content-length", "+0"}, false},
	{"underscored forwarding", []string{"x_forwarded_for", "smuggled"}, true},
	{"forwarding", []string{"x-forwarded-for", "smuggled"}, true},
	{"proxy", []string{"proxy", "smuggled"}, true},
}

func TestNoRequestIsSmuggledThroughHTTP2(t *testing.T) {
	rec := newRecorder(t, "web", nil)
	f := newFront(t, Limits{}, rec)
	for _, c := range injected {
		t.Run(c.name, func(t *testing.T) {
			before := len(rec.seen())
			fields := c.fields
			if fields[0] != ":method" {
				fields = append([]string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/"}, fields...)
			}
			status, err := f.frames(fields)
			if c.ok != (status == "200") {
				t.Errorf("answered with %q, %v", status, err)
			}
			seen := rec.seen()[before:]
			if strings.Contains(strings.ToLower(seen), "smuggled") || strings.Contains(strings.ToLower(seen), "other.example") {
				t.Errorf("the backend saw\n%s", seen)
			}
			if n := strings.Count(seen, " HTTP/1.1\r\n"); c.ok && n != 1 || !c.ok && n > 1 {
				t.Errorf("the backend saw %d requests:\n%s", n, seen)
			}
		})
	}
}

// frames sends one request of exactly these fields, and returns the answer's
// status, or "reset" or "closed".
func (f *front) frames(fields []string) (string, error) {
	f.t.Helper()
	c := f.dial("h2")
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_, _ = io.WriteString(c, http2.ClientPreface)
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := fr.WriteSettings(); err != nil {
		return "", err
	}
	if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		return "", err
	}
	for {
		frame, err := fr.ReadFrame()
		if err != nil {
			return "closed", err
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status"), nil
		case *http2.RSTStreamFrame:
			return "reset", fmt.Errorf("%v", frame.ErrCode)
		case *http2.GoAwayFrame:
			return "closed", fmt.Errorf("%v", frame.ErrCode)
		}
	}
}

func TestEndlessHeaderOfHTTP2IsGivenUp(t *testing.T) {
	f := newFront(t, Limits{}, newRecorder(t, "web", nil))
	c := f.dial("h2")
	_, _ = io.WriteString(c, http2.ClientPreface)
	fr := http2.NewFramer(c, c)
	_ = fr.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.SetMaxDynamicTableSize(0)
	for range 100 {
		_ = enc.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 100)})
	}
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes()})
	go func() {
		for range 10000 { // 100 MB, if it were read
			if fr.WriteContinuation(1, false, block.Bytes()) != nil {
				return
			}
		}
	}()
	for {
		if _, err := fr.ReadFrame(); err != nil {
			return // a timeout of the connection's deadline would fail below
		}
	}
}
