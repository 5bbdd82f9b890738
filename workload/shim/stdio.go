package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/workload/logs"
)

const (
	readSize = 32 << 10
	// flushAfter is how long a line that was begun waits for its end.
	flushAfter = 200 * time.Millisecond
	// defaultRate bounds what the node spends on one container's output; one that
	// prints more waits in its own write calls.
	defaultRate = 4 << 20
	// maxPipe is what a pipe holds at most (fs.pipe-max-size).
	maxPipe = 1 << 20
)

// pump copies one FIFO into the log ring.
type pump struct {
	stream logs.Stream
	path   string
	ring   *logs.Writer
	rate   int64
	f      *os.File

	mu   sync.Mutex
	stop bool
	done chan struct{}
}

// startPump makes the FIFO at path if it isn't there, gives it to uid:gid, so
// that the container may open /dev/stdout, and begins to copy.
func startPump(path string, uid, gid uint32, stream logs.Stream, ring *logs.Writer, rate int64) (*pump, error) {
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make FIFO %s: %w", path, err)
	}
	if err := os.Lchown(path, int(uid), int(gid)); err != nil {
		return nil, fmt.Errorf("give FIFO to the container: %w", err)
	}
	// Also open for writing, so that there is never an end of file.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open FIFO: %w", err)
	}
	if rate <= 0 {
		rate = defaultRate
	}
	p := &pump{stream: stream, path: path, ring: ring, rate: rate, f: f, done: make(chan struct{})}
	go p.copy()
	return p, nil
}

// containerEnd opens the file that becomes the container's stdout or stderr. It is
// a description of its own: what the container does to its flags is its affair.
func (p *pump) containerEnd() (*os.File, error) {
	fd, err := unix.Open(p.path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open the container's end of %s: %w", filepath.Base(p.path), err)
	}
	return os.NewFile(uintptr(fd), p.path), nil
}

// copy reads until close. Errors of the ring are dropped records, which it counts
// and which must not stop the container.
func (p *pump) copy() {
	defer close(p.done)
	buf := make([]byte, readSize)
	begun := false
	var drained int64
	pace := pace{rate: p.rate}
	for {
		p.mu.Lock()
		stopping := p.stop
		switch {
		case stopping:
			_ = p.f.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		case begun:
			_ = p.f.SetReadDeadline(time.Now().Add(flushAfter))
		default:
			_ = p.f.SetReadDeadline(time.Time{})
		}
		p.mu.Unlock()
		n, err := p.f.Read(buf)
		if n > 0 {
			_ = p.ring.Write(p.stream, buf[:n])
			begun = buf[n-1] != '\n'
		}
		if stopping {
			// More than a pipe can hold was written after the end was asked for.
			if drained += int64(n); drained > maxPipe {
				return
			}
		}
		if err != nil {
			if begun {
				_ = p.ring.Flush(p.stream)
				begun = false
			}
			if stopping || !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			continue
		}
		if wait := pace.took(time.Now(), n, processorTime()); wait > 0 && !stopping {
			time.Sleep(wait)
		}
	}
}

// burst is how many bytes are taken at once from a container that was quiet before.
const burst = 128 << 10

// share is the part of a processor, one of so many, that a shim spends on output, and
// rest the longest that it pauses for that at a time. The workload's own limit does not
// bound what its shim does for it; on a fast machine the bytes are the tighter bound.
const (
	share = 20
	rest  = 500 * time.Millisecond
)

// pace spreads work evenly: what a second may hold, done at its beginning, is a pause of
// a tenth of a second for whoever else needs the processor.
type pace struct {
	rate  int64         // bytes a second
	due   time.Time     // when all that was taken would have been, at that rate
	spent time.Duration // processor time of this process, at the last call
}

// took notes that n bytes were taken at now, when this process has used so much
// processor time in all, and returns how long to wait before more is taken.
func (p *pace) took(now time.Time, n int, used time.Duration) time.Duration {
	spread := func(bytes int64) time.Duration { return time.Duration(bytes * int64(time.Second) / p.rate) }
	if from := now.Add(-spread(burst)); p.due.Before(from) {
		p.due = from
	}
	p.due = p.due.Add(spread(int64(n)))
	wait := p.due.Sub(now)
	if p.spent > 0 {
		wait = max(wait, min((share-1)*(used-p.spent), rest))
	}
	p.spent = used
	return wait
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// close takes what the FIFO still holds and ends the copying.
func (p *pump) close() {
	p.mu.Lock()
	p.stop = true
	_ = p.f.SetReadDeadline(time.Now())
	p.mu.Unlock()
	<-p.done
	p.f.Close()
}
