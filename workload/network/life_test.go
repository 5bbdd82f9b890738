package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// stream is an open connection between two workloads, with an echo at its end.
type stream struct {
	t *testing.T
	c net.Conn
}

func (p place) stream(to place, port int) stream {
	p.t.Helper()
	var ln net.Listener
	to.in(func() (err error) {
		ln, err = net.Listen("tcp", netip.AddrPortFrom(to.v4, uint16(port)).String())
		return err
	})
	go func() {
		c, err := ln.Accept()
		ln.Close()
		if err == nil {
			_, _ = io.Copy(c, c)
		}
	}()
	var c net.Conn
	p.in(func() (err error) {
		c, err = net.DialTimeout("tcp", netip.AddrPortFrom(to.v4, uint16(port)).String(), patient)
		return err
	})
	p.t.Cleanup(func() { c.Close() })
	s := stream{p.t, c}
	s.lives("at first")
	return s
}

func (s stream) lives(when string) {
	s.t.Helper()
	must(s.t, s.c.SetDeadline(time.Now().Add(patient)))
	text := []byte("are you there, " + when)
	if _, err := s.c.Write(text); err != nil {
		s.t.Fatalf("connection %s: %v", when, err)
	}
	if _, err := io.ReadFull(s.c, make([]byte, len(text))); err != nil {
		s.t.Fatalf("connection %s: %v", when, err)
	}
}

// silent checks that nothing passes any more, in either direction: what is written
// at one end does not come to the other.
func (s stream) silent(at place, beacon stream) {
	s.t.Helper()
	in := at.tap("eth0")
	if _, err := s.c.Write([]byte(marker)); err != nil {
		s.t.Fatal(err)
	}
	beacon.lives("while another is cut")
	if _, err := beacon.c.Write([]byte("seen now")); err != nil {
		s.t.Fatal(err)
	}
	for _, f := range in.until(s.t, "seen now") {
		if strings.Contains(string(f), marker) {
			s.t.Error("a connection that the update forbids goes on")
		}
	}
}

func (m *machine) status(t *testing.T, id workload.ID) workload.Status {
	t.Helper()
	all, err := m.kind.Observe(context.Background())
	must(t, err)
	return all[id]
}

// shape is all that can be seen of a namespace, by the programs that people use.
func (p place) shown() string {
	p.t.Helper()
	var out string
	p.in(func() error {
		for _, c := range []string{"ip -d link", "ip addr", "ip route show table all", "ip -6 route show table all", "ip rule", "ip -6 rule", "nft -a list ruleset", "tc qdisc", "bridge fdb"} {
			b, err := exec.Command("sh", "-c", c).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %w: %s", c, err, b)
			}
			for line := range strings.Lines(string(b)) {
				// Timers run by themselves.
				if !strings.Contains(line, "timer") && !strings.Contains(line, "valid_lft") {
					out += line
				}
			}
		}
		return nil
	})
	return out
}

