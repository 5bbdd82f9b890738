package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/linux/netns"
	netplan "github.com/zero-os/zos/network"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	tenant "github.com/zero-os/zos/workload/network"
)

// patient bounds every wait; nothing takes that long.
const patient = 30 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	t.Cleanup(cancel)
	return ctx
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "zos-gateway-test-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	out := filepath.Join(dir, "zos-gateway")
	cmd := exec.Command("go", "build", "-o", out, "github.com/zero-os/zos/cmd/zos-gateway")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the gateway process: %w: %s", err, b)
	}
	return out, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := built(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// world is a node in namespaces of this machine: its own namespace with the
// public card, the internet on the other end of it, and a tenant's network.
type world struct {
	t        *testing.T
	dir      string
	host     *os.File
	internet *os.File
	facts    *fakeFacts
	routers  *tenant.Kind
	kind     *Kind
	stop     func()
	slot     canon.Hash
	store    Store
	answers  Challenges
}

const (
	cardMAC  = "02:aa:00:00:00:01"
	router   = "198.51.100.1"
	shared   = "198.51.100.10"
	leasable = "198.51.100.11"
)

type noAgent struct{}

func (noAgent) Ensure(context.Context, netplan.Topology, int) error { return nil }
func (noAgent) Remove(context.Context, canon.Hash) error            { return nil }

// fakeFacts are what the ledger says.
type fakeFacts struct {
	mu    sync.Mutex
	pool  contract.Pool
	known bool
	says  map[workload.ID]Judgement
	zone  *control.Zone
}

func (f *fakeFacts) Pool() (contract.Pool, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pool, f.known
}

func (f *fakeFacts) Judge(d workload.Desired, _ plan.Gateway) Judgement {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.says[d.ID]
}

func (f *fakeFacts) Zone() *control.Zone {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.zone
}

// set changes the facts as a block of the ledger would.
func (w *world) set(change func(*fakeFacts)) {
	w.facts.mu.Lock()
	change(w.facts)
	w.facts.mu.Unlock()
	w.kind.Kick()
}

func somePool() contract.Pool {
	return contract.Pool{
		MAC:    cardMAC,
		Ranges: []contract.Range{{Prefix: "198.51.100.0/24", Router: router, First: shared, Last: "198.51.100.20"}},
		Shared: []string{shared}, First: 20000, Last: 20999, ACME: "https://8.8.8.8/dir", Roots: [][]byte{},
	}
}

func namespace(t testing.TB) *os.File {
	t.Helper()
	ns, err := netns.New()
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	in(t, ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return ns
}

func in(t testing.TB, ns *os.File, f func() error) {
	t.Helper()
	must(t, netns.Do(int(ns.Fd()), f))
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, func(*world) {})
}

// newWorldWith changes the world before the daemon starts.
func newWorldWith(t *testing.T, change func(*world)) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root, e.g. sudo make test")
	}
	w := &world{
		t: t, dir: t.TempDir(), host: namespace(t), internet: namespace(t), slot: canon.Sum([]byte("slot")),
		facts: &fakeFacts{pool: somePool(), known: true, says: map[workload.ID]Judgement{}},
	}
	// The process, nobody's root, passes through the directories above its own.
	for d := w.dir; d != "/"; d = filepath.Dir(d) {
		if st, err := os.Stat(d); err == nil && st.Mode().Perm()&0o011 != 0o011 {
			must(t, os.Chmod(d, st.Mode().Perm()|0o011))
		}
	}
	change(w)
	w.card()
	var err error
	w.routers, err = tenant.New(tenant.Config{Slot: w.slot, Agent: noAgent{}, Run: filepath.Join(w.dir, "netns"), Host: int(w.host.Fd()), Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(func() {
		if err := w.routers.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.wipe)
	w.begin()
	return w
}

// card puts the public card into the node's namespace, and the internet behind it.
func (w *world) card() {
	w.t.Helper()
	mac, err := net.ParseMAC(cardMAC)
	must(w.t, err)
	in(w.t, w.host, func() error {
		v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "inet0", PeerNamespace: netlink.NsFd(int(w.internet.Fd()))}
		v.Name, v.HardwareAddr = "eth1", mac
		return netlink.LinkAdd(v)
	})
	in(w.t, w.internet, func() error {
		l, err := netlink.LinkByName("inet0")
		if err != nil {
			return err
		}
		for _, a := range []string{router + "/24", "203.0.113.5/32", "8.8.8.8/32"} {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(l, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	})
}

// begin starts a node daemon's part.
func (w *world) begin() {
	w.t.Helper()
	path, err := built()
	must(w.t, err)
	cfg := Config{
		Run: filepath.Join(w.dir, "run"), Data: filepath.Join(w.dir, "data"), Netns: filepath.Join(w.dir, "netns", "public"), Program: path,
		Host: int(w.host.Fd()), Networks: w.routers.Gateways(), Facts: w.facts, Store: w.store, Every: 200 * time.Millisecond, Drain: 5 * time.Second,
		Challenges: w.answers, Log: slog.New(slog.NewTextHandler(testWriter{w.t}, nil)),
	}
	w.kind, err = New(cfg)
	must(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	kind := w.kind
	go func() { defer close(done); _ = kind.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := kind.Close(); err != nil {
			w.t.Error(err)
		}
	})
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// restart is a daemon that dies and comes again.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.begin()
}

// wipe removes everything, as when all contracts end, and checks that nothing is left.
func (w *world) wipe() {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	all, err := w.kind.Observe(ctx)
	if err != nil {
		w.t.Error(err)
	}
	for id := range all {
		if err := w.kind.Remove(ctx, id); err != nil {
			w.t.Error(err)
		}
	}
	w.set(func(f *fakeFacts) { f.pool, f.known = contract.Pool{}, true })
	w.await("everything public is gone", func() bool {
		_, err := netns.Open(w.kind.public.path)
		return err != nil && !w.kind.processRef().Alive()
	})
	w.stop()
	w.kind.reaping.Wait()
	attached, err := w.routers.List()
	if err != nil {
		w.t.Error(err)
	}
	for _, id := range attached {
		if err := w.routers.Detach(ctx, id); err != nil {
			w.t.Error(err)
		}
	}
	routers, err := w.routers.Observe(ctx)
	if err != nil {
		w.t.Error(err)
	}
	for id := range routers {
		if err := w.routers.Remove(ctx, id); err != nil {
			w.t.Error(err)
		}
	}
}

// await waits until something is so.
func (w *world) await(what string, so func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(patient)
	for wait := 5 * time.Millisecond; !so(); wait = min(2*wait, 200*time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("it never came that %s", what)
		}
		time.Sleep(wait)
	}
}

// deployment is a tenant's: one network, containers in it, and a gateway.
type deployment struct {
	w        *world
	contract canon.Hash
	version  uint64
	octet    byte
	backends []string // names; the i-th has address .10+i
	routes   []plan.Route
	addrs    []string
	leased   bool
}

func (w *world) deploy(name string, octet byte, backends ...string) *deployment {
	slices.Sort(backends)
	return &deployment{w: w, contract: canon.Sum([]byte("contract " + name)), version: 1, octet: octet, backends: backends, addrs: []string{shared}}
}

func (d *deployment) host(name, mode string, target uint16, backends ...string) *deployment {
	d.routes = append(d.routes, plan.Route{Host: name, Mode: mode, Port: 443, Network: "front", Backends: backends, Target: target, Check: plan.CheckNone})
	plan.SortRoutes(d.routes)
	return d
}

func (d *deployment) port(mode string, port, target uint16, backends ...string) *deployment {
	d.routes = append(d.routes, plan.Route{Mode: mode, Port: port, Network: "front", Backends: backends, Target: target, Check: plan.CheckNone})
	plan.SortRoutes(d.routes)
	return d
}

func (d *deployment) address(last byte) (v4, v6 string) {
	return netip.AddrFrom4([4]byte{10, 20, d.octet, last}).String(), fmt.Sprintf("fd00:%x:0:1::%x", d.octet, last)
}

func (d *deployment) attachment(last byte, open bool) plan.Attachment {
	v4, v6 := d.address(last)
	return plan.Attachment{Network: "front", IPv4: v4, IPv6: v6, Open: open, Egress: plan.EgressNone, Aliases: []string{}, Allow: []plan.Rule{}}
}

func (d *deployment) plan() *plan.Plan {
	t := d.w.t
	t.Helper()
	v4, v6 := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, d.octet, 0}), 24), netip.MustParsePrefix(fmt.Sprintf("fd00:%x:0:1::/64", d.octet))
	n := plan.Network{Name: "front", IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, d.octet, 0}), 23).Masked().String(), IPv6: netip.PrefixFrom(v6.Addr(), 48).Masked().String(),
		Nodes: []plan.NetworkNode{{Slot: d.w.slot, IPv4: v4.String(), IPv6: v6.String()}}}
	p := &plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: canon.Sum([]byte("group")), Name: "d", Networks: []plan.Network{n}}
	config, err := plan.NetworkConfig{V: plan.Version, Network: n.Name}.Encode()
	must(t, err)
	p.Workloads = append(p.Workloads, plan.Workload{Name: plan.RouterName(n.Name, d.w.slot), Kind: plan.KindNetwork, Slot: d.w.slot, Resources: plan.RouterResources(), Config: config})
	for i, name := range d.backends {
		config, err := plan.Container{
			V: plan.Version, Flist: canon.Sum([]byte("flist")), Size: 1, Args: []string{"/bin/x"}, Env: []string{}, WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), NoNewPrivs: true,
			Networks: []plan.Attachment{d.attachment(byte(10+i), false)},
		}.Encode()
		must(t, err)
		p.Workloads = append(p.Workloads, plan.Workload{Name: name, Kind: plan.KindContainer, Slot: d.w.slot, Config: config,
			Resources: plan.Resources{CPU: 100, Memory: 64 << 20, Disk: 64 << 20, PIDs: 16}})
	}
	config, err = plan.Gateway{V: plan.Version, Addresses: d.addrs, Leased: d.leased, Networks: []plan.Attachment{d.attachment(9, false)}, Routes: d.routes}.Encode()
	must(t, err)
	p.Workloads = append(p.Workloads, plan.Workload{Name: "www", Kind: plan.KindGateway, Slot: d.w.slot, Resources: plan.GatewayResources(), Config: config})
	slices.SortFunc(p.Workloads, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
	return p
}

