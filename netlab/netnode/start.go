package netnode

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
)

// patience is how long one operation may take before the process counts as
// stuck.
const patience = 2 * time.Minute

// child is a process in a host.
type child struct {
	tb   netlab.TB
	name string
	cmd  *exec.Cmd
	log  *tail

	mu    sync.Mutex // held during a request
	in    io.WriteCloser
	out   *bufio.Reader
	ended bool
}

// Node is a node's process.
type Node struct {
	*child
	Config Config
	Host   *netlab.Host
}

// Server is a rendezvous server's process.
type Server struct {
	*child
	Config ServerConfig
	Host   *netlab.Host
	URL    string
}

// StartNode starts a node in the host; tb's cleanup ends it.
func StartNode(tb netlab.TB, h *netlab.Host, c Config) *Node {
	tb.Helper()
	return &Node{start(tb, h, roleNode, c), c, h}
}

// StartServer starts a rendezvous server in the host; tb's cleanup ends it.
func StartServer(tb netlab.TB, h *netlab.Host, c ServerConfig) *Server {
	tb.Helper()
	s := &Server{child: start(tb, h, roleServer, c), Config: c, Host: h}
	s.must("url", nil, &s.URL)
	return s
}

// Join makes servers one cluster, and waits until they are.
func Join(tb netlab.TB, servers ...*Server) {
	tb.Helper()
	for _, s := range servers {
		for _, o := range servers {
			s.must("route", o.URL, nil)
		}
	}
	for _, s := range servers {
		Until(tb, "the rendezvous servers are joined", func() bool {
			var n int
			s.must("peers", nil, &n)
			return n == len(servers)-1
		})
	}
}

// Until waits until ok holds; tb fails if it takes more than a minute.
func Until(tb netlab.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			tb.Fatalf("not in a minute: %s", what)
		}
		time.Sleep(2 * time.Millisecond) // between looks, not for ordering
	}
}

func start(tb netlab.TB, h *netlab.Host, role string, cfg any) *child {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatalf("netnode: %v", err)
	}
	c := &child{tb: tb, name: role + " in " + h.Name(), cmd: exec.Command(self), log: &tail{}}
	c.cmd.Env = append(os.Environ(), environment+"="+role)
	c.cmd.Stderr = c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out io.ReadCloser
	if c.in, err = c.cmd.StdinPipe(); err == nil {
		out, err = c.cmd.StdoutPipe()
	}
	if err == nil {
		c.out = bufio.NewReaderSize(out, 1<<20)
		err = h.Start(c.cmd)
	}
	if err != nil {
		tb.Fatalf("netnode: start %s: %v", c.name, err)
	}
	tb.Cleanup(func() {
		if err := c.Stop(); err != nil {
			tb.Errorf("netnode: end %s: %v", c.name, err)
		}
		if tb.Failed() {
			tb.Logf("log of %s:\n%s", c.name, c.log)
		}
	})
	if err := c.exchange(cfg, nil); err != nil {
		tb.Fatalf("netnode: start %s: %v\n%s", c.name, err, c.log)
	}
	return c
}

// PID is the process's id.
func (c *child) PID() int { return c.cmd.Process.Pid }

// Log is the end of what the process logged.
func (c *child) Log() string { return c.log.String() }

// Stop ends the process in an orderly way: what it made goes first. A process
// that has ended already is left alone.
func (c *child) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	c.ended = true
	c.in.Close()
	kill := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	_, _ = io.Copy(io.Discard, c.out)
	return c.cmd.Wait()
}

// Kill ends the process with SIGKILL: nothing that it made is taken away but
// what the kernel takes away with it.
func (c *child) Kill() {
	_ = c.cmd.Process.Kill()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.ended = true
		c.in.Close()
		_ = c.cmd.Wait()
	}
}

// Freeze stops the process, as one that hangs, or lets it go on.
func (c *child) Freeze(on bool) {
	c.tb.Helper()
	sig := syscall.SIGCONT
	if on {
		sig = syscall.SIGSTOP
	}
	if err := c.cmd.Process.Signal(sig); err != nil {
		c.tb.Fatalf("netnode: %s: %v", c.name, err)
	}
}

// exchange sends a line and reads the answer to it.
func (c *child) exchange(v, result any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return errors.New("the process has ended")
	}
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	stuck := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
	defer stuck.Stop()
	if _, err = c.in.Write(append(line, '\n')); err != nil {
		return err
	}
	if line, err = c.out.ReadBytes('\n'); err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	a := struct {
		answer
		Result json.RawMessage
	}{}
	if err := json.Unmarshal(line, &a); err != nil {
		return err
	}
	switch {
	case a.Code != "":
		return problem.New(a.Code, "%s", a.Error)
	case a.Error != "":
		return errors.New(a.Error)
	case result != nil:
		return json.Unmarshal(a.Result, result)
	}
	return nil
}

// try asks for an operation.
func (c *child) try(op string, args, result any) error {
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	return c.exchange(request{op, raw}, result)
}

func (c *child) must(op string, args, result any) {
	c.tb.Helper()
	if err := c.try(op, args, result); err != nil {
		c.tb.Fatalf("netnode: %s: %s: %v", c.name, op, err)
	}
}

// Router makes the bare router namespace of a topology, in which the node's
// first addresses (….1) are, without any device yet. It lives as long as the
// node or somebody in it.
func (n *Node) Router(t network.Topology) *netlab.Host {
	n.tb.Helper()
	var fd int
	t.Self = n.Config.Slot()
	n.must("router", t, &fd)
	return n.Host.Lab().Enter(n.name+" "+t.Name, fmt.Sprintf("/proc/%d/fd/%d", n.PID(), fd))
}

// Ensure makes the node carry the topology, in the namespace that Router makes.
func (n *Node) Ensure(t network.Topology) {
	n.tb.Helper()
	t.Self = n.Config.Slot()
	n.must("ensure", t, nil)
}

// Remove ends what Ensure made.
func (n *Node) Remove(id canon.Hash) {
	n.tb.Helper()
	n.must("remove", id, nil)
}

// Await waits until so many peers of the network have shaken hands with the
// node, a minute at most, and returns when each did.
func (n *Node) Await(id canon.Hash, peers int) ([]time.Time, error) {
	var at []time.Time
	err := n.try("await", awaitArgs{id, peers}, &at)
	return at, err
}

// Status tells how the node and these of its networks are.
func (n *Node) Status(ids ...canon.Hash) Status {
	n.tb.Helper()
	var s Status
	n.must("status", ids, &s)
	return s
}

// EnsureNetwork makes the node's kind run a workload of kind "network".
func (n *Node) EnsureNetwork(d workload.Desired) error { return n.try("kind-ensure", d, nil) }

// RemoveNetwork ends it.
func (n *Node) RemoveNetwork(id workload.ID) error { return n.try("kind-remove", id, nil) }

// Attach attaches a container.
func (n *Node) Attach(d workload.Desired, nets []plan.Attachment) (container.Namespace, error) {
	var ns container.Namespace
	err := n.try("attach", attachArgs{d, nets}, &ns)
	return ns, err
}

// Detach takes it away.
func (n *Node) Detach(id workload.ID) error { return n.try("detach", id, nil) }

// tail keeps the end of what is written.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 8 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if len(t.b) > 2*tailSize {
		t.b = append(t.b[:0], t.b[len(t.b)-tailSize:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b[max(0, len(t.b)-tailSize):]))
}
