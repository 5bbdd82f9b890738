package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode"

	"golang.org/x/time/rate"

	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/logs"
)

// Bounds of what one gateway may write into its log: a process that lies can fill
// the ring, and not keep the disk busy.
const (
	logRate  = 512 << 10 // bytes a second
	logBurst = 4 << 20

	noteRate  = 10 // lines a second that the process may write into the node's own log
	noteBurst = 100
)

// rings are the access logs of gateways, on disk like the output of containers.
// The zero value has none.
type rings struct {
	bound int64
	mu    sync.Mutex
	of    map[workload.ID]*ring
}

type ring struct {
	w       *logs.Writer
	limit   *rate.Limiter
	dropped uint64
}

// open opens a gateway's ring, unless it is open.
func (r *rings) open(id workload.ID, dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of[id] != nil {
		return nil
	}
	w, err := logs.Open(dir, r.bound)
	if err != nil {
		return err
	}
	if r.of == nil {
		r.of = map[workload.ID]*ring{}
	}
	r.of[id] = &ring{w: w, limit: rate.NewLimiter(logRate, logBurst)}
	return nil
}

// add writes one line. What comes faster than a log may is dropped, and counted in
// the log itself.
func (r *rings) add(id workload.ID, line []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.of[id]
	if l == nil {
		return fmt.Errorf("there is no gateway %.63q", id.Name)
	}
	if !l.limit.AllowN(time.Now(), len(line)+1) {
		l.dropped++
		return nil
	}
	if l.dropped > 0 {
		if err := l.w.Write(logs.Node, fmt.Appendf(nil, "%d lines were dropped\n", l.dropped)); err != nil {
			return err
		}
		l.dropped = 0
	}
	// One line stays one line, and shows nobody's terminal anything.
	clean := bytes.Map(func(c rune) rune {
		if unicode.IsPrint(c) && c != '\uFFFD' {
			return c
		}
		return '?' // controls of every kind, and what turns the order of letters
	}, line)
	return l.w.Write(logs.Stdout, append(clean, '\n'))
}

// forget closes a gateway's ring.
func (r *rings) forget(id workload.ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.of[id]
	delete(r.of, id)
	if l == nil {
		return nil
	}
	return l.w.Close()
}

func (r *rings) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	for id, l := range r.of {
		err = errors.Join(err, l.w.Close())
		delete(r.of, id)
	}
	return err
}
