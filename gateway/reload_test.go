package gateway

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zero-os/zos/spec/plan"
)

func TestAReloadOfAThousandRoutesDropsNoConnection(t *testing.T) {
	w := start(t)
	backend := w.shop("one")
	routes := func(version int) []Route {
		var all []Route
		for i := range 1000 {
			r := w.byHost(fmt.Sprintf("r%d.example", i), backend)
			if i >= 100 { // those without load change
				r.Check = []string{plan.CheckTCP, plan.CheckNone}[version%2]
			}
			all = append(all, r)
		}
		if version%2 == 1 {
			slices.Reverse(all)
		}
		return all
	}
	w.apply(routes(0)...)
	var kept []*tls.Conn
	for i := range 50 {
		c, line, err := w.get(fmt.Sprintf("r%d.example", i))
		if err != nil || line != "one" {
			t.Fatal(line, err)
		}
		_ = c.SetDeadline(time.Time{})
		kept = append(kept, c)
	}
	stop := make(chan struct{})
	var work sync.WaitGroup
	var connected, failed atomic.Int64
	for i := range 4 {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				n, err := net.Dial("tcp", netip.AddrPortFrom(w.addr, 443).String())
				if err == nil {
					_ = n.SetDeadline(time.Now().Add(deadline))
					_, err = readLine(tls.Client(n, client(fmt.Sprintf("r%d.example", 50+i))))
					n.Close()
				}
				if connected.Add(1); err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
			}
		})
	}
	var most time.Duration
	for version := 1; version <= 20; version++ {
		began := time.Now()
		w.apply(routes(version)...)
		most = max(most, time.Since(began))
		at := connected.Load()
		w.until("clients connected under this configuration", func() bool { return connected.Load() > at+4 || failed.Load() > 0 })
	}
	close(stop)
	work.Wait()
	t.Logf("%d connections during 20 reloads, of which the longest took %s", connected.Load(), most)
	for _, c := range kept {
		if _, err := io.WriteString(c, "still\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := readLine(c); err != nil || line != "still" {
			t.Fatalf("a connection through all reloads: %q, %v", line, err)
		}
	}
}

