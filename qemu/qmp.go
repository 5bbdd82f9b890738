package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// maxQMPLine bounds one message of QEMU; the largest we ask for is a few KiB.
const maxQMPLine = 1 << 20

// Event is something that happened to the machine, e.g. "SHUTDOWN".
type Event struct {
	Name string
	Data json.RawMessage
}

// QMPError is a command that QEMU refused.
type QMPError struct {
	Command, Class, Desc string
}

func (e *QMPError) Error() string {
	return fmt.Sprintf("QMP %s: %s: %s", e.Command, e.Class, e.Desc)
}

// message is any line that QEMU sends: exactly one of the fields is set.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	ID    *uint64         `json:"id"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

// parseMessage reads one line. Lines that are none of the four known forms are
// an error: we would wait for an answer that has gone by.
func parseMessage(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("QMP sent no JSON: %w", err)
	}
	forms := 0
	for _, set := range []bool{m.Greeting != nil, m.Return != nil, m.Error != nil, m.Event != ""} {
		if set {
			forms++
		}
	}
	if forms != 1 {
		return message{}, fmt.Errorf("QMP sent an unknown message %.200q", line)
	}
	return m, nil
}

// Monitor is a QMP connection. Commands may be run from several goroutines.
type Monitor struct {
	conn   net.Conn
	events func(Event)

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan message
	err     error         // set when the connection has ended
	done    chan struct{} // closed by the reader
}

// OpenMonitor reads the greeting of the QEMU at conn, negotiates, and starts the
// reader, which lasts until Close or the connection's end. events is called by the
// reader for each event, and must not block. conn belongs to the monitor from now
// on, and is closed if this fails.
func OpenMonitor(ctx context.Context, conn net.Conn, events func(Event)) (*Monitor, error) {
	m := &Monitor{conn: conn, events: events, waiting: map[uint64]chan message{}, done: make(chan struct{})}
	go m.read()
	// Commands before the greeting are accepted: QEMU reads them after it.
	if _, err := m.Run(ctx, "qmp_capabilities", nil); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Monitor) read() {
	defer close(m.done)
	err := scanMessages(m.conn, func(msg message) {
		if msg.Event != "" {
			m.events(Event{Name: msg.Event, Data: msg.Data})
			return
		}
		if msg.ID == nil {
			return // the greeting
		}
		m.mu.Lock()
		ch := m.waiting[*msg.ID]
		delete(m.waiting, *msg.ID)
		m.mu.Unlock()
		if ch != nil {
			ch <- msg // has room for one, and is used once
		}
	})
	m.mu.Lock()
	m.err = err
	m.mu.Unlock()
}

// scanMessages calls each for every message of r until it ends, and tells why.
func scanMessages(r io.Reader, each func(message)) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxQMPLine)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == "" {
			continue
		}
		msg, err := parseMessage([]byte(line))
		if err != nil {
			return err
		}
		each(msg)
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("QMP: %w", err)
	}
	return errors.New("QMP connection closed")
}

// Done is closed when the connection has ended: QEMU did, or sent what is no QMP.
func (m *Monitor) Done() <-chan struct{} { return m.done }

// Run executes a command and returns its result. A command that QEMU refuses is a
// *QMPError.
func (m *Monitor) Run(ctx context.Context, command string, arguments any) (json.RawMessage, error) {
	ch := make(chan message, 1)
	m.mu.Lock()
	m.next++
	id := m.next
	m.waiting[id] = ch
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.waiting, id)
		m.mu.Unlock()
	}()
	req := map[string]any{"execute": command, "id": id}
	if arguments != nil {
		req["arguments"] = arguments
	}
	b, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("QMP %s: %w", command, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = m.conn.SetWriteDeadline(deadline) // a socket pair; cannot fail usefully
	}
	if _, err := m.conn.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("QMP %s: %w", command, err)
	}
	select {
	case msg := <-ch:
		if msg.Error != nil {
			return nil, &QMPError{Command: command, Class: msg.Error.Class, Desc: msg.Error.Desc}
		}
		return msg.Return, nil
	case <-m.done:
		m.mu.Lock()
		defer m.mu.Unlock()
		return nil, fmt.Errorf("QMP %s: %w", command, m.err)
	case <-ctx.Done():
		return nil, fmt.Errorf("QMP %s: %w", command, ctx.Err())
	}
}

// Close ends the connection, not the machine, and waits for the reader.
func (m *Monitor) Close() {
	_ = m.conn.Close()
	<-m.done
}
