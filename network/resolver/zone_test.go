package resolver

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/spec/plan"
)

func TestAZoneIsWhatThePlanSays(t *testing.T) {
	p := testPlan(t)
	z := ZoneOf(p, "front")
	if z.Origin() != "front.internal." {
		t.Errorf("origin %s", z.Origin())
	}
	for name, want := range map[string]string{"web.front.internal": "10.20.1.2 fd00:20:1:1::2", "Pool.front.internal.": "10.20.1.2 fd00:20:1:1::2 10.20.2.2 fd00:20:1:2::2",
		"db.back.internal": "", "nobody.front.internal": "", "front.internal": ""} {
		var got []string
		for _, a := range z.Lookup(name) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}
	for addr, want := range map[string]string{webAddr: plan.EgressNone, outAddr: plan.EgressNode, exitAddr: plan.EgressExit, "::ffff:" + outAddr: plan.EgressNode,
		"10.20.1.1": plan.EgressNone, "10.20.2.1": plan.EgressNone, "fd00:20:1:2::1": plan.EgressNone, strangerAddr: "-", "10.30.1.2": "-", "127.0.0.1": "-"} {
		egress, known := z.Egress(netip.MustParseAddr(addr))
		if !known {
			egress = "-"
		}
		if egress != want {
			t.Errorf("egress of %s: %s, want %s", addr, egress, want)
		}
	}
	for _, none := range []Zone{ZoneOf(nil, "front"), ZoneOf(p, "other"), ZoneOf(&plan.Plan{}, "")} {
		if _, known := none.Egress(netip.MustParseAddr(webAddr)); known || none.Lookup("web.front.internal") != nil {
			t.Error("a network that is not in the plan has a zone")
		}
	}
}

// An alias that equals a workload's name adds to it, and no address comes twice.
func TestAnAliasMayBeAnothersName(t *testing.T) {
	z := newZone("n", nil, nil, []member{
		{name: "a", aliases: []string{"a", "b"}, addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
		{name: "b", addrs: []netip.Addr{netip.MustParseAddr("10.0.0.3")}},
		{name: "c", aliases: []string{"", "bad.name", strings.Repeat("x", 64), "*"}, addrs: []netip.Addr{netip.MustParseAddr("10.0.0.4")}},
	})
	if got := z.Lookup("b.n.internal"); len(got) != 2 {
		t.Errorf("b: %v", got)
	}
	if got := z.Lookup("a.n.internal"); len(got) != 1 {
		t.Errorf("a: %v", got)
	}
	if len(z.names) != 3 {
		t.Errorf("names: %v", z.names)
	}
}

func TestReverseNamesAreReadAsTheyAreMade(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a netip.Addr
		if rapid.Bool().Draw(t, "v4") {
			a = netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "bytes")))
		} else {
			a = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "bytes")))
			if a.Is4In6() {
				t.Skip("no address of a network")
			}
		}
		name, err := dns.ReverseAddr(a.String())
		if err != nil {
			t.Fatal(err)
		}
		got, ok := addrOf(name)
		if !ok || got != a {
			t.Fatalf("%s is read as %s, %v", name, got, ok)
		}
		bits := rapid.IntRange(0, a.BitLen()).Draw(t, "bits")
		if zone := reverseZone(netip.PrefixFrom(a, bits).Masked()); !within(name, zone) {
			t.Fatalf("%s/%d: zone %s does not hold %s", a, bits, zone, name)
		}
	})
	for _, bad := range []string{"in-addr.arpa.", "1.in-addr.arpa.", "01.1.1.1.in-addr.arpa.", "1.1.1.1.1.in-addr.arpa.", "256.1.1.1.in-addr.arpa.", "::.in-addr.arpa.", "1.ip6.arpa.",
		strings.Repeat("g.", 32) + "ip6.arpa.", strings.Repeat("11", 31) + "1.ip6.arpa.", "1.1.1.1.example."} {
		if a, ok := addrOf(bad); ok {
			t.Errorf("%s is read as %s", bad, a)
		}
	}
}

func TestNameserversAreRead(t *testing.T) {
	got := Nameservers([]byte("# c\nnameserver 192.0.2.1\nnameserver\nnameserver bad\n search x\nnameserver  2001:db8::1 # x\nnameserver fe80::1%eth0\nnameserver 192.0.2.4\n"))
	var list []string
	for _, a := range got {
		list = append(list, a.String())
	}
	if want := "192.0.2.1:53 [2001:db8::1]:53 [fe80::1%eth0]:53"; strings.Join(list, " ") != want {
		t.Errorf("%v, want %s", list, want)
	}
}

