package main

import (
	"bufio"
	"io"
	"os"
	"time"

	"github.com/zero-os/zos/boot/firststage"
)

// lines carries what the children print to the console. A child must never wait
// for a console: it is slow, or a flow-controlled serial line with nobody at the
// other end. So what does not fit is dropped and counted.
type lines struct {
	console *firststage.Console
	queue   chan line
}

type line struct{ from, text string }

const (
	queueLines = 512
	maxLine    = 600 // bytes; the rest is dropped
	burst      = 200 // lines a child may print at once
	perSecond  = 50  // lines a child may print in the long run
)

func newLines(console *firststage.Console) *lines {
	l := &lines{console: console, queue: make(chan line, queueLines)}
	go func() { // lives as long as process 1
		for line := range l.queue {
			l.console.Printf("%s: %s", line.from, line.text)
		}
	}()
	return l
}

// follow reads r to its end, which comes when the last process that holds the
// other end has gone.
func (l *lines) follow(from string, r *os.File) {
	go func() {
		defer r.Close()
		limit := &limiter{tokens: burst, last: time.Now()}
		br := bufio.NewReaderSize(r, maxLine)
		for {
			text, err := readLine(br)
			if text != "" {
				if limit.allow(time.Now()) {
					l.print(from, text, limit)
				} else {
					limit.dropped++
				}
			}
			if err != nil {
				return
			}
		}
	}()
}

func (l *lines) print(from, text string, limit *limiter) {
	if limit.dropped > 0 {
		select {
		case l.queue <- line{from, "… " + plural(limit.dropped) + " not shown"}:
			limit.dropped = 0
		default:
		}
	}
	select {
	case l.queue <- line{from, text}:
	default:
		limit.dropped++
	}
}

// readLine returns the next line without its end, cut to maxLine bytes.
func readLine(br *bufio.Reader) (string, error) {
	part, more, err := br.ReadLine()
	text := string(part)
	for more && err == nil {
		_, more, err = br.ReadLine()
	}
	if err == io.EOF && text != "" {
		return text, nil // the next call says EOF again
	}
	return text, err
}

// limiter is a token bucket.
type limiter struct {
	tokens  float64
	last    time.Time
	dropped int
}

func (b *limiter) allow(now time.Time) bool {
	b.tokens = min(burst, b.tokens+perSecond*now.Sub(b.last).Seconds())
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
