package domain

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/zero-os/zos/problem"
)

func rr(t *testing.T, lines ...string) *Answer {
	t.Helper()
	a := &Answer{TTL: time.Minute}
	for _, l := range lines {
		r, err := dns.NewRR(l)
		if err != nil {
			t.Fatal(err)
		}
		a.Records = append(a.Records, r)
	}
	return a
}

func TestWhereANamePointsIsToldInWords(t *testing.T) {
	g1, g2, g6 := netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("198.51.100.11"), netip.MustParseAddr("2001:db8::10")
	for _, c := range []struct {
		name     string
		records  map[string]*Answer
		want     []netip.Addr
		problems []string
		notes    []string
	}{
		{"right", map[string]*Answer{"shop.example A": rr(t, "shop.example. 60 A 198.51.100.10", "shop.example. 60 A 198.51.100.11")}, []netip.Addr{g2, g1}, nil, nil},
		{"right by an alias", map[string]*Answer{"shop.example A": rr(t, "shop.example. 60 CNAME shop.grid.example.", "shop.grid.example. 60 A 198.51.100.10")}, []netip.Addr{g1}, nil, nil},
		{"elsewhere", map[string]*Answer{"shop.example A": rr(t, "shop.example. 60 A 192.0.2.7")}, []netip.Addr{g1},
			[]string{"shop.example points to 192.0.2.7, its gateway is at 198.51.100.10"}, nil},
		{"elsewhere, several", map[string]*Answer{"shop.example A": rr(t, "shop.example. 60 A 192.0.2.7", "shop.example. 60 A 192.0.2.8")}, []netip.Addr{g1, g2},
			[]string{"shop.example points to 192.0.2.7 and 192.0.2.8, its gateways are at 198.51.100.10 and 198.51.100.11"}, nil},
		{"elsewhere by an alias", map[string]*Answer{"shop.example A": rr(t, "SHOP.example. 60 CNAME old.example.", "old.example. 60 A 192.0.2.7")}, []netip.Addr{g1},
			[]string{"shop.example (an alias of old.example) points to 192.0.2.7, its gateway is at 198.51.100.10"}, nil},
		{"also elsewhere", map[string]*Answer{"shop.example A": rr(t, "shop.example. 60 A 192.0.2.7", "shop.example. 60 A 198.51.100.10")}, []netip.Addr{g1},
			[]string{"shop.example also points to 192.0.2.7, its gateway is at 198.51.100.10: remove the other"}, nil},
		{"elsewhere in IPv6", map[string]*Answer{"shop.example A": rr(t, "shop.example. 60 A 198.51.100.10"), "shop.example AAAA": rr(t, "shop.example. 60 AAAA 2001:db8::bad")}, []netip.Addr{g1},
			[]string{"shop.example also points to 2001:db8::bad, its gateway is at 198.51.100.10: remove the other"}, nil},
		{"one gateway only", map[string]*Answer{"shop.example A": rr(t, "shop.example. 60 A 198.51.100.10")}, []netip.Addr{g1, g2, g6}, nil,
			[]string{"shop.example does not point to 198.51.100.11 and 2001:db8::10: add an A record 198.51.100.11 and an AAAA record 2001:db8::10, so that clients have another way in if a gateway fails"}},
		{"absent", nil, []netip.Addr{g1}, []string{"shop.example does not exist; its gateway is at 198.51.100.10: add an A record 198.51.100.10"}, nil},
		{"no address", map[string]*Answer{"shop.example *": {}}, []netip.Addr{g1, g6},
			[]string{"shop.example has no address; its gateways are at 198.51.100.10 and 2001:db8::10: add an A record 198.51.100.10 and an AAAA record 2001:db8::10"}, nil},
		{"alias that leads nowhere", map[string]*Answer{"shop.example A": {Absent: true, Records: rr(t, "shop.example. 60 CNAME gone.example.").Records}}, []netip.Addr{g1},
			[]string{"shop.example (an alias of gone.example) has no address; its gateway is at 198.51.100.10: add an A record 198.51.100.10"}, nil},
		{"aliases in a circle", map[string]*Answer{"shop.example A": rr(t, "shop.example. 60 CNAME a.example.", "a.example. 60 CNAME shop.example.")}, []netip.Addr{g1},
			[]string{"shop.example (an alias of a.example) has no address; its gateway is at 198.51.100.10: add an A record 198.51.100.10"}, nil},
		{"addresses of another name do not count", map[string]*Answer{"shop.example A": rr(t, "other.example. 60 A 198.51.100.10"), "shop.example *": {}}, []netip.Addr{g1},
			[]string{"shop.example has no address; its gateway is at 198.51.100.10: add an A record 198.51.100.10"}, nil},
		{"private", map[string]*Answer{"shop.example A": rr(t, "shop.example. 60 A 10.0.0.7")}, []netip.Addr{g1},
			[]string{"shop.example points to 10.0.0.7, its gateway is at 198.51.100.10"}, []string{"10.0.0.7 is no public address"}},
		{"silence", map[string]*Answer{"shop.example A": nil}, []netip.Addr{g1}, []string{"the records of shop.example can't be looked up: nobody? answers"}, nil},
		{"no gateway", map[string]*Answer{"shop.example A": rr(t, "shop.example. 60 A 192.0.2.7")}, nil, []string{"shop.example is published at no gateway"}, nil},
	} {
		records := c.records
		if records == nil {
			records = map[string]*Answer{}
		}
		r, err := Check(context.Background(), &fakeDNS{answers: records}, "shop.example", c.want)
		if err != nil || !slices.Equal(r.Problems, c.problems) || !slices.Equal(r.Notes, c.notes) {
			t.Errorf("%s: %v\nproblems %q\nwant     %q\nnotes    %q\nwant     %q", c.name, err, r.Problems, c.problems, r.Notes, c.notes)
		}
	}
	if _, err := Check(context.Background(), &fakeDNS{}, "Not a name", nil); problem.Code(err) != "name-invalid" {
		t.Errorf("%v", err)
	}
}

