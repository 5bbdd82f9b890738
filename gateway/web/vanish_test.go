package web

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/gateway"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/spec/plan"
)

// tenant is a network of its own, and dials in it.
type tenant struct {
	t  *testing.T
	ns *os.File
	n  int
}

func newTenant(t *testing.T) *tenant {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return &tenant{t: t, ns: ns}
}

// Dial connects a socket of the namespace, as a broker would have sent it.
func (n *tenant) Dial(ctx context.Context, _, _ string, to netip.AddrPort) (net.Conn, error) {
	fd := -1
	err := netns.Do(int(n.ns.Fd()), func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	return gateway.Connect(ctx, fd, to)
}

// machine is one at the other end of a cable. What vanish does to it nobody is told.
type machine struct {
	t    *testing.T
	ns   *os.File
	addr string
}

func (n *tenant) machine() *machine {
	t := n.t
	t.Helper()
	n.n++
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	m := &machine{t: t, ns: ns, addr: fmt.Sprintf("10.9.%d.2", n.n)}
	here, there := fmt.Sprintf("m%d", n.n), "eth0"
	up := func(name, addr string) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr + "/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}
	err = netns.Do(int(n.ns.Fd()), func() error {
		a := netlink.NewLinkAttrs()
		a.Name = here
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: there, PeerNamespace: netlink.NsFd(ns.Fd())}); err != nil {
			return err
		}
		return up(here, fmt.Sprintf("10.9.%d.1", n.n))
	})
	if err == nil {
		err = netns.Do(int(ns.Fd()), func() error { return up(there, m.addr) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) listen() net.Listener {
	m.t.Helper()
	var l net.Listener
	err := netns.Do(int(m.ns.Fd()), func() (err error) {
		l, err = net.Listen("tcp", m.addr+":8080")
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return l
}

// vanish drops every packet.
func (m *machine) vanish() {
	m.t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(`table inet gone {
	chain in { type filter hook prerouting priority -400; policy drop; }
	chain out { type filter hook output priority -400; policy drop; }
}`)
	if err := netns.Do(int(m.ns.Fd()), func() error { b, err := cmd.CombinedOutput(); m.t.Logf("%s", b); return err }); err != nil {
		m.t.Fatal(err)
	}
}

// TestANodeThatVanishesDoesNotHoldRequests drops a backend's packets
// while requests wait for it, and others come. None of those that may be repeated
// fails, and one that may not be is told so, long before a backend would be slow.
func TestANodeThatVanishesDoesNotHoldRequests(t *testing.T) {
	network := newTenant(t)
	held, release := make(chan string, 4), make(chan struct{})
	backend := func(name string, m *machine) *recorder {
		return newRecorderAt(t, name, m.listen(), func(c net.Conn, r *http.Request, _ *bufio.Reader) bool {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return false
			}
			if r.URL.Path == "/slow" {
				held <- name
				<-release
			}
			_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(name), name)
			return err == nil
		})
	}
	first := network.machine()
	s, log, route, client := dataPlaneBy(t, network, 4)
	r := route(backend("web1", first), backend("web2", network.machine()))
	r.Check = plan.CheckTCP
	apply(t, s, r)

	type answer struct {
		body   string
		status int
		err    error
		took   time.Duration
	}
	do := func(c *http.Client, method, path string) answer {
		began := time.Now()
		req, err := http.NewRequest(method, "https://"+host+path, nil)
		if err != nil {
			return answer{err: err}
		}
		resp, err := c.Do(req)
		if err != nil {
			return answer{err: err, took: time.Since(began)}
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return answer{string(b), resp.StatusCode, err, time.Since(began)}
	}
	// Connections to both wait in the pool.
	seen := map[string]bool{}
	for c := client(false); len(seen) < 2; {
		a := do(c, "GET", "/")
		if a.err != nil || a.status != 200 {
			t.Fatalf("%+v before anything happened", a)
		}
		seen[a.body] = true
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		records, err := log.Take(ctx, 1)
		cancel()
		if err != nil || records[0].Backend != a.body {
			t.Fatalf("the answer is %s's, and logged as %+v, %v", a.body, records, err)
		}
	}
	// Each has one of either method: the balance sees to it that the other one of
	// two goes to whom has less to do.
	answers := map[string]chan answer{"GET": make(chan answer, 2), "POST": make(chan answer, 2)}
	for method, to := range answers {
		got := map[string]bool{}
		for range 2 {
			go func() { to <- do(client(true), method, "/slow") }()
			select {
			case name := <-held:
				got[name] = true
			case <-time.After(10 * time.Second):
				t.Fatal("a request came to nobody")
			}
		}
		if len(got) != 2 {
			t.Fatalf("both are with %v", got)
		}
	}
	began := time.Now()
	first.vanish()
	close(release)
	var mu sync.Mutex
	var longest time.Duration
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for c := client(i%2 == 0); time.Since(began) < 3*time.Second; {
				at := time.Since(began)
				a := do(c, "GET", "/")
				if a.err != nil || a.status != 200 {
					t.Errorf("%s after it vanished: %+v", at, a)
					return
				}
				mu.Lock()
				longest = max(longest, a.took)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	// Far less than the minute that a backend may take, on a machine that is busy too.
	const most = 15 * time.Second
	t.Logf("longest of the requests that came: %s", longest)
	if longest > most {
		t.Error("that is too long")
	}
	for method, c := range answers {
		lost := 0
		for range 2 {
			a := <-c
			t.Logf("%s that waited, and was sent a while before: %d %s", method, a.status, a.took)
			if a.status == http.StatusGatewayTimeout && method == "POST" {
				lost++ // it may have been done, and is not repeated
			} else if a.status != 200 || a.body != "web2" {
				t.Errorf("%s: %+v", method, a)
			}
			if a.took > most {
				t.Error("that is too long")
			}
		}
		if method == "POST" && lost != 1 {
			t.Errorf("%d are told that it is not known what became of them", lost)
		}
	}
	if a := do(client(false), "POST", "/"); a.status != 200 || a.body != "web2" {
		t.Errorf("a client that tries again: %+v", a)
	}
	// A request is counted when its answer has been sent.
	st := s.Status().Routes[0]
	for end := time.Now().Add(10 * time.Second); (st.Requests < 5 || st.Errors != 1) && time.Now().Before(end); time.Sleep(time.Millisecond) {
		st = s.Status().Routes[0]
	}
	if st.Requests < 5 || st.Errors != 1 {
		t.Errorf("%d requests and %d errors are counted", st.Requests, st.Errors)
	}
}