func TestWhatIsRemovedDrainsAndIsThenCut(t *testing.T) {
	w := start(t, func(o *Options) { o.Drain = 700 * time.Millisecond })
	a, b := w.says("a"), w.says("b")
	two, gone := w.byPort(plan.ModeTCP, 5001, a, b), w.byPort(plan.ModeTCP, 5002, a)
	w.apply(two, gone)
	open := func(port uint16) *net.TCPConn {
		c := w.dial(port)
		if _, err := readLine(c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	conns := map[string]*net.TCPConn{}
	for range 2 {
		c := w.dial(5001)
		line, err := readLine(c)
		if err != nil {
			t.Fatal(err)
		}
		conns[line] = c
	}
	conns["route"] = open(5002)
	two.Backends = two.Backends[:1]
	w.apply(two)
	began := time.Now()
	for name, c := range conns {
		if _, err := io.WriteString(c, "x\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := readLine(c); err != nil || line != "x" {
			t.Errorf("%s, while it drains: %q, %v", name, line, err)
		}
	}
	if _, err := net.Dial("tcp", netip.AddrPortFrom(w.addr, 5002).String()); err == nil {
		t.Error("the port of a removed route takes connections")
	}
	for _, name := range []string{"b", "route"} {
		if _, err := io.ReadAll(conns[name]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("cut after %s already", took)
	}
	for _, r := range w.records(2) {
		if r.Outcome != OutcomeDrained {
			t.Errorf("record %+v", r)
		}
	}
	if _, err := io.WriteString(conns["a"], "x\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := readLine(conns["a"]); err != nil || line != "x" {
		t.Errorf("what was not removed: %q, %v", line, err)
	}
}

func TestWhatComesBackBeforeItsDrainEndsIsNotCut(t *testing.T) {
	w := start(t, func(o *Options) { o.Drain = time.Second })
	r := w.byPort(plan.ModeTCP, 5001, w.says("a"))
	w.apply(r)
	c := w.dial(5001)
	if _, err := readLine(c); err != nil {
		t.Fatal(err)
	}
	w.apply()
	w.apply(r)
	select {
	case <-time.After(1500 * time.Millisecond):
	case <-t.Context().Done():
	}
	if _, err := io.WriteString(c, "x\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := readLine(c); err != nil || line != "x" {
		t.Errorf("%q, %v", line, err)
	}
	if line, err := readLine(w.dial(5001)); err != nil || line != "a" {
		t.Errorf("a new one: %q, %v", line, err)
	}
	if st := w.Status().Routes[0]; st.Total != 2 || st.Conns != 2 {
		t.Errorf("status %+v", st)
	}
}

func TestTwoClaimsOfOneNameOrPortAreToldApart(t *testing.T) {
	a1, a2 := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	backend := []Backend{{"web", netip.MustParseAddrPort("10.0.0.1:80")}}
	host := func(id, name, mode string, at ...netip.Addr) Route {
		return Route{ID: id, Host: name, Mode: mode, Port: 443, Addresses: at, Backends: backend, Network: "n"}
	}
	port := func(id, mode string, n uint16, at ...netip.Addr) Route {
		return Route{ID: id, Mode: mode, Port: n, Addresses: at, Backends: backend, Network: "n"}
	}
	pass, term := plan.ModePassthrough, plan.ModeTerminate
	for name, c := range map[string]struct {
		routes []Route
		want   []bool
	}{
		"other names":          {[]Route{host("a", "a.b", pass, a1), host("b", "b.b", term, a1)}, []bool{true, true}},
		"one name":             {[]Route{host("a", "a.b", pass, a1), host("b", "a.b", term, a1)}, []bool{true, false}},
		"at two addresses":     {[]Route{host("a", "a.b", pass, a1), host("b", "a.b", pass, a2)}, []bool{true, true}},
		"one of two addresses": {[]Route{host("a", "a.b", pass, a1), host("b", "a.b", pass, a2, a1)}, []bool{true, false}},
		"port of names":        {[]Route{host("a", "a.b", pass, a1), port("b", "tcp", 443, a1), port("c", "tcp", 80, a1), port("d", "tcp", 443, a2)}, []bool{true, false, false, true}},
		"names of a port":      {[]Route{port("a", "tcp", 80, a1), host("b", "a.b", pass, a1)}, []bool{true, false}},
		"udp is apart":         {[]Route{port("a", "tcp", 53, a1), port("b", "udp", 53, a1), port("c", "udp", 53, a1)}, []bool{true, true, false}},
	} {
		for i, s := range claims(Config{Routes: c.routes}, true) {
			if (s.problem == "") != c.want[i] {
				t.Errorf("%s, route %d: %q", name, i, s.problem)
			}
		}
	}
	if s := claims(Config{Routes: []Route{host("a", "a.b", term, a1)}}, false); s[0].problem == "" {
		t.Error("a route to terminate, where nothing does, has no problem")
	}
}

func TestAnInvalidConfigurationChangesNothing(t *testing.T) {
	w := start(t)
	good := w.byPort(plan.ModeTCP, 5001, w.says("a"))
	w.apply(good)
	for what, change := range map[string]func(*Route){
		"id":         func(r *Route) { r.ID = "" },
		"mode":       func(r *Route) { r.Mode = "ftp" },
		"check":      func(r *Route) { r.Check = "ping" },
		"host":       func(r *Route) { r.Host = "a.b" },
		"no port":    func(r *Route) { r.Port = 0 },
		"name":       func(r *Route) { r.Mode, r.Port, r.Host = plan.ModePassthrough, 443, "A.b" },
		"name port":  func(r *Route) { r.Mode, r.Port, r.Host = plan.ModePassthrough, 444, "a.b" },
		"address":    func(r *Route) { r.Addresses = nil },
		"zone":       func(r *Route) { r.Addresses = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} },
		"backends":   func(r *Route) { r.Backends = nil },
		"backend":    func(r *Route) { r.Backends = []Backend{{Name: "x"}} },
		"twice":      func(r *Route) { r.Backends = append(r.Backends, r.Backends[0]) },
		"many":       func(r *Route) { r.Backends = make([]Backend, MaxBackends+1) },
		"proxy":      func(r *Route) { r.Proxy = 3 },
		"proxy udp":  func(r *Route) { r.Mode, r.Proxy = plan.ModeUDP, 1 },
		"path":       func(r *Route) { r.Path = "/x" },
		"path split": func(r *Route) { r.Check, r.Path = plan.CheckHTTP, "/x HTTP/1.1\r\nHost: evil" },
	} {
		r := good
		r.Backends = slices.Clone(r.Backends)
		change(&r)
		if err := w.Apply(Config{Routes: []Route{r}}); err == nil {
			t.Errorf("%s: it is taken", what)
		}
	}
	if err := w.Apply(Config{Routes: []Route{good, good}}); err == nil {
		t.Error("a route twice is taken")
	}
	if line, err := readLine(w.dial(5001)); err != nil || line != "a" {
		t.Errorf("%q, %v", line, err)
	}
}