func TestAuthoritiesAndProofsAreFoundAboveTheName(t *testing.T) {
	f := &fakeDNS{answers: map[string]*Answer{
		"a.b.shop.example *": {}, "a.b.shop.example A": rr(t, "a.b.shop.example. 60 A 198.51.100.10"),
		"shop.example CAA":      rr(t, `shop.example. 60 CAA 0 issue "LetsEncrypt.org; validationmethods=dns-01"`, `shop.example. 60 CAA 0 issue "ca.example"`, `shop.example. 60 CAA 0 iodef "mailto:x@y"`),
		"example CAA":           rr(t, `example. 60 CAA 0 issue ";"`),
		"_zos.shop.example TXT": rr(t, `_zos.shop.example. 60 TXT "zos1 group=" "x sig=y"`, `_zos.shop.example. 60 TXT "other"`),
	}}
	r, err := Check(context.Background(), f, "a.b.shop.example", []netip.Addr{netip.MustParseAddr("198.51.100.10")})
	if err != nil || len(r.Problems) > 0 || !slices.Equal(r.CAA, []string{"letsencrypt.org", "ca.example"}) || r.CAAOf != "shop.example" ||
		!slices.Equal(r.Proofs, []Found{{"shop.example", "zos1 group=x sig=y"}}) {
		t.Errorf("%+v, %v", r, err)
	}
	if !r.MayCertify("letsencrypt.org") || r.MayCertify("evil.example") || !(Report{}).MayCertify("anybody") {
		t.Error("who may certify")
	}
	f.set("a.b.shop.example CAA", nil)
	if r, _ := Check(context.Background(), f, "a.b.shop.example", []netip.Addr{netip.MustParseAddr("198.51.100.10")}); len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "authorities refuse") {
		t.Errorf("%q", r.Problems)
	}
}

func TestClientAsksTheNextResolverAndByTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg)
		r.SetReply(q)
		switch name := q.Question[0].Name; {
		case name == "fail.example.":
			r.Rcode = dns.RcodeServerFailure
		case name == "absent.example.":
			r.Rcode = dns.RcodeNameError
			r.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "example.", Rrtype: dns.TypeSOA, Class: 1, Ttl: 300}, Ns: "n.", Mbox: "m.", Minttl: 30}}
		case w.LocalAddr().Network() == "udp":
			r.Truncated = true
		default:
			a := rr(t, name+` 120 TXT "by" " TCP"`)
			r.Answer = a.Records
		}
		_ = w.WriteMsg(r)
	})
	started := make(chan struct{}, 2)
	servers := []*dns.Server{{Listener: l, Handler: handler}, {PacketConn: p, Handler: handler}}
	done := make(chan struct{}, 2)
	for _, s := range servers {
		s.NotifyStartedFunc = func() { started <- struct{}{} }
		go func() { _ = s.ActivateAndServe(); done <- struct{}{} }()
		<-started
	}
	t.Cleanup(func() {
		for _, s := range servers {
			_ = s.Shutdown()
			<-done
		}
	})
	ctx := context.Background()
	c := NewClient("127.0.0.1:1", l.Addr().String()) // at the first one nobody is
	a, err := c.Lookup(ctx, "x.example", dns.TypeTXT)
	if err != nil || !slices.Equal(a.texts(), []string{"by TCP"}) || a.TTL != 2*time.Minute || a.Absent {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := c.Lookup(ctx, "absent.example", dns.TypeTXT); err != nil || !a.Absent || a.TTL != 30*time.Second {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := c.Lookup(ctx, "fail.example", dns.TypeTXT); err == nil || !strings.Contains(err.Error(), "SERVFAIL") {
		t.Errorf("%v", err)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Lookup(over, "x.example", dns.TypeTXT); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
