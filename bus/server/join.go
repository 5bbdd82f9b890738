package server

import (
	"fmt"
	"strings"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"
	nc "github.com/nats-io/nats.go"
)

// ownUser is the name of the server's own connection. No role has it.
const ownUser = "server"

// Bounds of what waits for the one who joined.
const (
	joinedMessages = 8192
	joinedBytes    = 16 << 20
	maxSubject     = 256
)

// Message is what one client of a bus publishes.
type Message struct {
	Subject string
	Reply   string // the inbox for answers; may be empty
	Data    []byte // read only, and only while the function runs
}

// Joined is a connection of the server's owner to its own bus, by which messages
// pass between buses of one cluster.
type Joined struct {
	conn    *nc.Conn
	account *nats.Account // of all clients
	ended   chan struct{} // fn is not called any more
}

// Join calls fn, from one goroutine, for each message that a client of this
// server publishes; those that come by Publish are not among them, so that
// nothing passes a bus twice. When fn is too slow, messages are dropped. The
// caller ends it with Close.
func (s *Server) Join(fn func(Message)) (*Joined, error) {
	conn, err := nc.Connect("", nc.InProcessServer(s.nats), nc.UserInfo(ownUser, s.secret), nc.NoEcho(),
		nc.NoReconnect(), nc.Timeout(5*time.Second),
		nc.ErrorHandler(func(_ *nc.Conn, _ *nc.Subscription, err error) {
			s.log.Debug("bus: between servers", "error", err)
		}))
	if err != nil {
		return nil, fmt.Errorf("join the bus: %w", err)
	}
	account, err := s.nats.LookupAccount(nats.DEFAULT_GLOBAL_ACCOUNT)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("join the bus: %w", err)
	}
	j := &Joined{conn, account, make(chan struct{})}
	sub, err := conn.Subscribe(">", func(m *nc.Msg) { fn(Message{m.Subject, m.Reply, m.Data}) })
	if err == nil {
		sub.SetClosedHandler(func(string) { close(j.ended) })
		err = sub.SetPendingLimits(joinedMessages, joinedBytes)
	}
	if err == nil {
		err = conn.FlushTimeout(5 * time.Second)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("join the bus: %w", err)
	}
	return j, nil
}

// Wanted tells whether a client of this server listens to a subject.
func (j *Joined) Wanted(subject string) bool { return j.account.Interest(subject) > 1 } // one is ours

// Publish passes on a message from another server. It refuses subjects that no
// client could use.
func (j *Joined) Publish(m Message) error {
	if !plainSubject(m.Subject) || m.Reply != "" && !plainSubject(m.Reply) || len(m.Data) > MaxPayload {
		return fmt.Errorf("publish for another server: subject or size is not allowed: %.80q", m.Subject)
	}
	if m.Reply != "" {
		return j.conn.PublishRequest(m.Subject, m.Reply, m.Data)
	}
	return j.conn.Publish(m.Subject, m.Data)
}

// Done is closed when the connection has ended.
func (j *Joined) Done() <-chan struct{} { return j.ended }

// Close ends it; fn is not called after that.
func (j *Joined) Close() {
	j.conn.Close()
	<-j.ended
}

// plainSubject tells whether s is a subject of the bus: words of lower-case
// letters, digits, dashes and underscores, joined by dots.
func plainSubject(s string) bool {
	if s == "" || len(s) > maxSubject {
		return false
	}
	for word := range strings.SplitSeq(s, ".") {
		if word == "" {
			return false
		}
		for i := range len(word) {
			c := word[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
