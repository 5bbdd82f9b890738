package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/logs"
)

func TestTheWorldReachesWhatIsPublished(t *testing.T) {
	w := newWorld(t)
	d := w.deploy("shop", 1, "db", "web").port(plan.ModeTCP, 20001, 5432, "db").up()
	d.answers("db", 5432)
	d.answers("web", 8080)
	repeats(t, w.hears(shared+":20001", "db"))
	// And nothing else: not another port of the address, not one of the backend's.
	for _, to := range []string{shared + ":20002", shared + ":5432", shared + ":22", shared + ":443", leasable + ":20001"} {
		closed(t, w.internet, to)
	}
	if s := d.status(); s.State != contract.StateRunning || s.Detail != "" || s.Version != 1 {
		t.Errorf("status %+v", s)
	}
	st := w.kind.State(limited(t), d.contract)
	if st.Process != nil || st.Public != nil || len(st.Status.Routes) != 1 || st.Status.Routes[0].Total == 0 {
		t.Errorf("state %+v", st)
	}
	if other := w.kind.State(limited(t), canon.Sum([]byte("other"))); len(other.Gateways)+len(other.Routes)+len(other.Status.Routes) != 0 {
		t.Errorf("another contract is told %+v", other)
	}
}

// inside is the process as the kernel shows it.
func (w *world) inside() process.Ref {
	w.t.Helper()
	ref := w.kind.processRef()
	if !ref.Alive() {
		w.t.Fatal("there is no process")
	}
	return ref
}

func TestTheProcessHasNoRightAtAll(t *testing.T) {
	w := newWorld(t)
	d := w.deploy("shop", 1, "db").port(plan.ModeTCP, 20001, 5432, "db").up()
	d.answers("db", 5432)
	w.hears(shared+":20001", "db")
	ref := w.inside()
	s, err := process.ReadSecurity(ref.PID)
	must(t, err)
	if s.Capabilities != 0 || !s.NoNewPrivs || s.Seccomp != 2 {
		t.Errorf("the kernel says %+v", s)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", ref.PID))
	must(t, err)
	if !bytes.Contains(status, []byte("Uid:\t64001\t64001\t64001\t64001")) || !bytes.Contains(status, []byte("Gid:\t64001\t64001\t64001\t64001")) || !bytes.Contains(status, []byte("Groups:\t \n")) {
		t.Errorf("it runs as\n%s", status)
	}
	// It is alone in its namespaces, and shares none but that of the public card.
	for _, ns := range []string{"mnt", "pid", "ipc", "uts", "net"} {
		var mine, its unix.Stat_t
		must(t, unix.Stat("/proc/self/ns/"+ns, &mine))
		must(t, unix.Stat(fmt.Sprintf("/proc/%d/ns/%s", ref.PID, ns), &its))
		if mine.Ino == its.Ino {
			t.Errorf("it shares the %s namespace", ns)
		}
	}
	// What it sees of files is the program and a number.
	root := fmt.Sprintf("/proc/%d/root", ref.PID)
	var seen []string
	must(t, filepath.WalkDir(root+"/", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			seen = append(seen, strings.TrimPrefix(path, root))
		}
		return err
	}))
	if strings.Join(seen, " ") != "/proc/sys/net/core/somaxconn /zos-gateway" {
		t.Errorf("it sees %v", seen)
	}
	if err := os.WriteFile(root+"/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("its root can be written to: %v", err)
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", ref.PID))
	must(t, err)
	if n := bytes.Count(mounts, []byte("\n")); n > 2 {
		t.Errorf("it has %d mounts:\n%s", n, mounts)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", ref.PID))
	must(t, err)
	for _, fd := range fds {
		at, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", ref.PID, fd.Name()))
		if err != nil {
			continue
		}
		if !strings.HasPrefix(at, "socket:") && !strings.HasPrefix(at, "anon_inode:") && at != "/dev/null" && !strings.HasSuffix(at, errorFile) {
			t.Errorf("it has %s open", at)
		}
	}
	if oom, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", ref.PID)); err != nil || string(oom) != "200\n" {
		t.Errorf("when memory is short it weighs %q, %v", oom, err)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", ref.PID))
	must(t, err)
	for line := range strings.Lines(string(limits)) {
		var soft, hard uint64
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if _, err := fmt.Sscan(rest, &soft, &hard); err != nil || hard > openFiles || hard == 0 {
				t.Errorf("%v: %s", err, line)
			}
		}
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
			if _, err := fmt.Sscan(rest, &soft, &hard); err != nil || hard != 0 {
				t.Errorf("%v: %s", err, line)
			}
		}
	}
}

