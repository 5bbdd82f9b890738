package main

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/workload/control"
)

// A program that reads nothing keeps its connection, and what it has started, only for so
// long: nobody is heard meanwhile who could end it.
func TestProgramThatLeavesItsInputUnreadIsKilled(t *testing.T) {
	group := t.TempDir() // where a cgroup is asked to kill, as a plain file
	var p pipes
	_, w, err := p.pipe() // its other end is open, and never read
	if err != nil {
		t.Fatal(err)
	}
	p.keep(w)
	defer p.close()
	in, err := pollable(w)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	program := &task{in: in, err: in, visit: visit{cgroup.Group(group)}, patience: 50 * time.Millisecond}
	ours, theirs := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		control.ServeConn(limit(t), theirs, func(_ context.Context, c *control.Conn, _ control.Request) error {
			program.listen(c)
			return c.Close()
		})
	}()
	c, err := control.Dial(limit(t), ours, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/program"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for c.Write(control.FrameStdin, make([]byte, 32<<10)) == nil {
	}
	select {
	case <-ended:
	case <-limit(t).Done():
		t.Fatal("it is waited for")
	}
	if b, err := os.ReadFile(group + "/cgroup.kill"); err != nil || string(b) != "1" {
		t.Errorf("not killed: %q, %v", b, err)
	}
}
