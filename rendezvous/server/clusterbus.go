package server

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	busserver "github.com/zero-os/zos/bus/server"
	"github.com/zero-os/zos/rendezvous/wire"
)

// Bounds of what waits for another server's bus.
const (
	peerPrefix      = "peer." // questions of nodes, which ask again until they are answered
	busWaiting      = 8192
	busWaitingBytes = 16 << 20
	busInboxes      = 1 << 16 // remembered, twice
	busHead         = 2 + 2   // lengths of subject and reply
	maxBusSubject   = 256
	maxBusFrame     = busHead + 2*maxBusSubject + busserver.MaxPayload
	inboxPrefix     = "inbox."
)

// busLinks passes messages of the bus between servers. Every message that a
// client publishes goes to all of them, but for two sorts, which are the bulk. A
// question of a node that somebody here listens to passes on only when it is asked
// again: who is asked has links to several servers, and would get it once by each.
// Answers go only to the servers from which the question came, and to none if the
// asker is here.
//
// NATS can join servers by itself. This is used instead because servers are of
// different operators: here another server can do what any client can and
// nothing else, one port is enough, and each pair of servers proves its keys to
// each other.
type busLinks struct {
	server *Server

	mu      sync.Mutex
	joined  *busserver.Joined // nil until there is another server
	links   []*busLink
	inboxes [2]map[string]*inbox // younger and older
}

// inbox is where the answers to one question go.
type inbox struct {
	asked bool      // by a client of this server
	here  time.Time // when it last was; zero: not, or long before it came from elsewhere
	pins  []string  // servers where one asked
}

// askedHere is how long a question that was asked here counts, when it then
// comes from other servers too: an asker with several links sends it over all of
// them at once, and one whose link here broke sends it again over the others.
const askedHere = 2 * time.Second

// busLink is one connection that carries messages.
type busLink struct {
	pin   string
	out   chan []byte
	bytes atomic.Int64 // in out
}

func newBusLinks(s *Server) *busLinks {
	return &busLinks{server: s, inboxes: [2]map[string]*inbox{{}, {}}}
}

// start begins to listen to this server's bus; again it does nothing.
func (b *busLinks) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.joined != nil {
		return nil
	}
	j, err := b.server.bus.Join(b.publish)
	if err != nil {
		return err
	}
	b.joined = j
	b.server.wg.Go(func() { b.again(j) })
	return nil
}