// TestThePublicSideReachesNothingOfTheNode is root in the public namespace, which
// is more than the process is.
func TestThePublicSideReachesNothingOfTheNode(t *testing.T) {
	w := newWorld(t)
	d := w.deploy("shop", 1, "db").port(plan.ModeTCP, 20001, 5432, "db").up()
	d.answers("db", 5432)
	w.hears(shared+":20001", "db")
	var host net.Listener
	in(t, w.host, func() (err error) { host, err = net.Listen("tcp", "127.0.0.1:0"); return err })
	defer host.Close()
	pub, err := netns.Open(w.kind.public.path)
	must(t, err)
	defer pub.Close()
	v4, v6 := d.address(10)
	for _, to := range []string{v4 + ":5432", "[" + v6 + "]:5432", "10.20.1.1:53", host.Addr().String(), "169.254.169.254:80", "10.0.2.2:80"} {
		closed(t, pub, to)
	}
	in(t, pub, func() error {
		all, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range all {
			if n := l.Attrs().Name; n != "lo" && n != cardName {
				t.Errorf("interface %s is in the public namespace", n)
			}
		}
		for _, s := range []struct{ path, want string }{{"ipv4/ip_forward", "0"}, {"ipv6/conf/all/forwarding", "0"}, {"ipv6/conf/pub0/accept_ra", "0"}, {"ipv4/conf/pub0/accept_redirects", "0"}} {
			b, err := os.ReadFile("/proc/sys/net/" + s.path)
			if err != nil || strings.TrimSpace(string(b)) != s.want {
				t.Errorf("%s is %q, %v", s.path, b, err)
			}
		}
		return nil
	})
	// It begins connections to its authority alone.
	for _, port := range []int{443, 25, 53, 80} {
		var l net.Listener
		in(t, w.internet, func() (err error) { l, err = net.Listen("tcp", fmt.Sprintf("8.8.8.8:%d", port)); return err })
		defer l.Close()
	}
	in(t, pub, func() error {
		c, err := net.DialTimeout("tcp", "8.8.8.8:443", 2*time.Second)
		if err != nil {
			t.Errorf("an authority can't be reached: %v", err)
			return nil
		}
		return c.Close()
	})
	for _, port := range []string{"25", "53", "80"} {
		closed(t, pub, "8.8.8.8:"+port)
	}
	// Not even from a published port.
	err = netns.Do(int(pub.Fd()), func() error {
		c, err := (&net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP(leasable)}}).Dial("tcp", "8.8.8.8:25")
		if err == nil {
			c.Close()
			return errors.New("it was")
		}
		return nil
	})
	must(t, err)
}

func TestARestartedDaemonFindsItsProcess(t *testing.T) {
	w := newWorld(t)
	d := w.deploy("shop", 1, "db").port(plan.ModeTCP, 20001, 5432, "db").up()
	d.answers("db", 5432)
	c := w.hears(shared+":20001", "db")
	before := w.inside()
	w.stop()
	// Nobody is there: connections live, and new ones can be made.
	repeats(t, c)
	repeats(t, w.hears(shared+":20001", "db"))
	w.begin()
	w.await("the daemon has the process again", func() bool { return d.status().State == contract.StateRunning })
	if w.inside() != before {
		t.Error("it started another one")
	}
	repeats(t, c)
	repeats(t, w.hears(shared+":20001", "db"))
	// While the ledger says nothing, what was served is served on.
	w.set(func(f *fakeFacts) { f.known = false })
	w.restart()
	for range 3 * minStockOfDialer {
		w.hears(shared+":20001", "db").Close()
	}
	repeats(t, c)
	if w.inside() != before {
		t.Error("it started another one")
	}
	w.set(func(f *fakeFacts) { f.known = true })
}

