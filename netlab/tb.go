package netlab

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// TB is what a laboratory needs of a test. *testing.T and *testing.B have it;
// programs get one from Run.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	Failed() bool
}

// Run calls f with a TB for programs that are no tests, then its cleanups, and
// returns everything that f reported. logf may be nil.
func Run(f func(TB), logf func(format string, args ...any)) error {
	p := &programTB{logf: logf}
	p.call(func() { f(p) })
	for {
		p.mu.Lock()
		n := len(p.cleanups)
		if n == 0 {
			p.mu.Unlock()
			break
		}
		c := p.cleanups[n-1]
		p.cleanups = p.cleanups[:n-1]
		p.mu.Unlock()
		p.call(c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.errs...)
}

type programTB struct {
	logf     func(string, ...any)
	mu       sync.Mutex
	errs     []error
	cleanups []func()
}

// call runs f in a goroutine that Fatalf can end.
func (p *programTB) call(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

func (p *programTB) Helper() {}

func (p *programTB) Logf(format string, args ...any) {
	if p.logf != nil {
		p.logf(format, args...)
	}
}

func (p *programTB) Errorf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

func (p *programTB) Fatalf(format string, args ...any) {
	p.Errorf(format, args...)
	runtime.Goexit()
}

func (p *programTB) Cleanup(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleanups = append(p.cleanups, f)
}

func (p *programTB) Failed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.errs) > 0
}
