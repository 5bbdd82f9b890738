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
// other end. So what does not fit is dropped and counted, per child: one that
// floods takes nothing from the others.
type lines struct {
	console *firststage.Console
}

const (
	queueLines = 256 // that wait for the console, per child
	maxLine    = 600 // bytes; the rest is dropped
	burst      = 200 // lines a child may print at once
	perSecond  = 50  // lines a child may print in the long run
)

func newLines(console *firststage.Console) *lines { return &lines{console: console} }

// follow reads r to its end, which comes when the last process that holds the
// other end has gone.
func (l *lines) follow(from string, r *os.File) {
	queue := make(chan string, queueLines)
	go func() {
		for text := range queue {
			l.console.Printf("%s: %s", from, text)
		}
	}()
	go func() {
		defer r.Close()
		defer close(queue)
		limit := &limiter{tokens: burst, last: time.Now()}
		br := bufio.NewReaderSize(r, maxLine)
		for {
			text, err := readLine(br)
			if text != "" {
				limit.pass(queue, text)
			}
			if err != nil {
				if limit.dropped > 0 {
					queue <- "(" + plural(limit.dropped) + " not shown)" // nobody waits any more
				}
				return
			}
		}
	}()
}

// pass puts text into the queue if the rate allows it and there is room, after a
// word on what did not pass before it.
func (b *limiter) pass(queue chan<- string, text string) {
	if !b.allow(time.Now()) {
		b.dropped++
		return
	}
	if b.dropped > 0 {
		text = "(" + plural(b.dropped) + " not shown) " + text
	}
	select {
	case queue <- text:
		b.dropped = 0
	default:
		b.dropped++
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