// minStockOfDialer is how many sockets the process keeps ready of a new network.
const minStockOfDialer = 8

func TestAKilledProcessComesBackWithAllRoutes(t *testing.T) {
	w := newWorld(t)
	d := w.deploy("shop", 1, "db", "web").port(plan.ModeTCP, 20001, 5432, "db").port(plan.ModeTCP, 20002, 8080, "web").up()
	d.answers("db", 5432)
	d.answers("web", 8080)
	w.hears(shared+":20001", "db")
	for range 2 {
		before := w.inside()
		must(t, unix.Kill(before.PID, unix.SIGKILL))
		w.await("another process serves", func() bool {
			now := w.kind.processRef()
			return now.Alive() && now != before && d.status().State == contract.StateRunning
		})
		w.hears(shared+":20001", "db")
		w.hears(shared+":20002", "web")
	}
}

func TestAProcessThatIsNotConfinedIsReplaced(t *testing.T) {
	w := newWorld(t)
	d := w.deploy("shop", 1, "db").port(plan.ModeTCP, 20001, 5432, "db").up()
	d.answers("db", 5432)
	w.stop()
	must(t, w.kind.processRef().End(limited(t), 0))
	// Something else listens in its place: this very test, with all rights.
	path := filepath.Join(w.dir, "run", socketFile)
	must(t, os.Remove(path))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	defer l.Close()
	stop := impostor(l)
	defer stop()
	w.begin()
	w.hears(shared+":20001", "db")
	if w.inside().PID == os.Getpid() {
		t.Error("it took the impostor")
	}
}

// impostor says hello to whoever connects.
func impostor(l *net.UnixListener) (stop func()) {
	p := control.NewProcess(l, nil, discard())
	ctx, cancel := contextWithCancel()
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Run(ctx) }()
	return func() { cancel(); <-done }
}

func TestTheProcessGetsSocketsOfItsGatewaysAlone(t *testing.T) {
	w := newWorld(t)
	d := w.deploy("shop", 1, "db").port(plan.ModeTCP, 20001, 5432, "db").up()
	b := broker{w.kind}
	ctx := limited(t)
	for _, key := range []string{"", "/", "x/www", d.contract.String(), d.contract.String() + "/db", d.contract.String() + "/../public", canon.Sum([]byte("other")).String() + "/www", d.contract.String() + "/www/front"} {
		if fds, err := b.Sockets(ctx, control.SocketsRequest{Network: key, Count: 1}); problem.Code(err) != CodeNotYours || len(fds) > 0 {
			t.Errorf("%q: %v, %v", key, fds, err)
		}
	}
	fds, err := b.Sockets(ctx, control.SocketsRequest{Network: d.contract.String() + "/www", Count: 3})
	must(t, err)
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	if len(fds) != 3 {
		t.Errorf("%d sockets", len(fds))
	}
	// They are of the gateway's namespace, from which only what is published can be
	// reached, and they begin nowhere else.
	want, err := netns.Open(filepath.Join(w.dir, "netns", "g-"+d.contract.String()+"-www"))
	must(t, err)
	defer want.Close()
	for _, fd := range fds {
		ns, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS)
		must(t, err)
		var a, z unix.Stat_t
		must(t, unix.Fstat(ns, &a))
		must(t, unix.Fstat(int(want.Fd()), &z))
		unix.Close(ns)
		if a.Ino != z.Ino {
			t.Error("a socket of another namespace")
		}
	}
	if _, err := b.Store(ctx, control.StoreRequest{Contract: canon.Sum([]byte("other")), Op: control.StoreGet, Key: "k"}); problem.Code(err) != CodeNotYours {
		t.Errorf("another contract's store: %v", err)
	}
	for _, host := range []string{"localhost", "router.lan", "10.0.0.1", "a..b", ""} {
		if addrs, err := b.Resolve(ctx, host); err == nil {
			t.Errorf("%q is %v", host, addrs)
		}
	}
	// A log that nobody asked for goes nowhere.
	b.Log([]control.LogLine{{Contract: canon.Sum([]byte("other")), Workload: "../x", Line: []byte("x")}})
	if entries, err := os.ReadDir(filepath.Join(w.dir, "data")); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestTheAccessLogIsTheGatewaysOwn(t *testing.T) {
	w := newWorld(t)
	d := w.deploy("shop", 1, "db").port(plan.ModeTCP, 20001, 5432, "db").up()
	d.answers("db", 5432)
	w.hears(shared+":20001", "db").Close()
	r := logs.NewReader(w.kind.LogDir(d.id()))
	w.await("the connection stands in the log", func() bool {
		records, _, err := r.Read(1, 100)
		must(t, err)
		return len(records) > 0 && bytes.Contains(records[0].Data, []byte("backend=db")) && bytes.Contains(records[0].Data, []byte("client="+router))
	})
	b := broker{w.kind}
	b.Log([]control.LogLine{{Contract: d.contract, Workload: "www", Line: []byte("a\nb\x1b[31m\xff")}})
	records, _, err := r.Read(1, 100)
	must(t, err)
	if last := records[len(records)-1]; string(last.Data) != "a?b?[31m?" {
		t.Errorf("a line of a hostile process is %q", last.Data)
	}
	line := bytes.Repeat([]byte("x"), control.MaxLine)
	for range 4 * logBurst / control.MaxLine {
		b.Log([]control.LogLine{{Contract: d.contract, Workload: "www", Line: line}})
	}
	if w.kind.rings.of[d.id()].dropped == 0 {
		t.Error("it writes as much as it likes")
	}
}