func TestFilesOfAWorkload(t *testing.T) {
	p := testPlan(t)
	if got, want := string(ResolvConf(p, "db")), "search front.internal back.internal\nnameserver 10.20.1.1\nnameserver 10.30.1.1\noptions timeout:2 attempts:2\n"; got != want {
		t.Errorf("resolv.conf:\n%s", got)
	}
	if got, want := string(ResolvConf(p, "web-2")), "search front.internal\nnameserver 10.20.2.1\noptions timeout:2 attempts:2\n"; got != want {
		t.Errorf("resolv.conf of another node:\n%s", got)
	}
	if got := ResolvConf(p, "nobody"); got != nil {
		t.Errorf("resolv.conf of nobody: %s", got)
	}
	local := "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
	want := local + "10.20.1.3 db.front.internal db\nfd00:20:1:1::3 db.front.internal db\n10.30.1.2 db.back.internal db\nfd00:30:1:1::2 db.back.internal db\n"
	if got := string(Hosts(p, "db")); got != want {
		t.Errorf("hosts:\n%s", got)
	}
	if got := string(Hosts(nil, "db")); got != local {
		t.Errorf("hosts without a plan:\n%s", got)
	}
}

// The C library of this machine finds names by these files: by the short name, in
// the second network, and in the world behind the one attachment with egress.
func TestTheCLibraryFindsNames(t *testing.T) {
	l := newLab(t, nil)
	l.serve(Config{NetNS: l.router, Addrs: []netip.Addr{netip.MustParseAddr("10.30.1.1")}, Zone: withEgress(ZoneOf(testPlan(t), "back")), Upstream: l.server.cfg.Upstream})
	dir := t.TempDir()
	resolv, hosts := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	must(t, os.WriteFile(resolv, ResolvConf(testPlan(t), "db"), 0o644))
	must(t, os.WriteFile(hosts, Hosts(testPlan(t), "db"), 0o644))
	for name, want := range map[string]string{"web": webAddr, "web-2.front.internal": "10.20.2.2", "pool": webAddr, "db.back.internal": "10.30.1.2", "db": dbAddr,
		"world.example.com": "203.0.113.1", "nobody": "", "localhost": "127.0.0.1"} {
		cmd := exec.CommandContext(t.Context(), "unshare", "-m", "sh", "-c", `mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/hosts && exec getent ahostsv4 "$3"`, "sh", resolv, hosts, name)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := netns.Do(l.inside, func() error { return cmd.Start() })
		must(t, err)
		err = cmd.Wait()
		if (err != nil) != (want == "") || !strings.Contains(out.String()+" ", want+" ") {
			t.Errorf("getent %s: %v\n%s%s", name, err, out.String(), errs.String())
		}
	}
}

// withEgress gives every workload of a zone the way out.
func withEgress(z Zone) Zone {
	for a := range z.clients {
		z.clients[a] = plan.EgressNode
	}
	return z
}

// FuzzPacket plays what any workload may send: it must never crash the node's
// daemon, never leave the network without egress, and be answered in the size that
// was offered.
func FuzzPacket(f *testing.F) {
	for _, q := range []*dns.Msg{question("web.front.internal", dns.TypeA), question("example.com", dns.TypeHTTPS), question("front.internal", dns.TypeAXFR),
		question("2.1.20.10.in-addr.arpa", dns.TypePTR), question(strings.Repeat("a.", 120), dns.TypeANY)} {
		q.SetEdns0(1232, true)
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	z := ZoneOf(testPlan(f), "front")
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, egress := range []string{plan.EgressNone, plan.EgressNode} {
			v, query, reply := z.judge(egress, b)
			switch {
			case v == silence:
				continue
			case v == forward && egress == plan.EgressNone:
				t.Fatal("it leaves the network")
			case v == forward && !public(query.Question[0]):
				t.Fatal("a private name leaves the network")
			}
			packed := pack(reply, udpSize(query))
			if len(packed) > maxUDP {
				t.Fatalf("%d bytes", len(packed))
			}
			got := new(dns.Msg)
			if err := got.Unpack(packed); err != nil || !got.Response || got.Id != uint16(b[0])<<8|uint16(b[1]) {
				t.Fatalf("the answer can't be read: %v", err)
			}
		}
	})
}

// FuzzAnswer plays an upstream that says anything.
func FuzzAnswer(f *testing.F) {
	q := question("example.com", dns.TypeA)
	f.Add(plainAnswer("", q))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &Server{cfg: Config{}, log: slog.New(slog.DiscardHandler), ctx: t.Context()}
		s.cfg.Upstream = func(_ context.Context, _ string, query []byte) ([]byte, error) {
			out := bytes.Clone(b)
			if len(out) > 1 {
				copy(out, query[:2]) // the id, or nothing would be read
			}
			return out, nil
		}
		reply := new(dns.Msg)
		reply.SetReply(q)
		if out := pack(s.ask(plan.EgressNode, q, reply), dns.MinMsgSize); len(out) > dns.MinMsgSize {
			t.Fatalf("%d bytes", len(out))
		}
	})
}
