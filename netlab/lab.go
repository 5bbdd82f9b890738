package netlab

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Lab is a laboratory: everything that is made with it ends with it.
type Lab struct {
	tb   TB
	seed uint64
	dir  string // of sockets
	work sync.WaitGroup

	mu       sync.Mutex
	seeds    uint64
	segments []*Segment
	hosts    []*Host
	closers  []func() error // last first
	closed   bool
}

// New opens a laboratory, and closes it in tb's cleanup, which fails tb for
// whatever was left in it. What runs in the laboratory must therefore be ended
// in cleanups that are registered later, or before.
func New(tb TB) *Lab { return NewSeeded(tb, 1) }

// NewSeeded is New with another choice of what is lost and delayed.
func NewSeeded(tb TB, seed uint64) *Lab {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatalf("netlab: making network namespaces needs root (run: sudo make test)")
	}
	dir, err := os.MkdirTemp("", "netlab-")
	if err != nil {
		tb.Fatalf("netlab: %v", err)
	}
	l := &Lab{tb: tb, seed: seed, dir: dir}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Errorf("netlab: %v", err)
		}
	})
	return l
}

// onClose calls f before namespaces end.
func (l *Lab) onClose(f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, f)
}

// Close ends everything and returns what was left in the laboratory: processes,
// sockets, interfaces. It may be called again.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	closers, hosts, segments := l.closers, l.hosts, l.segments
	l.mu.Unlock()
	var errs []error
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i]())
	}
	for _, h := range hosts {
		if !h.foreign {
			errs = append(errs, h.leftovers())
		}
	}
	for _, h := range hosts {
		errs = append(errs, h.close())
	}
	for _, s := range segments {
		close(s.done)
	}
	l.work.Wait()
	errs = append(errs, os.RemoveAll(l.dir))
	return errors.Join(errs...)
}

// leftovers names what others left in the host.
func (h *Host) leftovers() error {
	var left []string
	var ns unix.Stat_t
	if err := unix.Fstat(h.Fd(), &ns); err != nil {
		return err
	}
	left = append(left, processesIn(ns.Ino)...)
	err := h.Try(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, k := range links {
			name := k.Attrs().Name
			h.mu.Lock()
			_, mine := h.links[name]
			h.mu.Unlock()
			if !mine && name != "lo" {
				left = append(left, "interface "+name)
			}
		}
		sockets, err := openSockets()
		left = append(left, sockets...)
		return err
	})
	if len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("left in host %s: %s", h.name, strings.Join(left, ", ")))
	}
	return err
}

// processesIn lists the processes in the network namespace, without this one.
func processesIn(inode uint64) []string {
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		if filepath.Base(d) == fmt.Sprint(os.Getpid()) {
			continue
		}
		info, err := os.Stat(d + "/ns/net")
		if err != nil {
			continue // ended meanwhile
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Ino == inode {
			cmd, _ := os.ReadFile(d + "/cmdline")
			found = append(found, fmt.Sprintf("process %s (%.60s)", filepath.Base(d), strings.ReplaceAll(string(cmd), "\x00", " ")))
		}
	}
	return found
}

// socketTables are the columns that hold the inode of a socket. Sockets that
// nobody holds any more, as those in TIME-WAIT, have none.
var socketTables = []struct {
	name          string
	local, remote int
	inode         int
}{
	{"tcp", 1, 2, 9}, {"tcp6", 1, 2, 9}, {"udp", 1, 2, 9}, {"udp6", 1, 2, 9},
	{"raw", 1, 2, 9}, {"raw6", 1, 2, 9}, {"icmp", 1, 2, 9}, {"packet", 2, 4, 8},
}

// openSockets lists the sockets of the calling thread's namespace. Those that
// are just being closed get a moment for it.
func openSockets() ([]string, error) {
	for began := time.Now(); ; {
		var found []string
		for _, t := range socketTables {
			f, err := os.Open("/proc/thread-self/net/" + t.name)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			lines := bufio.NewScanner(f)
			lines.Scan() // the header
			for lines.Scan() {
				c := strings.Fields(lines.Text())
				if len(c) > t.inode && c[t.inode] != "0" {
					found = append(found, fmt.Sprintf("socket %s %s > %s", t.name, c[t.local], c[t.remote]))
				}
			}
			f.Close()
		}
		if len(found) == 0 || time.Since(began) > 2*time.Second {
			return found, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}
