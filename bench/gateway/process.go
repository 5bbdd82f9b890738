package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/zero-os/zos/linux/netns"
)

// Where everything is. Loopback has all of 127/8.
const (
	oursAddr    = "127.77.0.1"
	haproxyAddr = "127.77.0.2"
	backendAddr = "127.77.0.3"
	secondAddr  = "127.77.0.4"
	manyAddr    = "127.77.0.5" // ours, with many routes

	portTLS    = 9443 // a TLS server that answers a byte with one
	portSource = 9444 // sends without end, after the first byte
	portHold   = 9445 // answers a byte with one and waits
)

// process is one that plays a role, or HAProxy.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// role starts this program in a role, and waits until it says that it is ready.
func role(name string, args ...string) (*process, error) { return roleIn(nil, name, args...) }

// roleIn starts it in a network namespace; nil: in this process's own.
func roleIn(ns *os.File, name string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, append([]string{"role", name}, args...)...)}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	start := p.cmd.Start
	if ns != nil {
		start = func() error { return netns.Do(int(ns.Fd()), p.cmd.Start) }
	}
	if err := start(); err != nil {
		return nil, err
	}
	if line, err := p.out.ReadString('\n'); err != nil || line != "ready\n" {
		p.stop()
		return nil, fmt.Errorf("role %s: it says %q, %v", name, line, err)
	}
	return p, nil
}

// tell sends a line and reads the answer.
func (p *process) tell(line string) (string, error) {
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		return "", err
	}
	answer, err := p.out.ReadString('\n')
	return strings.TrimSpace(answer), err
}

// ask sends a line and decodes the answer.
func (p *process) ask(line string, into any) error {
	answer, err := p.tell(line)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(answer), into)
}

// stop ends it. Those in a role end with their input.
func (p *process) stop() {
	if p.in != nil {
		_ = p.in.Close()
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// clients asks a process of clients to do something, and reads what it found.
func clients[T any](kind string, args ...string) (T, error) {
	var out T
	p, err := role(kind, args...)
	if err != nil {
		return out, err
	}
	defer p.stop()
	if err := p.ask("go", &out); err != nil {
		return out, fmt.Errorf("%s: %w", kind, err)
	}
	return out, nil
}

// haproxy starts it with a backend for all names, tuned as one would for this:
// spliced, as many threads as processors.
func (b *bench) haproxy(backendPort int, hosts int) (*process, error) {
	names := filepath.Join(b.dir, "names.map")
	var m strings.Builder
	for i := range hosts {
		fmt.Fprintf(&m, "%s web\n", hostName(i))
	}
	if err := os.WriteFile(names, []byte(m.String()), 0o644); err != nil {
		return nil, err
	}
	return b.haproxyWith(fmt.Sprintf(`global
  maxconn 9500
  maxpipes 400
  log 127.0.0.1:1 local0 emerg
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend f
  bind %s:443
  tcp-request inspect-delay 5s
  tcp-request content accept if { req_ssl_hello_type 1 }
  use_backend %%[req_ssl_sni,lower,map(%s,none)]
backend web
  server a %s:%d check inter 400ms
backend none
`, haproxyAddr, names, backendAddr, backendPort))
}

// haproxyWith starts it with a configuration.
func (b *bench) haproxyWith(text string) (*process, error) {
	conf := filepath.Join(b.dir, "haproxy.cfg")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	path, err := exec.LookPath("haproxy")
	if err != nil {
		return nil, fmt.Errorf("%w; run: make deps", err)
	}
	p := &process{cmd: exec.Command(path, "-db", "-f", conf)}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if err := awaitPort(haproxyAddr + ":443"); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// used is the processor time and resident memory of a process and its children.
func (p *process) used() (cpu time.Duration, memory int, err error) {
	pids := []int{p.cmd.Process.Pid}
	if kids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pids[0], pids[0])); err == nil {
		for _, k := range strings.Fields(string(kids)) {
			if n, err := strconv.Atoi(k); err == nil {
				pids = append(pids, n)
			}
		}
	}
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, 0, err
		}
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		user, err1 := strconv.Atoi(f[11])
		system, err2 := strconv.Atoi(f[12])
		pages, err3 := strconv.Atoi(f[21])
		if err1 != nil || err2 != nil || err3 != nil {
			return 0, 0, fmt.Errorf("read %q", stat)
		}
		cpu += time.Duration(user+system) * 10 * time.Millisecond
		memory += pages * os.Getpagesize()
	}
	return cpu, memory, nil
}