// differ lists the lines that only one of two texts has.
func differ(before, after string) string {
	var out []string
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

func TestEnsureTwiceChangesNothing(t *testing.T) {
	w := newWorld(t, "a")
	site := internet(t, w.nodes["a"])
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("one", "a", 2, egress(plan.EgressNode)).add("two", "a", 3, func(a *plan.Attachment) { a.Bandwidth = 50_000_000 }).up()
	s := d.place("one").stream(d.place("two"), 80)
	host := place{t: t, ns: w.nodes["a"].host}
	before := []string{d.routerPlace("a").shown(), d.place("two").shown(), host.shown()}
	d.up()
	if after := []string{d.routerPlace("a").shown(), d.place("two").shown(), host.shown()}; !slices.Equal(before, after) {
		t.Errorf("changed:\n%s", differ(strings.Join(before, "\n"), strings.Join(after, "\n")))
	}
	s.lives("after it was ensured again")
	if !answered(t, d.place("one"), site, "203.0.113.9") {
		t.Error("no way out any more")
	}
}

// TestUpdateIsInPlace: what an update brings is there, what it takes is gone, and
// connections that concern neither live on.
func TestUpdateIsInPlace(t *testing.T) {
	w := newWorld(t, "a", "b")
	d := w.deploy("d", "front", "10.20.0.0/16", "a", "b").add("one", "a", 2).add("two", "b", 2).add("three", "a", 3).up()
	s := d.place("one").stream(d.place("two"), 80)
	three := d.place("three")
	closed := d.place("two").stream(d.place("one"), 81)
	kept := d.place("two").stream(d.place("one"), 82)
	d.version++
	d.members = d.members[:2]
	d.members[0].at[0].Allow, d.members[0].at[0].Open = []plan.Rule{rule("udp", beacon, beacon), rule("tcp", 82, 82)}, false
	d.add("four", "a", 4)
	d.up()
	s.lives("after an update")
	kept.lives("after an update that keeps its port open")
	closed.silent(d.place("one"), kept)
	if d.place("four").reaches(d.place("one"), d.place("one").v4, 7000, beacon) {
		t.Error("a port that the update closed is open")
	}
	if !d.place("four").reaches(d.place("two"), d.place("two").v4, 7000, beacon) {
		t.Error("the new workload does not reach the others")
	}
	three.in(func() error {
		if l, err := find("eth0"); err != nil || l != nil {
			t.Errorf("a workload that the plan has no more still has its cable: %v, %v", l, err)
		}
		return nil
	})
	if st := w.nodes["a"].status(t, d.router("a")); st.State != contract.StateRunning || st.Version != 2 {
		t.Errorf("status %+v", st)
	}
}

// TestDaemonMayDie: packets go on, nothing opens, and the next daemon takes over.
func TestDaemonMayDie(t *testing.T) {
	w := newWorld(t, "a")
	m := w.nodes["a"]
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("one", "a", 2).add("two", "a", 3, allow(rule("tcp", 80, 80), rule("udp", beacon, beacon))).up()
	s := d.place("one").stream(d.place("two"), 80)
	filters := d.routerPlace("a").shown()
	must(t, m.kind.Close())
	s.lives("without a daemon")
	if d.place("one").reaches(d.place("two"), d.place("two").v4, 7000, beacon) {
		t.Error("a port opened when the daemon died")
	}
	m.open(t, w)
	if st := m.status(t, d.router("a")); st.State != contract.StatePending || st.Version != 1 {
		t.Errorf("a new daemon sees %+v, want pending: it serves no names yet", st)
	}
	if err := m.kind.Attached(workload.ID{Contract: d.contract, Name: "one"}); err != nil {
		t.Errorf("a new daemon does not see the attachment: %v", err)
	}
	d.up()
	s.lives("with a new daemon")
	if st := m.status(t, d.router("a")); st.State != contract.StateRunning {
		t.Errorf("status %+v", st)
	}
	if now := d.routerPlace("a").shown(); now != filters {
		t.Errorf("the new daemon changed:\n%s", differ(filters, now))
	}
}

// remains is everything that a node's networks could leave on this machine.
func remains(t *testing.T, m *machine) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(m.run, func(p string, _ os.DirEntry, err error) error {
		out = append(out, "file "+p)
		return err
	}))
	mounts, err := mount.Under(m.run)
	must(t, err)
	for _, e := range mounts {
		out = append(out, "mount "+e.Target)
	}
	must(t, netns.Do(int(m.host.Fd()), func() error {
		all, err := links()
		for _, l := range all {
			out = append(out, "interface "+l.Attrs().Name)
		}
		return err
	}))
	return out
}

