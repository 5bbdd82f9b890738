package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// output is what a process has printed so far.
type output struct {
	mu      sync.Mutex
	text    strings.Builder
	changed chan struct{}
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(b)
	select {
	case o.changed <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// wait is for something in it.
func (o *output) wait(want string) error {
	for end := time.After(patience); ; {
		if strings.Contains(o.String(), want) {
			return nil
		}
		select {
		case <-o.changed:
		case <-end:
			return fmt.Errorf("it did not say %q: %q", want, o.String())
		}
	}
}
