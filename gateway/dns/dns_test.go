package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/zero-os/zos/problem"
)

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func testZone() Zone {
	return Zone{
		Domain: "grid.example", Serial: 7,
		NS: []NameServer{{"ns1.grid.example", addrs("198.51.100.1", "2001:db8::1")}, {"ns.elsewhere.example", nil}},
		Names: map[string][]netip.Addr{
			"": addrs("198.51.100.9"), "shop": addrs("198.51.100.10", "198.51.100.11", "2001:db8::10"), "four": addrs("198.51.100.12"),
			"empty": nil, "www.eu.shop": addrs("198.51.100.13"),
		},
		TXT: map[string][]string{"_acme-challenge.shop.grid.example": {"one", `two\003"x`}, "_acme-challenge.a.b.grid.example": {"deep"}},
		CAA: []string{"ca.example"},
	}
}

func newServer(t testing.TB) *Server {
	t.Helper()
	s := New(Options{})
	if err := s.SetZone(testZone()); err != nil {
		t.Fatal(err)
	}
	return s
}

func ask(t testing.TB, s *Server, name string, kind uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	q.SetEdns0(4096, true)
	return exchange(t, s, q)
}

func exchange(t testing.TB, s *Server, q *dns.Msg) *dns.Msg {
	t.Helper()
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer := s.Answer(b, maxUDP)
	r := new(dns.Msg)
	if err := r.Unpack(answer); err != nil {
		t.Fatal(err)
	}
	if r.Id != q.Id || !r.Response || r.RecursionAvailable {
		t.Errorf("header %+v", r.MsgHdr)
	}
	return r
}