func TestRemoveLeavesNothing(t *testing.T) {
	w := newWorld(t, "a")
	m := w.nodes["a"]
	internet(t, m)
	before := remains(t, m)
	d := w.deploy("d", "front", "10.20.0.0/16", "a").network("back", "10.30.0.0/16", "a").
		add("one", "a", 2, egress(plan.EgressNode)).also("one", "a", 1, 2).add("two", "a", 3).up()
	ctx := context.Background()
	// A workload's cable goes with its router, at once.
	must(t, m.kind.Remove(ctx, d.router("a")))
	d.place("two").in(func() error {
		if l, err := find("eth0"); err != nil || l != nil {
			t.Errorf("the cable is left: %v, %v", l, err)
		}
		return nil
	})
	if err := m.kind.Attached(workload.ID{Contract: d.contract, Name: "two"}); err == nil {
		t.Error("a workload without its network counts as attached")
	}
	must(t, m.kind.Remove(ctx, d.router("a", 1)))
	for _, name := range []string{"one", "two"} {
		must(t, m.kind.Detach(ctx, workload.ID{Contract: d.contract, Name: name}))
	}
	if after := remains(t, m); !slices.Equal(before, after) {
		t.Errorf("left %q\nwas %q", after, before)
	}
	// Again, with nothing there.
	must(t, m.kind.Remove(ctx, d.router("a")))
	must(t, m.kind.Detach(ctx, workload.ID{Contract: d.contract, Name: "one"}))
	if all, err := m.kind.Observe(ctx); err != nil || len(all) > 0 {
		t.Errorf("observed %v, %v", all, err)
	}
}

// TestAlterationsAreMended: whoever changes something, it is seen, and the next
// Ensure makes it right.
func TestAlterationsAreMended(t *testing.T) {
	w := newWorld(t, "a")
	m := w.nodes["a"]
	internet(t, m)
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("one", "a", 2, egress(plan.EgressNode)).add("two", "a", 3, allow(rule("udp", beacon, beacon))).up()
	s := d.place("two").stream(d.place("one"), 80)
	host := place{t: t, ns: m.host}
	r := d.routerPlace("a")
	in := func(p place, command string) func() {
		return func() {
			t.Helper()
			p.in(func() error {
				if b, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
					return fmt.Errorf("%s: %w: %s", command, err, b)
				}
				return nil
			})
		}
	}
	for name, c := range map[string]struct {
		alter func()
		code  string
	}{
		"rule added":         {in(r, "nft insert rule inet zos forward accept"), ReasonAltered},
		"rule deleted":       {in(r, "nft flush chain inet zos to-two"), ReasonAltered},
		"policy":             {in(r, "nft 'chain inet zos forward { policy accept; }'"), ReasonAltered},
		"table deleted":      {in(r, "nft delete table inet zos"), ReasonAltered},
		"ports unbound":      {in(r, "nft delete table bridge zos"), ReasonAltered},
		"element added":      {in(r, "nft add element inet zos here4 { 10.20.1.3 }"), ReasonAltered},
		"element deleted":    {in(r, "nft delete element bridge zos ports4 '{ \"p3\" . 02:7a:0a:14:01:03 . 10.20.1.3 }'"), ReasonAltered},
		"map changed":        {in(r, "nft 'delete element inet zos to4 { 10.20.1.3 : jump to-two }; add element inet zos to4 { 10.20.1.3 : jump to-one }'"), ReasonAltered},
		"bridge down":        {in(r, "ip link set br0 down"), ReasonPending},
		"the node has moved": {in(host, "ip addr add 198.51.100.7/24 dev up0"), ReasonPending},
		"the node is back":   {in(host, "ip addr del 198.51.100.7/24 dev up0"), ReasonPending},
	} {
		if name == "the node is back" {
			continue // played after the one before it
		}
		c.alter()
		if st := m.status(t, d.router("a")); st.State != contract.StatePending || st.Reason != c.code {
			t.Errorf("%s: status %+v, want %s", name, st, c.code)
		}
		d.up()
		if st := m.status(t, d.router("a")); st.State != contract.StateRunning {
			t.Errorf("%s: status after Ensure %+v", name, st)
		}
		if d.place("one").reaches(d.place("two"), d.place("two").v4, 7000, beacon) {
			t.Errorf("%s: a closed port is open after Ensure", name)
		}
		s.lives("after " + name)
	}
	// The address that the node got meanwhile is closed to its tenants.
	rec, err := m.kind.readRecord(d.router("a"))
	must(t, err)
	if !slices.Contains(rec.View.Site.Closed, netip.MustParsePrefix("198.51.100.0/24")) {
		t.Errorf("closed are %v", rec.View.Site.Closed)
	}
	// Cables.
	one := workload.ID{Contract: d.contract, Name: "one"}
	inode := func() uint64 {
		n, err := inodeOf(d.place("one").ns)
		must(t, err)
		return n
	}
	before := inode()
	for name, alter := range map[string]func(){
		"port deleted": in(r, "ip link del p2"),
		"port down":    in(r, "ip link set p2 down"),
		"unplugged":    in(r, "ip link set p2 nomaster"),
		"eth0 down":    in(d.place("one"), "ip link set eth0 down"),
		"another MAC":  in(d.place("one"), "ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:77 up"),
	} {
		alter()
		if err := m.kind.Attached(one); err == nil {
			t.Errorf("%s: it counts as attached", name)
		}
		d.up()
		if err := m.kind.Attached(one); err != nil {
			t.Errorf("%s: after Attach: %v", name, err)
		}
		if !d.place("two").reaches(d.place("one"), d.place("one").v6, 7000, beacon) {
			t.Errorf("%s: not reached after Attach", name)
		}
	}
	if inode() != before {
		t.Error("the workload's namespace is another one than that in which its container runs")
	}
}