func (d *deployment) desired(p *plan.Plan, name string) workload.Desired {
	d.w.t.Helper()
	for _, wl := range p.Workloads {
		if wl.Name == name {
			return workload.Desired{ID: workload.ID{Contract: d.contract, Name: name}, Version: d.version, Plan: wl, Deployment: p}
		}
	}
	d.w.t.Fatalf("no workload %s", name)
	return workload.Desired{}
}

func (d *deployment) id() workload.ID { return workload.ID{Contract: d.contract, Name: "www"} }

// up ensures the router, attaches the containers, and ensures the gateway.
func (d *deployment) up() *deployment {
	d.w.t.Helper()
	must(d.w.t, d.tryUp())
	return d
}

func (d *deployment) tryUp() error {
	d.w.t.Helper()
	ctx := limited(d.w.t)
	p := d.plan()
	must(d.w.t, d.w.routers.Ensure(ctx, d.desired(p, plan.RouterName("front", d.w.slot))))
	for i, name := range d.backends {
		_, err := d.w.routers.Attach(ctx, d.desired(p, name), []plan.Attachment{d.attachment(byte(10+i), false)})
		must(d.w.t, err)
	}
	return d.w.kind.Ensure(ctx, d.desired(p, "www"))
}

// status is what Observe shows of the gateway.
func (d *deployment) status() workload.Status {
	d.w.t.Helper()
	all, err := d.w.kind.Observe(limited(d.w.t))
	must(d.w.t, err)
	return all[d.id()]
}

