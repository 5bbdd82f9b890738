package web

import (
	"bufio"
	"net"
	"net/http"
)

// writer counts and paces a response on its way to the client.
type writer struct {
	http.ResponseWriter
	server  *Server
	control *http.ResponseController
	pace    *pace
	conn    *connection
	status  int
	n       int64
	taken   net.Conn // hijacked
}

func (w *writer) WriteHeader(status int) {
	if w.status < 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(p []byte) (int, error) {
	if w.status < 200 {
		w.status = http.StatusOK
	}
	w.pace.begin()
	n, err := w.ResponseWriter.Write(p)
	w.pace.end(n)
	w.n += int64(n)
	return n, err
}

// FlushError is what http.ResponseController looks for.
func (w *writer) FlushError() error {
	w.pace.begin()
	err := w.control.Flush()
	w.pace.end(0)
	return err
}

// Hijack is called once a backend has agreed to another protocol, and before the
// client learns it.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := w.control.Hijack()
	if err != nil {
		return nil, nil, err
	}
	if !w.server.enter(w.server.upgraded, c) {
		c.Close()
		return nil, nil, http.ErrServerClosed
	}
	w.taken, w.status = c, http.StatusSwitchingProtocols
	if w.conn.guard != nil {
		w.conn.guard.unguard()
	}
	return c, rw, nil
}
