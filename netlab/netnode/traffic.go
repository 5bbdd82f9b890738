package netnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/zero-os/zos/netlab"
)

// Echo answers TCP connections in the namespace with what they say, until tb's
// cleanup. It is for Talk.
func Echo(tb netlab.TB, h *netlab.Host, at netip.AddrPort) {
	tb.Helper()
	l := h.Listen("tcp", at.String())
	var mu sync.Mutex
	var work sync.WaitGroup
	open := map[net.Conn]bool{}
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			work.Go(func() { _, _ = io.Copy(c, c) })
		}
	})
	tb.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		work.Wait()
	})
}

// Talk is one TCP connection to an Echo over which a number goes to and fro all
// the time, until it is closed or broken.
type Talk struct {
	conn net.Conn
	done chan struct{}
	pulse

	err error // with pulse's mutex
}

// Every round waits so long, so that many talks don't need a whole processor.
const between = 2 * time.Millisecond

// NewTalk connects from the namespace and begins to talk; tb's cleanup ends it.
// It tries to connect, for a minute at most, until it is connected.
func NewTalk(tb netlab.TB, h *netlab.Host, to netip.AddrPort) *Talk {
	tb.Helper()
	t := &Talk{done: make(chan struct{})}
	t.Reset()
	deadline := time.Now().Add(time.Minute)
	for {
		// Short attempts: a lost SYN is sent again only after a second.
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		c, err := h.Dial(ctx, "tcp", to.String())
		cancel()
		if err == nil {
			t.conn = c
			break
		}
		if time.Now().After(deadline) {
			tb.Fatalf("netnode: talk to %s: %v", to, err)
		}
		time.Sleep(between)
	}
	go t.run()
	tb.Cleanup(func() { t.Close() })
	return t
}

func (t *Talk) run() {
	defer close(t.done)
	var b [8]byte
	for n := uint64(0); ; n++ {
		binary.BigEndian.PutUint64(b[:], n)
		_, err := t.conn.Write(b[:])
		if err == nil {
			_, err = io.ReadFull(t.conn, b[:])
		}
		if err == nil && binary.BigEndian.Uint64(b[:]) != n {
			err = errors.New("got another number back")
		}
		if err != nil {
			t.mu.Lock()
			t.err = err
			t.mu.Unlock()
			return
		}
		t.beat()
		time.Sleep(between)
	}
}

// Rounds is how often the number came back.
func (t *Talk) Rounds() int { return t.count() }

// Err is why the connection broke, nil while it has not.
func (t *Talk) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Goes waits until so many further rounds were made; tb fails if the
// connection breaks, or after a minute.
func (t *Talk) Goes(tb netlab.TB, what string, rounds int) {
	tb.Helper()
	want := t.Rounds() + rounds
	Until(tb, what, func() bool {
		if err := t.Err(); err != nil {
			tb.Fatalf("%s: the connection broke: %v", what, err)
		}
		return t.Rounds() >= want
	})
}

// Close ends the connection.
func (t *Talk) Close() {
	t.conn.Close()
	<-t.done
}

func (t *Talk) String() string {
	return fmt.Sprintf("%d rounds, longest silence %s, %v", t.Rounds(), t.Silence().Round(time.Millisecond), t.Err())
}