// again joins the bus anew when the connection to it broke.
func (b *busLinks) again(j *busserver.Joined) {
	for {
		select {
		case <-b.server.ctx.Done():
			return
		case <-j.Done():
		}
		if b.server.ctx.Err() != nil {
			return
		}
		b.server.log.Warn("rendezvous lost its connection to its own bus")
		for {
			next, err := b.server.bus.Join(b.publish)
			if err == nil {
				b.mu.Lock()
				b.joined, j = next, next
				b.mu.Unlock()
				break
			}
			select {
			case <-b.server.ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
	}
}

func (b *busLinks) stop() {
	b.mu.Lock()
	j := b.joined
	b.mu.Unlock()
	if j != nil {
		j.Close()
	}
}

// publish sends what a client of this server said to the servers that want it.
func (b *busLinks) publish(m busserver.Message) {
	if len(m.Subject) > maxBusSubject || len(m.Reply) > maxBusSubject {
		return // nobody's; the other server would take it for a fault
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	answer := strings.HasPrefix(m.Subject, inboxPrefix)
	var to *inbox
	if answer {
		if to = b.inbox(m.Subject, false); to == nil || !to.here.IsZero() {
			return
		}
	} else if m.Reply != "" {
		in := b.inbox(m.Reply, true)
		again := in.asked
		in.asked, in.here = true, time.Now()
		if !again && strings.HasPrefix(m.Subject, peerPrefix) && b.joined != nil && b.joined.Wanted(m.Subject) {
			return
		}
	}
	var frame []byte
	var done []string
	for _, l := range b.links {
		if answer && !slices.Contains(to.pins, l.pin) || slices.Contains(done, l.pin) {
			continue
		}
		done = append(done, l.pin) // one of its connections is enough
		if frame == nil {
			frame = appendMessage(m)
		}
		l.push(frame)
	}
}

// inbox finds where answers go. It remembers at least the last busInboxes that
// were used; b is locked.
func (b *busLinks) inbox(subject string, create bool) *inbox {
	if in := b.inboxes[0][subject]; in != nil {
		return in
	}
	in := b.inboxes[1][subject]
	if in == nil && create {
		in = &inbox{}
	}
	if in == nil {
		return nil
	}
	if len(b.inboxes[0]) >= busInboxes {
		b.inboxes = [2]map[string]*inbox{{}, b.inboxes[0]}
	}
	b.inboxes[0][subject] = in
	return in
}

// received hands a message of another server to the clients of this one.
func (b *busLinks) received(pin string, m busserver.Message) {
	b.mu.Lock()
	j := b.joined
	if m.Reply != "" && strings.HasPrefix(m.Reply, inboxPrefix) {
		in := b.inbox(m.Reply, true)
		if !slices.Contains(in.pins, pin) {
			in.pins = append(in.pins, pin)
		}
		if time.Since(in.here) > askedHere {
			in.here = time.Time{}
		}
	}
	b.mu.Unlock()
	if j == nil {
		return
	}
	if err := j.Publish(m); err != nil {
		b.server.log.Debug("message of another server", "error", err)
	}
}

// push drops the message if too much waits, as a bus may.
func (l *busLink) push(frame []byte) {
	if l.bytes.Load()+int64(len(frame)) > busWaitingBytes {
		return
	}
	select {
	case l.out <- frame:
		l.bytes.Add(int64(len(frame)))
	default:
	}
}

// run passes messages on one connection until it ends.
func (b *busLinks) run(conn *tls.Conn, in *wire.Reader, pin string) error {
	l := &busLink{pin: pin, out: make(chan []byte, busWaiting)}
	b.mu.Lock()
	b.links = append(b.links, l)
	b.mu.Unlock()
	quit, written := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(written)
		defer conn.NetConn().Close()
		l.write(conn, quit)
	}()
	err := b.read(conn, in, pin)
	b.mu.Lock()
	b.links = slices.DeleteFunc(b.links, func(x *busLink) bool { return x == l })
	b.mu.Unlock()
	close(quit)
	conn.NetConn().Close()
	<-written
	return err
}

func (l *busLink) write(conn *tls.Conn, quit <-chan struct{}) {
	w := bufio.NewWriterSize(conn, 64<<10)
	alive := time.NewTicker(clusterAlive)
	defer alive.Stop()
	for {
		var frame []byte // none: an empty one says that the link is alive
		select {
		case frame = <-l.out:
			l.bytes.Add(-int64(len(frame)))
		case <-alive.C:
		case <-quit:
			return
		}
		var head [4]byte
		binary.BigEndian.PutUint32(head[:], uint32(len(frame)))
		w.Write(head[:]) // a bufio.Writer keeps its first error for Flush
		w.Write(frame)
		if len(l.out) > 0 {
			continue
		}
		if err := w.Flush(); err != nil {
			return
		}
	}
}

func (b *busLinks) read(conn *tls.Conn, first *wire.Reader, pin string) error {
	in := bufio.NewReaderSize(first.Rest(), 64<<10)
	var frame []byte
	for {
		if err := conn.SetReadDeadline(time.Now().Add(clusterSilent)); err != nil {
			return err
		}
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return fmt.Errorf("bus of another server: %w", err)
		}
		n := int(binary.BigEndian.Uint32(head[:]))
		if n == 0 {
			continue
		}
		if n > maxBusFrame {
			return fmt.Errorf("bus of another server: a message of %d bytes", n)
		}
		frame = slices.Grow(frame[:0], n)[:n]
		if _, err := io.ReadFull(in, frame); err != nil {
			return fmt.Errorf("bus of another server: %w", err)
		}
		m, err := parseMessage(frame)
		if err != nil {
			return err
		}
		b.received(pin, m)
	}
}

// appendMessage encodes a message: two lengths, subject, reply, data.
func appendMessage(m busserver.Message) []byte {
	b := make([]byte, 0, busHead+len(m.Subject)+len(m.Reply)+len(m.Data))
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Subject)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Reply)))
	b = append(b, m.Subject...)
	b = append(b, m.Reply...)
	return append(b, m.Data...)
}

var errMessage = errors.New("bus of another server: the message is cut short")

// parseMessage reads what appendMessage made; its data is part of b.
func parseMessage(b []byte) (busserver.Message, error) {
	if len(b) < busHead {
		return busserver.Message{}, errMessage
	}
	n, r := int(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:]))
	b = b[busHead:]
	if len(b) < n+r {
		return busserver.Message{}, errMessage
	}
	return busserver.Message{Subject: string(b[:n]), Reply: string(b[n : n+r]), Data: b[n+r:]}, nil
}
