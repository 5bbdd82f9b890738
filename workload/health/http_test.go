package health

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// server answers with what its Reader has, and keeps the question.
type server struct {
	io.Reader
	asked bytes.Buffer
}

func (s *server) Write(b []byte) (int, error) { return s.asked.Write(b) }

func TestStatusLineTruthTable(t *testing.T) {
	for answer, healthy := range map[string]bool{
		"HTTP/1.1 200 OK\r\n\r\n": true, "HTTP/1.0 399 X\n": true, "HTTP/1.1 200\r\n": true, "HTTP/1.1 199 X\n": false, "HTTP/1.1 400 X\n": false,
		"HTTP/1.1 500 X\n": false, "": false, "\n": false, "HTTP/1.1\n": false, "HTTP/1.1 2000 X\n": false, "HTTP/1.1 20 X\n": false, "HTTP/1.1 -20 X\n": false,
		"HTTP/1.1 abc X\n": false, "SSH-2.0-x 200 \n": false, "HTTP/2 200\n": false, "HTTP/1.1 200 OK": false,
		"HTTP/1.1 200" + strings.Repeat(" ", 2*maxLine) + "\n": false,
	} {
		s := &server{Reader: strings.NewReader(answer)}
		if err := HTTP(s, "localhost:80", "/healthz?a=b"); (err == nil) != healthy {
			t.Errorf("%.40q: %v", answer, err)
		}
		if got := s.asked.String(); !strings.HasPrefix(got, "GET /healthz?a=b HTTP/1.1\r\nHost: localhost:80\r\n") || !strings.HasSuffix(got, "\r\n\r\n") {
			t.Errorf("asked %q", got)
		}
	}
	if err := HTTP(&server{Reader: endless{}}, "localhost", "/"); err == nil {
		t.Error("an answer without a line is healthy")
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

func FuzzHTTP(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		if HTTP(&server{Reader: bytes.NewReader(answer)}, "localhost", "/") == nil && !bytes.HasPrefix(answer, []byte("HTTP/1.")) {
			t.Error("no HTTP, and healthy")
		}
	})
}