// place opens a container's namespace.
func (d *deployment) place(name string) *os.File {
	d.w.t.Helper()
	ns, err := netns.Open(filepath.Join(d.w.dir, "netns", "w-"+d.contract.String()+"-"+name))
	must(d.w.t, err)
	d.w.t.Cleanup(func() { ns.Close() })
	return ns
}

// answers runs a server in a container that says its name to whoever connects and
// then repeats what it hears.
func (d *deployment) answers(name string, port uint16) {
	d.w.t.Helper()
	var l net.Listener
	in(d.w.t, d.place(name), func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.WriteString(c, name)
				_, _ = io.Copy(c, c)
			})
		}
	})
	d.w.t.Cleanup(func() { l.Close(); _ = d })
}

// dial connects from the internet.
func (w *world) dial(to string) (net.Conn, error) { return dialIn(w.t, w.internet, to) }

func dialIn(t testing.TB, ns *os.File, to string) (c net.Conn, err error) {
	t.Helper()
	err = netns.Do(int(ns.Fd()), func() error {
		c, err = net.DialTimeout("tcp", to, 2*time.Second)
		return err
	})
	if err == nil {
		t.Cleanup(func() { c.Close() })
		err = c.SetDeadline(time.Now().Add(patient))
	}
	return c, err
}

// hears connects from the internet and expects a backend's name.
func (w *world) hears(to, name string) net.Conn {
	w.t.Helper()
	var c net.Conn
	var last error
	w.await(name+" answers at "+to, func() bool {
		if c, last = w.dial(to); last != nil {
			return false
		}
		got := make([]byte, len(name))
		if _, last = io.ReadFull(c, got); last == nil && string(got) != name {
			last = fmt.Errorf("%q answers", got)
		}
		return last == nil
	})
	return c
}

// repeats checks that a connection still lives.
func repeats(t testing.TB, c net.Conn) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(patient)))
	if _, err := c.Write([]byte("still there")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 11)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "still there" {
		t.Fatalf("%q, %v", got, err)
	}
}

// closed checks that nothing can be connected to.
func closed(t testing.TB, ns *os.File, to string) {
	t.Helper()
	err := netns.Do(int(ns.Fd()), func() error {
		c, err := net.DialTimeout("tcp", to, 300*time.Millisecond)
		if err == nil {
			c.Close()
			return errors.New("it answers")
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", to, err)
	}
}

func contextWithCancel() (context.Context, context.CancelFunc) {
	return context.WithCancel(context.Background())
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (w *world) dialUDP(to string) (c net.Conn, err error) {
	w.t.Helper()
	in(w.t, w.internet, func() error { c, err = net.Dial("udp", to); return nil })
	if err == nil {
		w.t.Cleanup(func() { c.Close() })
	}
	return c, err
}