func TestAttachWaitsForItsNetwork(t *testing.T) {
	w := newWorld(t, "a")
	m := w.nodes["a"]
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("one", "a", 2)
	p := d.plan()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	attached := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		close(begun)
		_, err := m.kind.Attach(ctx, d.desired(p, "one"), d.members[0].at)
		attached <- err
	}()
	<-begun
	must(t, m.kind.Ensure(ctx, d.desired(p, d.router("a").Name)))
	must(t, <-attached)
	must(t, m.kind.Attached(workload.ID{Contract: d.contract, Name: "one"}))
	// And a version that the router has not seen yet is waited for.
	d.version++
	d.add("late", "a", 3)
	p = d.plan()
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := m.kind.Attach(short, d.desired(p, "late"), d.members[1].at); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("attached to a router of an older version: %v", err)
	}
	// What the plan doesn't say is refused.
	bad := slices.Clone(d.members[0].at)
	bad[0].IPv4 = "10.20.1.9"
	if _, err := m.kind.Attach(ctx, d.desired(p, "one"), bad); problem.Code(err) != CodeInvalid {
		t.Errorf("an address that the plan does not give: %v", err)
	}
}

func TestEnsureRefusesWhatIsNotItsOwn(t *testing.T) {
	w := newWorld(t, "a", "b")
	m := w.nodes["a"]
	d := w.deploy("d", "front", "10.20.0.0/16", "a", "b").add("one", "a", 2)
	p := d.plan()
	good := d.desired(p, d.router("a").Name)
	for name, spoil := range map[string]func(*workload.Desired){
		"another slot":   func(x *workload.Desired) { *x = d.desired(p, d.router("b").Name) },
		"another kind":   func(x *workload.Desired) { x.Plan.Kind = plan.KindContainer },
		"another name":   func(x *workload.Desired) { x.ID.Name, x.Plan.Name = "front-00000000", "front-00000000" },
		"a path":         func(x *workload.Desired) { x.ID.Name, x.Plan.Name = "../x", "../x" },
		"no config":      func(x *workload.Desired) { x.Plan.Config = nil },
		"no deployment":  func(x *workload.Desired) { x.Deployment = nil },
		"not in network": func(x *workload.Desired) { x.Deployment = &plan.Plan{} },
	} {
		x := good
		spoil(&x)
		if err := m.kind.Ensure(context.Background(), x); problem.Code(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	entries, err := os.ReadDir(m.run)
	must(t, err)
	if len(entries) > 0 {
		t.Errorf("left %v", entries)
	}
	// An agent that fails is an error, and does not undo what stands without it.
	w.agent.err = errors.New("no device")
	if err := m.kind.Ensure(context.Background(), good); err == nil {
		t.Error("no error of the agent")
	}
	if st := m.status(t, good.ID); st.State != contract.StatePending {
		t.Errorf("status %+v", st)
	}
	w.agent.err = nil
	must(t, m.kind.Ensure(context.Background(), good))
}

func TestDamagedRecordIsARemnant(t *testing.T) {
	w := newWorld(t, "a")
	m := w.nodes["a"]
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("one", "a", 2, egress(plan.EgressNode)).up()
	path := m.kind.path(routerPrefix, d.router("a"), ".json")
	must(t, os.WriteFile(path, []byte("{"), 0o600))
	if st, ok := func() (workload.Status, bool) {
		all, err := m.kind.Observe(context.Background())
		must(t, err)
		st, ok := all[d.router("a")]
		return st, ok
	}(); !ok || st.State != contract.StatePending || st.Version != 0 {
		t.Errorf("observed %t, %+v", ok, st)
	}
	d.up()
	if st := m.status(t, d.router("a")); st.State != contract.StateRunning {
		t.Errorf("after Ensure: %+v", st)
	}
	must(t, os.WriteFile(path, []byte("{"), 0o600))
	must(t, m.kind.Remove(context.Background(), d.router("a")))
	if left := w.agent.removed; len(left) != 1 {
		t.Errorf("the agent was told to remove %v", left)
	}
}

func TestNamesAndNothingElseAtTheRouter(t *testing.T) {
	w := newWorld(t, "a", "b")
	d := w.deploy("d", "front", "10.20.0.0/16", "a", "b").add("one", "a", 2).add("two", "b", 2).up()
	one, a, b := d.place("one"), d.routerPlace("a"), d.routerPlace("b")
	for _, at := range both(a) {
		for _, network := range []string{"udp", "tcp"} {
			q := new(dns.Msg)
			q.SetQuestion("two.front.internal.", dns.TypeA)
			var answer *dns.Msg
			one.in(func() error {
				c, err := dns.DialTimeout(network, netip.AddrPortFrom(at, dnsPort).String(), patient)
				if err != nil {
					return err
				}
				defer c.Close()
				must(t, c.SetDeadline(time.Now().Add(patient)))
				if err := c.WriteMsg(q); err != nil {
					return err
				}
				answer, err = c.ReadMsg()
				return err
			})
			if len(answer.Answer) != 1 || !strings.Contains(answer.Answer[0].String(), d.place("two").v4.String()) {
				t.Errorf("%s over %s: %v", at, network, answer)
			}
		}
	}
	// The control is a port that answers on the same address: names.
	udp := a.udp(a.v4, 7000)
	far := b.udp(b.v4, 7000)
	farNames := d.place("two").udp(d.place("two").v4, beacon)
	one.send(netip.Addr{}, netip.AddrPortFrom(a.v4, 7000), "router")
	one.send(netip.Addr{}, netip.AddrPortFrom(b.v4, 7000), "router of another node")
	one.send(netip.Addr{}, netip.AddrPortFrom(d.place("two").v4, beacon), "beacon")
	texts(t, farNames, "beacon")
	if got := append(pending(udp), pending(far)...); len(got) > 0 {
		t.Errorf("reached routers: %q", got)
	}
}

func TestBandwidthIsLimitedBothWays(t *testing.T) {
	w := newWorld(t, "a")
	const rate = 8_000_000
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("slow", "a", 2, func(a *plan.Attachment) { a.Bandwidth = rate }).add("fast", "a", 3).up()
	slow, fast := d.place("slow"), d.place("fast")
	// Far more at once than the limit lets through or keeps waiting is lost; what is
	// counted is that, and not a time.
	const packets, size = 1500, 1200
	burst := func(from, to place) int {
		in := to.tap("eth0")
		c := to.udp(to.v4, 7000)
		must(t, c.SetReadBuffer(4<<20))
		from.in(func() error {
			out, err := dialUDP(netip.AddrPortFrom(to.v4, 7000))
			if err != nil {
				return err
			}
			defer out.Close()
			must(t, out.SetWriteBuffer(8<<20))
			b := make([]byte, size)
			for range packets {
				// A full queue is the limit at work.
				_, _ = out.Write(b)
			}
			return nil
		})
		// The last word has to wait its turn in the same queue, and may be lost too.
		for end := time.Now().Add(patient); time.Now().Before(end); {
			from.send(netip.Addr{}, netip.AddrPortFrom(to.v4, 7000), "last")
			if slices.ContainsFunc(pending(c), func(s string) bool { return s == "last" }) {
				break
			}
		}
		from.send(netip.Addr{}, netip.AddrPortFrom(to.v4, 7001), "end of it")
		n := 0
		for _, f := range in.until(t, "end of it") {
			if len(f) >= size {
				n++
			}
		}
		return n
	}
	// In the queue a tenth of a second, plus 20 ms at once: 8 Mbit/s are 1000 bytes
	// in a millisecond, so about a tenth of what is sent fits.
	if n := burst(slow, fast); n >= packets*3/4 {
		t.Errorf("%d of %d packets left a limited workload at once", n, packets)
	}
	if n := burst(fast, slow); n >= packets*3/4 {
		t.Errorf("%d of %d packets came to a limited workload at once", n, packets)
	}
	// The limit goes with the version.
	d.version++
	d.members[0].at[0].Bandwidth = 0
	d.up()
	slow.in(func() error {
		l, err := find("eth0")
		if err != nil {
			return err
		}
		all, err := netlink.QdiscList(l)
		for _, q := range all {
			if q.Type() == "tbf" {
				t.Error("the limit is still there")
			}
		}
		return err
	})
}

func TestNamesInTheRunDirectory(t *testing.T) {
	k := &Kind{cfg: Config{Run: "/run"}}
	id := workload.ID{Contract: canon.Sum([]byte("c")), Name: "front-0123abcd"}
	for _, suffix := range []string{"", ".json", ".json.tmp"} {
		if got, ok := parse(routerPrefix, filepath.Base(k.path(routerPrefix, id, suffix))); !ok || got != id {
			t.Errorf("%q: %v, %t", suffix, got, ok)
		}
	}
	if networkOf(id) != "front" || networkOf(workload.ID{Name: "x"}) != "" {
		t.Errorf("network of %s: %q", id.Name, networkOf(id))
	}
	for _, bad := range []string{"", "r-", "r-x", "w-" + id.Contract.String() + "-a", "r-" + id.Contract.String(), "r-" + id.Contract.String() + "-", "r-" + id.Contract.String() + "-A",
		"r-" + strings.ToUpper(id.Contract.String()) + "-a", "r-" + id.Contract.String() + "-a/b"} {
		if got, ok := parse(routerPrefix, bad); ok {
			t.Errorf("%q is %v", bad, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("r-" + canon.Sum([]byte("c")).String() + "-front-0123abcd.json")
	f.Fuzz(func(t *testing.T, name string) {
		id, ok := parse(routerPrefix, name)
		if !ok {
			return
		}
		k := &Kind{cfg: Config{Run: "/run"}}
		if again, ok := parse(routerPrefix, filepath.Base(k.path(routerPrefix, id, ".json"))); !ok || again != id {
			t.Errorf("%q is %v, comes back as %v", name, id, again)
		}
		_ = networkOf(id)
	})
}
