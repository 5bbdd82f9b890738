package web

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// pace gives up a transfer that is slower than rate bytes per second over window.
// Only time within begin and end counts. stop is called when the time is up, and
// has to make the waiting operation return.
type pace struct {
	rate   int64
	window time.Duration
	budget time.Duration // left now
	since  time.Time
	timer  *time.Timer
}

func newPace(rate int64, window time.Duration, stop func()) *pace {
	p := &pace{rate: rate, window: window, budget: window, timer: time.AfterFunc(window, stop)}
	p.timer.Stop()
	return p
}

func (p *pace) begin() {
	p.since = time.Now()
	p.timer.Reset(p.budget)
}

func (p *pace) end(n int) {
	p.timer.Stop()
	earned := time.Duration(int64(n)) * time.Second / time.Duration(p.rate)
	// A little is left whatever happened: if it was too little, stop has been called.
	p.budget = max(time.Millisecond, min(p.window, p.budget-time.Since(p.since)+earned))
}

// requestBody is a client's body on its way to a backend.
type requestBody struct {
	io.ReadCloser
	pace *pace
	in   *http.Request
	out  *http.Request // whose trailers are filled at the end
	n    int64
	mu   sync.Mutex // the transport may close it while it reads
	done bool
	bad  bool
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.pace.begin()
	n, err := b.ReadCloser.Read(p)
	b.pace.end(n)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n += int64(n)
	b.bad = b.bad || err != nil && err != io.EOF
	if err == io.EOF && !b.done {
		b.done = true
		// Announced and allowed ones only, see Rewrite.
		for name := range b.out.Trailer {
			if v, ok := b.in.Trailer[name]; ok {
				b.out.Trailer[name] = v
			}
		}
	}
	return n, err
}

func (b *requestBody) count() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

// failed tells whether it was the client that ended the request early.
func (b *requestBody) failed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bad
}
