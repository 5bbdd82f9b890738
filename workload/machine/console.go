package machine

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/logs"
)

const (
	// consoleTail is what somebody who attaches is shown of before, in bytes.
	consoleTail = 32 << 10
	// consoleQueue is how many pieces of up to 4 KiB a watcher may lag behind.
	consoleQueue = 64
	// consoleRate bounds what is read of a console, in bytes a second.
	consoleRate = 1 << 20
	maxWatchers = 8
)

// errConsole is the end of somebody who watches a console.
var (
	errConsoleOver = errors.New("the machine has ended")
	errConsoleSlow = errors.New("the console prints faster than this connection takes")
	errConsoleFull = errors.New("too many are attached to this console")
)

// console is a machine's serial port: copied into the log ring, and to whoever is
// attached. Everyone who is attached can type.
type console struct {
	conn net.Conn
	ring *logs.Writer

	mu       sync.Mutex
	tail     []byte
	watchers map[chan []byte]bool
	over     chan struct{}
}

func newConsole(conn net.Conn, ring *logs.Writer) *console {
	return &console{conn: conn, ring: ring, watchers: map[chan []byte]bool{}, over: make(chan struct{})}
}

// read copies until the connection ends.
func (c *console) read() {
	defer close(c.over)
	buf := make([]byte, 4096)
	spent, window := 0, time.Now()
	for {
		n, err := c.conn.Read(buf)
		if n > 0 {
			_ = c.ring.Write(logs.Stdout, buf[:n])
			c.spread(append([]byte(nil), buf[:n]...))
		}
		if err != nil {
			_ = c.ring.Flush(logs.Stdout)
			return
		}
		if spent += n; spent >= consoleRate {
			if used := time.Since(window); used < time.Second {
				time.Sleep(time.Second - used) // the guest waits
			}
			spent, window = 0, time.Now()
		}
	}
}

func (c *console) spread(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail = append(c.tail, b...)
	if over := len(c.tail) - consoleTail; over > 0 {
		c.tail = append(c.tail[:0], c.tail[over:]...)
	}
	for w := range c.watchers {
		select {
		case w <- b:
		default:
			delete(c.watchers, w)
			close(w)
		}
	}
}

// attach shows the console to a connection, and lets it type.
func (c *console) attach(ctx context.Context, conn *control.Conn) error {
	w := make(chan []byte, consoleQueue)
	c.mu.Lock()
	if len(c.watchers) >= maxWatchers {
		c.mu.Unlock()
		return errConsoleFull
	}
	c.watchers[w] = true
	before := append([]byte(nil), c.tail...)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.watchers, w)
		c.mu.Unlock()
	}()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			t, b, err := conn.Read()
			if err != nil {
				return
			}
			if t != control.FrameStdin {
				continue // a serial port has no size and no end
			}
			_ = c.conn.SetWriteDeadline(time.Now().Add(controlLimit))
			if _, err := c.conn.Write(b); err != nil {
				return
			}
		}
	}()
	defer func() { conn.Close(); <-gone }()
	out := conn.Stream(control.FrameStdout)
	if _, err := out.Write(before); err != nil {
		return err
	}
	for {
		select {
		case b, ok := <-w:
			if !ok {
				return conn.Fail(errConsoleSlow)
			}
			if _, err := out.Write(b); err != nil {
				return err
			}
		case <-gone:
			return nil
		case <-c.over:
			return conn.Fail(errConsoleOver)
		case <-ctx.Done():
			return conn.Fail(errConsoleOver)
		}
	}
}

func (c *console) close() { c.conn.Close() }