func TestAPoolThatIsTakenBackTakesAllDown(t *testing.T) {
	w := newWorld(t)
	d := w.deploy("shop", 1, "db").port(plan.ModeTCP, 20001, 5432, "db").up()
	d.answers("db", 5432)
	w.hears(shared+":20001", "db")
	ref := w.inside()
	w.set(func(f *fakeFacts) {
		f.pool = contract.Pool{}
		f.says[d.id()] = Judgement{Err: problem.New("no-pool", "none")}
	})
	w.await("the process has ended", func() bool { return !ref.Alive() })
	w.await("the card is back, and off", func() bool {
		off := false
		in(t, w.host, func() error {
			l, err := cardByMAC(cardMAC)
			if err != nil || l == nil {
				return err
			}
			addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
			off = l.Attrs().Flags&net.FlagUp == 0 && len(addrs) == 0
			return err
		})
		return off
	})
	closed(t, w.internet, shared+":20001")
	if s := d.status(); s.State != contract.StateRunning || !strings.Contains(s.Detail, "no-pool") {
		t.Errorf("status %+v", s)
	}
	w.set(func(f *fakeFacts) { f.pool = somePool(); delete(f.says, d.id()) })
	w.hears(shared+":20001", "db")
}

func TestAMissingCardIsNamedAndHeals(t *testing.T) {
	w := newWorld(t)
	in(t, w.internet, func() error {
		l, err := netlink.LinkByName("inet0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	d := w.deploy("shop", 1, "db").port(plan.ModeTCP, 20001, 5432, "db")
	if err := d.tryUp(); problem.Code(err) != CodeCardMissing {
		t.Errorf("without a card: %v", err)
	}
	d.answers("db", 5432)
	if s := d.status(); s.State != contract.StateFailed || s.Reason != CodeCardMissing {
		t.Errorf("status %+v", s)
	}
	w.card()
	w.hears(shared+":20001", "db")
	w.await("it runs", func() bool { return d.status().State == contract.StateRunning })
}

func TestWhatMayNotBeServedIsNot(t *testing.T) {
	w := newWorld(t)
	d := w.deploy("shop", 1, "db").port(plan.ModeTCP, 20001, 5432, "db").up()
	d.answers("db", 5432)
	w.hears(shared+":20001", "db")
	w.set(func(f *fakeFacts) {
		f.says[d.id()] = Judgement{Err: problem.New("address-not-offered", "the pool has it no more")}
	})
	w.await("it is closed", func() bool {
		c, err := w.dial(shared + ":20001")
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if s := d.status(); s.State != contract.StateRunning || !strings.Contains(s.Detail, "address-not-offered") {
		t.Errorf("status %+v", s)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	w := newWorld(t)
	other := w.deploy("other", 3, "web").port(plan.ModeTCP, 20002, 80, "web").up()
	other.answers("web", 80)
	kept := w.hears(shared+":20002", "web")
	d := w.deploy("shop", 1, "db").port(plan.ModeTCP, 20001, 5432, "db").up()
	d.answers("db", 5432)
	c := w.hears(shared+":20001", "db")
	must(t, c.Close())
	ref := w.inside()
	ctx := limited(t)
	must(t, w.kind.Remove(ctx, d.id()))
	must(t, w.kind.Remove(ctx, d.id()))
	closed(t, w.internet, shared+":20001")
	for _, path := range []string{w.kind.recordPath(d.id()), filepath.Join(w.dir, "data", d.contract.String()), filepath.Join(w.dir, "netns", "g-"+d.contract.String()+"-www")} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	if _, ok := mustObserve(t, w)[d.id()]; ok {
		t.Error("Observe still shows it")
	}
	if w.inside() != ref {
		t.Error("the process was ended for it")
	}
	repeats(t, kept)
}

func mustObserve(t *testing.T, w *world) map[workload.ID]workload.Status {
	t.Helper()
	all, err := w.kind.Observe(limited(t))
	must(t, err)
	return all
}

func TestAProcessThatKeepsSocketsOfARemovedGatewayIsEnded(t *testing.T) {
	w := newWorld(t)
	d := w.deploy("shop", 1, "db").port(plan.ModeTCP, 20001, 5432, "db").up()
	d.answers("db", 5432)
	w.hears(shared+":20001", "db")
	// The test holds one in its place.
	fds, err := broker{w.kind}.Sockets(limited(t), control.SocketsRequest{Network: networkKey(d.id()), Count: 1})
	must(t, err)
	defer unix.Close(fds[0])
	w.kind.cfg.Drain = 500 * time.Millisecond
	ref := w.inside()
	must(t, w.kind.Remove(limited(t), d.id()))
	if ref.Alive() {
		t.Error("it was not ended")
	}
}

func TestRoutesAreAPureFunctionOfPlansAndJudgements(t *testing.T) {
	slot := canon.Sum([]byte("slot"))
	w := &world{t: t, slot: slot}
	young := w.deploy("young", 1, "web").host("shop.example", plan.ModePassthrough, 8443, "web").host("other.example", plan.ModeTerminate, 8080, "web")
	old := w.deploy("old", 3, "a", "b").host("shop.example", plan.ModePassthrough, 443, "a", "b")
	of := func(d *deployment, says Judgement) published {
		p := d.plan()
		wl := d.desired(p, "www")
		g, err := plan.DecodeGateway(wl.Plan.Config)
		must(t, err)
		return published{wl, g, says}
	}
	routes := routesOf([]published{
		of(young, Judgement{Age: 9, Hosts: map[string]error{"other.example": problem.New("domain-unproven", "no text record")}}), of(old, Judgement{Age: 2}),
	})
	var got []string
	for _, r := range routes {
		line := r.Host + " " + r.Problem
		for _, b := range r.Backends {
			line += " " + b.Addr
		}
		got = append(got, line)
	}
	want := []string{"shop.example  10.20.3.10:443 10.20.3.11:443", "other.example domain-unproven no text record 10.20.1.10:8080", "shop.example  10.20.1.10:8443"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	pool := somePool()
	gone := of(old, Judgement{Err: problem.New("no-pool", "")})
	gone.g.Addresses = []string{leasable}
	addrs, err := addressesOf(pool, []published{of(young, Judgement{}), gone})
	if err != nil || len(addrs) != 1 || addrs[0].String() != shared {
		t.Errorf("addresses %v, %v", addrs, err)
	}
	dns := []netip.Addr{netip.MustParseAddr(shared)}
	if n := len(openingsOf(addrs, dns, []published{of(young, Judgement{}), gone})); n != 4 {
		t.Errorf("%d ports are open, want 53/tcp, 53/udp, 80 and 443", n)
	}
}