func values(rrs []dns.RR) (out []string) {
	for _, rr := range rrs {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return out
}

func TestAnswersSayWhatTheZoneHas(t *testing.T) {
	s := newServer(t)
	for _, c := range []struct {
		name   string
		kind   uint16
		rcode  int
		answer []string
		soa    bool
	}{
		{"shop.grid.example.", dns.TypeA, 0, []string{"198.51.100.10", "198.51.100.11"}, false},
		{"shop.grid.example.", dns.TypeAAAA, 0, []string{"2001:db8::10"}, false},
		{"four.grid.example.", dns.TypeAAAA, 0, nil, true}, // no data
		{"four.grid.example.", dns.TypeMX, 0, nil, true},
		{"empty.grid.example.", dns.TypeA, 0, nil, true},
		{"nobody.grid.example.", dns.TypeA, dns.RcodeNameError, nil, true},
		{"x.shop.grid.example.", dns.TypeA, dns.RcodeNameError, nil, true},
		{"b.grid.example.", dns.TypeA, 0, nil, true}, // between the domain and a record
		{"a.b.grid.example.", dns.TypeTXT, 0, nil, true},
		{"_acme-challenge.a.b.grid.example.", dns.TypeTXT, 0, []string{`"deep"`}, false},
		{"_acme-challenge.shop.grid.example.", dns.TypeTXT, 0, []string{`"one"`, `"two\\003\"x"`}, false},
		{"grid.example.", dns.TypeA, 0, []string{"198.51.100.9"}, false},
		{"grid.example.", dns.TypeNS, 0, []string{"ns.elsewhere.example.", "ns1.grid.example."}, false},
		{"grid.example.", dns.TypeSOA, 0, []string{"ns1.grid.example. hostmaster.grid.example. 7 3600 600 86400 10"}, false},
		{"grid.example.", dns.TypeCAA, 0, []string{`0 issue "ca.example"`}, false},
		{"shop.grid.example.", dns.TypeCAA, 0, nil, true},
		{"ns1.grid.example.", dns.TypeA, 0, []string{"198.51.100.1"}, false},
		{"shop.grid.example.", dns.TypeANY, 0, []string{`"RFC8482" ""`}, false},
		{"nobody.grid.example.", dns.TypeANY, dns.RcodeNameError, nil, true},
		{"other.example.", dns.TypeA, dns.RcodeRefused, nil, false},
		{"example.", dns.TypeSOA, dns.RcodeRefused, nil, false},
		{".", dns.TypeNS, dns.RcodeRefused, nil, false},
		{"xgrid.example.", dns.TypeA, dns.RcodeRefused, nil, false},
		{"grid.example.", dns.TypeAXFR, dns.RcodeRefused, nil, false},
	} {
		r := ask(t, s, c.name, c.kind)
		got := values(r.Answer)
		if r.Rcode != c.rcode || !slices.Equal(got, c.answer) {
			t.Errorf("%s %s: rcode %d, answer %q; want %d, %q", c.name, dns.TypeToString[c.kind], r.Rcode, got, c.rcode, c.answer)
		}
		if soa := len(r.Ns) == 1 && r.Ns[0].Header().Rrtype == dns.TypeSOA; soa != c.soa {
			t.Errorf("%s %s: authority %v", c.name, dns.TypeToString[c.kind], r.Ns)
		}
		if r.Authoritative == (c.rcode == dns.RcodeRefused) {
			t.Errorf("%s %s: authoritative %v", c.name, dns.TypeToString[c.kind], r.Authoritative)
		}
	}
	if r := ask(t, s, "grid.example.", dns.TypeNS); len(r.Extra) != 3 || !slices.Contains(values(r.Extra), "198.51.100.1") || !slices.Contains(values(r.Extra), "2001:db8::1") {
		t.Errorf("glue %v", r.Extra)
	}
}

func TestCaseOfTheQuestionIsKept(t *testing.T) {
	r := ask(t, newServer(t), "sHoP.GrId.eXaMpLe.", dns.TypeA)
	if len(r.Answer) != 2 || r.Answer[0].Header().Name != "sHoP.GrId.eXaMpLe." || r.Question[0].Name != "sHoP.GrId.eXaMpLe." {
		t.Errorf("%v", r)
	}
}

func TestWhatIsNoPlainQuestionIsRefused(t *testing.T) {
	s := newServer(t)
	for name, c := range map[string]struct {
		change func(*dns.Msg)
		rcode  int
	}{
		"update":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"notify":        {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		"chaos":         {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"no question":   {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		"two questions": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"an answer in it": {func(m *dns.Msg) {
			m.Answer = []dns.RR{&dns.A{Hdr: head("shop.grid.example.", dns.TypeA, 1), A: net.IPv4(1, 2, 3, 4)}}
		}, dns.RcodeFormatError},
		"new EDNS": {func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
	} {
		q := new(dns.Msg)
		q.SetQuestion("shop.grid.example.", dns.TypeA)
		c.change(q)
		if r := exchange(t, s, q); r.Rcode != c.rcode || len(r.Answer) > 0 {
			t.Errorf("%s: %v", name, r)
		}
	}
	answer := new(dns.Msg)
	answer.SetQuestion("shop.grid.example.", dns.TypeA)
	answer.Response = true
	b, _ := answer.Pack()
	if s.Answer(b, maxUDP) != nil || s.Answer(nil, maxUDP) != nil || s.Answer(make([]byte, 11), maxUDP) != nil {
		t.Error("an answer, or nothing, is answered")
	}
}

func TestLargeAnswersAreCutToWhatTheClientTakes(t *testing.T) {
	z := testZone()
	for i := range MaxTexts {
		z.TXT["big.grid.example"] = append(z.TXT["big.grid.example"], fmt.Sprint(i, strings.Repeat("x", 200)))
	}
	s := New(Options{})
	if err := s.SetZone(z); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ edns, size, most int }{{0, maxUDP, 512}, {100, maxUDP, 512}, {1000, maxUDP, 1000}, {65000, maxUDP, maxUDP}, {512, dns.MaxMsgSize, dns.MaxMsgSize}} {
		q := new(dns.Msg)
		q.SetQuestion("big.grid.example.", dns.TypeTXT)
		if c.edns > 0 {
			q.SetEdns0(uint16(c.edns), false)
		}
		b, _ := q.Pack()
		answer := s.Answer(b, c.size)
		r := new(dns.Msg)
		if err := r.Unpack(answer); err != nil {
			t.Fatal(err)
		}
		if len(answer) > c.most || r.Truncated != (c.size == maxUDP) || !r.Truncated && len(r.Answer) != MaxTexts {
			t.Errorf("%+v: %d bytes, truncated %v, %d records", c, len(answer), r.Truncated, len(r.Answer))
		}
	}
}

func TestServerIsNoAmplifier(t *testing.T) {
	now := time.Unix(1e9, 0)
	l := newLimiter(50, func() time.Time { return now })
	count := func(ip string, n int) (got [3]int) {
		for range n {
			got[l.take(&net.UDPAddr{IP: net.ParseIP(ip), Port: 53})]++
		}
		return got
	}
	if got := count("192.0.2.1", 1000); got[pass] != 50 || got[slip] != 475 {
		t.Errorf("first second %v", got)
	}
	if got := count("192.0.2.200", 10); got[pass] != 0 {
		t.Errorf("of the same network %v", got)
	}
	if got := count("203.0.113.1", 10); got[pass] != 10 {
		t.Errorf("another network %v", got)
	}
	if count("2001:db8:1::1", 1000); count("2001:db8:1:ff::1", 10)[pass] != 0 {
		t.Error("one /56 is two")
	}
	now = now.Add(time.Second)
	if got := count("192.0.2.1", 1000); got[pass] != 50 {
		t.Errorf("next second %v", got)
	}
	q := new(dns.Msg)
	q.SetQuestion("shop.grid.example.", dns.TypeANY)
	b, _ := q.Pack()
	if n := len(truncated(b)); n > len(b) {
		t.Errorf("a slip has %d bytes, its query %d", n, len(b))
	}
	if n := len(newServer(t).Answer(b, maxUDP)); n > 3*len(b) {
		t.Errorf("ANY has %d bytes, its query %d", n, len(b))
	}
}

// serve runs s on loopback, and returns its address.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.ServeTCP(ctx, l) })
	wg.Go(func() { _ = s.ServeUDP(ctx, c) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		goleak.VerifyNone(t, ignore)
	})
	return l.Addr().String()
}

func TestBothTransportsAnswer(t *testing.T) {
	addr := serve(t, newServer(t))
	for _, network := range []string{"udp", "tcp"} {
		q := new(dns.Msg)
		q.SetQuestion("shop.grid.example.", dns.TypeA)
		c := &dns.Client{Net: network, Timeout: 10 * time.Second}
		r, _, err := c.Exchange(q, addr)
		if err != nil || len(r.Answer) != 2 {
			t.Errorf("%s: %v, %v", network, r, err)
		}
	}
	// Several questions on a connection, and junk ends it.
	conn, err := dns.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	for range 3 {
		q := new(dns.Msg)
		q.SetQuestion("four.grid.example.", dns.TypeA)
		if err := conn.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
		if r, err := conn.ReadMsg(); err != nil || len(r.Answer) != 1 {
			t.Fatalf("%v, %v", r, err)
		}
	}
	if _, err := conn.Conn.Write([]byte{0xff, 0xff, 1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	if r, err := conn.ReadMsg(); err == nil {
		t.Errorf("junk is answered by %v", r)
	}
}

func TestZoneIsReplacedAsAWhole(t *testing.T) {
	s := newServer(t)
	z := testZone()
	z.Serial, z.Names = 8, map[string][]netip.Addr{"new": addrs("198.51.100.20")}
	if err := s.SetZone(z); err != nil {
		t.Fatal(err)
	}
	if r := ask(t, s, "shop.grid.example.", dns.TypeA); len(r.Answer) > 0 { // its challenge is left
		t.Errorf("%v", r)
	}
	if r := ask(t, s, "new.grid.example.", dns.TypeA); len(r.Answer) != 1 {
		t.Errorf("%v", r)
	}
	z.Domain = "Not a domain"
	if err := s.SetZone(z); problem.Code(err) != "zone-data-invalid" {
		t.Errorf("%v", err)
	}
	if r := ask(t, s, "new.grid.example.", dns.TypeA); len(r.Answer) != 1 {
		t.Errorf("after a bad zone: %v", r)
	}
	if err := s.SetZone(Zone{}); err != nil {
		t.Fatal(err)
	}
	if r := ask(t, s, "new.grid.example.", dns.TypeA); r.Rcode != dns.RcodeRefused {
		t.Errorf("without a zone: %v", r)
	}
}

func TestBadZonesAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Zone){
		"no name server":        func(z *Zone) { z.NS = nil },
		"name server":           func(z *Zone) { z.NS[0].Name = "NS" },
		"empty label":           func(z *Zone) { z.Names["a..b"] = nil },
		"long name":             func(z *Zone) { z.Names[strings.Repeat("a.", 120)+"b"] = nil },
		"label in upper case":   func(z *Zone) { z.Names["A"] = nil },
		"long label":            func(z *Zone) { z.Names[strings.Repeat("a", 64)] = nil },
		"no address":            func(z *Zone) { z.Names["a"] = []netip.Addr{{}} },
		"mapped address":        func(z *Zone) { z.Names["a"] = addrs("::ffff:1.2.3.4") },
		"address with a zone":   func(z *Zone) { z.Names["a"] = addrs("fe80::1%eth0") },
		"too many addresses":    func(z *Zone) { z.Names["a"] = make([]netip.Addr, MaxAddrs+1) },
		"text elsewhere":        func(z *Zone) { z.TXT["other.example"] = []string{"x"} },
		"text of a bad name":    func(z *Zone) { z.TXT["a..grid.example"] = []string{"x"} },
		"long text":             func(z *Zone) { z.TXT["a.grid.example"] = []string{strings.Repeat("x", 256)} },
		"too many texts":        func(z *Zone) { z.TXT["a.grid.example"] = make([]string, MaxTexts+1) },
		"domain with final dot": func(z *Zone) { z.Domain = "grid.example." },
	} {
		z := testZone()
		change(&z)
		if err := New(Options{}).SetZone(z); problem.Code(err) != "zone-data-invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	s := newServer(f)
	for _, name := range []string{"shop.grid.example.", ".", "x.example.", `a\000b.grid.example.`} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeANY, dns.TypeTXT, dns.TypeNS} {
			q := new(dns.Msg)
			q.SetQuestion(name, kind)
			q.SetEdns0(4096, true)
			b, err := q.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		answer := s.Answer(b, maxUDP)
		if answer == nil {
			return
		}
		r := new(dns.Msg)
		if err := r.Unpack(answer); err != nil || len(answer) > maxUDP || !r.Response || answer[0] != b[0] || answer[1] != b[1] {
			t.Fatalf("%d bytes, %v: %v", len(answer), err, r)
		}
		_ = truncated(b)
	})
}

func TestNamesAnswerAtEveryDepth(t *testing.T) {
	s := newServer(t)
	if r := ask(t, s, "www.eu.shop.grid.example.", dns.TypeA); r.Rcode != dns.RcodeSuccess || !slices.Equal(values(r.Answer), []string{"198.51.100.13"}) {
		t.Errorf("%v", r)
	}
	// What lies between has no records, and is there.
	if r := ask(t, s, "eu.shop.grid.example.", dns.TypeA); r.Rcode != dns.RcodeSuccess || len(r.Answer) > 0 {
		t.Errorf("%v", r)
	}
	// No name answers for those below it, or beside it.
	for _, name := range []string{"a.www.eu.shop.grid.example.", "b.eu.shop.grid.example."} {
		if r := ask(t, s, name, dns.TypeA); r.Rcode != dns.RcodeNameError {
			t.Errorf("%s: %v", name, r)
		}
	}
}
