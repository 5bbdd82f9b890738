package resolver

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

	"github.com/zero-os/zos/spec/plan"
)

func TestNamesOfTheNetworkAreAnswered(t *testing.T) {
	l := newLab(t, nil)
	for _, c := range []struct {
		name  string
		qtype uint16
		want  []string
	}{
		{"web.front.internal", dns.TypeA, []string{webAddr}},
		{"WEB.Front.InterNal", dns.TypeA, []string{webAddr}},
		{"web.front.internal", dns.TypeAAAA, []string{"fd00:20:1:1::2"}},
		{"postgres.front.internal", dns.TypeA, []string{dbAddr}},
		{"pool.front.internal", dns.TypeA, []string{webAddr, "10.20.2.2"}},
		{"pool.front.internal", dns.TypeANY, []string{webAddr, "10.20.2.2", "fd00:20:1:1::2", "fd00:20:1:2::2"}},
		{"web-2.front.internal", dns.TypeA, []string{"10.20.2.2"}},
	} {
		for _, from := range []string{dbAddr, "fd00:20:1:1::2"} {
			for _, network := range []string{"udp", "tcp"} {
				m := l.ask(network, from, question(c.name, c.qtype))
				got := answerAddrs(m)
				slices.Sort(got)
				if m.Rcode != dns.RcodeSuccess || !m.Authoritative || m.RecursionAvailable || !slices.Equal(got, c.want) {
					t.Errorf("%s %s from %s by %s: %v, want %v\n%s", dns.TypeToString[c.qtype], c.name, from, network, got, c.want, m)
				}
				if m.Question[0].Name != dns.Fqdn(c.name) || len(m.Answer) > 0 && m.Answer[0].Header().Name != dns.Fqdn(c.name) {
					t.Errorf("the letters of %s came back as %s", c.name, m.Question[0].Name)
				}
			}
		}
	}
	m := l.ask("udp", webAddr, question("3.1.20.10.in-addr.arpa", dns.TypePTR))
	if len(m.Answer) != 1 || m.Answer[0].(*dns.PTR).Ptr != "db.front.internal." {
		t.Errorf("the reverse of %s: %s", dbAddr, m)
	}
	six, err := dns.ReverseAddr("fd00:20:1:2::2")
	must(t, err)
	m = l.ask("udp", webAddr, question(six, dns.TypePTR))
	if len(m.Answer) != 1 || m.Answer[0].(*dns.PTR).Ptr != "web-2.front.internal." {
		t.Errorf("the reverse of an IPv6 address: %s", m)
	}
	if n := len(l.world.questions()); n != 0 {
		t.Errorf("the rest of the world was asked %d times", n)
	}
}

// A name that does not exist, or not of this type, says for how long that holds.
func TestWhatIsNotThereIsToldWithTheZone(t *testing.T) {
	l := newLab(t, nil)
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		zone  string
	}{
		{"nobody.front.internal", dns.TypeA, dns.RcodeNameError, "front.internal."},
		{"a.web.front.internal", dns.TypeA, dns.RcodeNameError, "front.internal."},
		{"web.front.internal", dns.TypeMX, dns.RcodeSuccess, "front.internal."},
		{"front.internal", dns.TypeA, dns.RcodeSuccess, "front.internal."},
		{"99.1.20.10.in-addr.arpa", dns.TypePTR, dns.RcodeNameError, "20.10.in-addr.arpa."},
	} {
		m := l.ask("udp", outAddr, question(c.name, c.qtype))
		if m.Rcode != c.rcode || len(m.Answer) != 0 || len(m.Ns) != 1 {
			t.Errorf("%s: %s", c.name, m)
			continue
		}
		if s, ok := m.Ns[0].(*dns.SOA); !ok || s.Hdr.Name != c.zone || s.Minttl != TTL {
			t.Errorf("%s: zone %s, want %s", c.name, m.Ns[0], c.zone)
		}
	}
}

func TestOnlyTheNetworksWorkloadsAreAnswered(t *testing.T) {
	l := newLab(t, nil)
	stranger := l.send("udp", strangerAddr, question("web.front.internal", dns.TypeA))
	// Packets are answered in the order in which they come: once the second is
	// answered, the first will never be.
	l.ask("udp", webAddr, question("web.front.internal", dns.TypeA))
	quiet(t, stranger.Conn)
	if got := l.server.Stats(); got.Dropped != 1 || got.Answered != 1 {
		t.Errorf("%+v", got)
	}
	if !l.turnedAway(strangerAddr) {
		t.Error("a stranger's connection stays")
	}
}

func TestWhatIsNoQuestionOfTheNetworkIsRefused(t *testing.T) {
	l := newLab(t, nil)
	chaos := question("version.bind", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	update := new(dns.Msg)
	update.SetUpdate("front.internal.")
	two := question("web.front.internal", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	unknownVersion := question("web.front.internal", dns.TypeA)
	unknownVersion.SetEdns0(1232, false)
	unknownVersion.IsEdns0().SetVersion(1)
	for _, c := range []struct {
		what  string
		q     *dns.Msg
		rcode int
	}{
		{"transfer of the zone", question("front.internal", dns.TypeAXFR), dns.RcodeRefused},
		{"increments of the zone", question("front.internal", dns.TypeIXFR), dns.RcodeRefused},
		{"another class", chaos, dns.RcodeRefused},
		{"an update", update, dns.RcodeNotImplemented},
		{"two questions", two, dns.RcodeFormatError},
		{"another EDNS", unknownVersion, dns.RcodeBadVers},
		{"the same deployment's other network", question("db.back.internal", dns.TypeA), dns.RcodeRefused},
		{"a zone that only ends alike", question("web.xfront.internal", dns.TypeA), dns.RcodeRefused},
		{"the domain above", question("internal", dns.TypeSOA), dns.RcodeRefused},
		{"a bare name", question("web", dns.TypeA), dns.RcodeRefused},
		{"another private network's reverse", question("1.1.168.192.in-addr.arpa", dns.TypePTR), dns.RcodeRefused},
		{"the link's reverse", question("1.0.254.169.in-addr.arpa", dns.TypePTR), dns.RcodeRefused},
		{"a part of a reverse name", question("1.20.10.in-addr.arpa", dns.TypePTR), dns.RcodeRefused},
		{"a neighbour's name", question("printer.local", dns.TypeA), dns.RcodeRefused},
	} {
		for _, network := range []string{"udp", "tcp"} {
			// Egress changes nothing about these: they never leave the network.
			for _, from := range []string{webAddr, outAddr, exitAddr} {
				if m := l.ask(network, from, c.q); m.Rcode != c.rcode || len(m.Answer) != 0 {
					t.Errorf("%s from %s by %s: %s, want %s", c.what, from, network, dns.RcodeToString[m.Rcode], dns.RcodeToString[c.rcode])
				}
			}
		}
	}
	for _, name := range []string{"example.com", "8.8.8.8.in-addr.arpa"} {
		if m := l.ask("udp", webAddr, question(name, dns.TypeA)); m.Rcode != dns.RcodeRefused || m.RecursionAvailable {
			t.Errorf("%s without egress: %s", name, m)
		}
	}
	if asked := l.world.questions(); len(asked) != 0 {
		t.Errorf("the rest of the world was asked %v", asked[0].Question)
	}
}

func TestEgressAsksTheWorldAndTellsItNothingElse(t *testing.T) {
	var mu sync.Mutex
	var egress []string
	var forward Upstream
	l := newLab(t, func(c *Config) {
		forward = c.Upstream
		c.Upstream = func(ctx context.Context, e string, q []byte) ([]byte, error) {
			mu.Lock()
			egress = append(egress, e)
			mu.Unlock()
			return forward(ctx, e, q)
		}
	})
	q := question("example.com", dns.TypeA)
	q.SetEdns0(4096, true)
	q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 32, Address: net.ParseIP(outAddr).To4()},
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"})
	for i, network := range []string{"udp", "tcp"} {
		m := l.ask(network, []string{outAddr, exitAddr}[i], q)
		if m.Rcode != dns.RcodeSuccess || !slices.Equal(answerAddrs(m), []string{"203.0.113.1"}) || !m.RecursionAvailable || m.Authoritative || m.IsEdns0() == nil {
			t.Errorf("%s: %s", network, m)
		}
	}
	if want := []string{plan.EgressNode, plan.EgressExit}; !slices.Equal(egress, want) {
		t.Errorf("egress %v, want %v", egress, want)
	}
	for _, got := range l.world.questions() {
		if opt := got.IsEdns0(); len(got.Extra) != 1 || len(opt.Option) != 0 || !opt.Do() || got.Question[0] != q.Question[0] {
			t.Errorf("the world was told: %s", got)
		}
	}
	if m := l.ask("udp", webAddr, q); m.Rcode != dns.RcodeRefused {
		t.Errorf("without egress: %s", m)
	}
	noRecursion := question("example.com", dns.TypeA)
	noRecursion.RecursionDesired = false
	if m := l.ask("udp", outAddr, noRecursion); m.Rcode != dns.RcodeRefused {
		t.Errorf("a question that wants no recursion: %s", m)
	}
	if n := len(l.world.questions()); n != 2 {
		t.Errorf("the world was asked %d times", n)
	}
}

func TestNoEgressOnANodeWithoutUpstream(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Upstream = nil })
	if m := l.ask("udp", outAddr, question("example.com", dns.TypeA)); m.Rcode != dns.RcodeRefused {
		t.Errorf("%s", m)
	}
}

// The exit's resolver answers the other nodes' routers, and no other node's does.
func TestOnlyTheExitAsksForOtherRouters(t *testing.T) {
	for _, exit := range []bool{true, false} {
		t.Run(fmt.Sprint(exit), func(t *testing.T) {
			l := newLab(t, func(c *Config) { c.Exit = exit })
			w := handle(t, l.inside)
			addrs(t, w, "eth0", "10.20.2.1/32") // the other router's address, as it arrives through the tunnel
			want := dns.RcodeRefused
			if exit {
				want = dns.RcodeSuccess
			}
			// The router of this lab has the address too; take it away.
			dev, err := handle(t, l.router).LinkByName("br")
			must(t, err)
			r := handle(t, l.router)
			a, err := r.AddrList(dev, 2)
			must(t, err)
			for _, addr := range a {
				if addr.IP.String() == "10.20.2.1" {
					must(t, r.AddrDel(dev, &addr))
				}
			}
			must(t, addRoute(r, dev.Attrs().Index, "10.20.2.1/32"))
			if m := l.ask("udp", "10.20.2.1", question("example.com", dns.TypeA)); m.Rcode != want {
				t.Errorf("%s", m)
			}
		})
	}
}

func TestLongAnswersComeByTCP(t *testing.T) {
	l := newLab(t, nil)
	l.world.answers(func(network string, q *dns.Msg) []byte {
		m := new(dns.Msg)
		m.SetReply(q)
		if network == "udp" {
			m.Truncated = true
		} else {
			for i := range 200 {
				m.Answer = append(m.Answer, &dns.A{Hdr: header(q.Question[0].Name, dns.TypeA), A: net.IPv4(203, 0, 113, byte(i))})
			}
		}
		b, err := m.Pack()
		must(t, err)
		return b
	})
	q := question("long.example.com", dns.TypeA)
	if m := l.ask("tcp", outAddr, q); len(m.Answer) != 200 {
		t.Errorf("by TCP: %d addresses", len(m.Answer))
	}
	for _, size := range []uint16{0, 512, 1232, 65535} {
		q := question("long.example.com", dns.TypeA)
		if size > 0 {
			q.SetEdns0(size, false)
		}
		c := l.send("udp", outAddr, q)
		buf := make([]byte, dns.MaxMsgSize)
		n, err := c.Conn.Read(buf)
		must(t, err)
		m := new(dns.Msg)
		must(t, m.Unpack(buf[:n]))
		if !m.Truncated || n > max(dns.MinMsgSize, min(int(size), maxUDP)) {
			t.Errorf("of %d bytes offered, %d were used, cut: %v", size, n, m.Truncated)
		}
	}
}

func TestAnUpstreamThatLiesOrIsSilentIsNoAnswer(t *testing.T) {
	l := newLab(t, nil)
	for what, f := range map[string]func(string, *dns.Msg) []byte{
		"another name": func(n string, q *dns.Msg) []byte { q.Question[0].Name = "evil.example."; return plainAnswer(n, q) },
		"another type": func(n string, q *dns.Msg) []byte { q.Question[0].Qtype = dns.TypeTXT; return plainAnswer(n, q) },
		"refusal": func(n string, q *dns.Msg) []byte {
			m := new(dns.Msg)
			m.SetRcode(q, dns.RcodeRefused)
			b, _ := m.Pack()
			return b
		},
		"half an answer": func(n string, q *dns.Msg) []byte { b := plainAnswer(n, q); return b[:len(b)-5] },
		"cut for ever": func(n string, q *dns.Msg) []byte {
			if n == "tcp" {
				return []byte{1}
			}
			m := new(dns.Msg)
			m.SetReply(q)
			m.Truncated = true
			b, _ := m.Pack()
			return b
		},
	} {
		l.world.answers(f)
		if m := l.ask("udp", outAddr, question("example.com", dns.TypeA)); m.Rcode != dns.RcodeServerFailure || len(m.Answer) != 0 {
			t.Errorf("%s: %s", what, m)
		}
	}
	// One that answers under another id first, as who guesses would, and then truly.
	l.world.answers(plainAnswer)
	if m := l.ask("udp", outAddr, question("example.com", dns.TypeA)); m.Rcode != dns.RcodeSuccess {
		t.Errorf("after all that: %s", m)
	}
}

func TestTheNextServerIsAskedWhenOneFails(t *testing.T) {
	l := newLab(t, nil)
	// Nobody listens at the first: the kernel says so at once.
	up := Forward(l.beyond, func() []netip.AddrPort {
		return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.54:53"), netip.MustParseAddrPort(upstreamAddr + ":53")}
	})
	q := question("example.com", dns.TypeA)
	b, err := q.Pack()
	must(t, err)
	got, err := up(t.Context(), plan.EgressNode, b)
	must(t, err)
	m := new(dns.Msg)
	must(t, m.Unpack(got))
	if len(m.Answer) != 1 {
		t.Errorf("%s", m)
	}
	none := Forward(-1, func() []netip.AddrPort { return nil })
	if _, err := none(t.Context(), plan.EgressNode, b); err == nil {
		t.Error("an answer from no server")
	}
}

// While one workload waits for a silent world, others and the network's own names
// are answered; what exceeds its share fails at once.
func TestASilentWorldHoldsUpNobody(t *testing.T) {
	held, entered := make(chan struct{}), make(chan struct{}, maxForwards)
	l := newLab(t, func(c *Config) {
		c.Upstream = func(ctx context.Context, _ string, q []byte) ([]byte, error) {
			entered <- struct{}{}
			select {
			case <-held:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			m := new(dns.Msg)
			if err := m.Unpack(q); err != nil {
				return nil, err
			}
			return plainAnswer("udp", m), nil
		}
	})
	var waiting []*dns.Conn
	for range clientForward {
		waiting = append(waiting, l.send("udp", outAddr, question("example.com", dns.TypeA)))
	}
	for range clientForward {
		<-entered
	}
	if m := l.ask("udp", outAddr, question("example.com", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("one more than its share: %s", m)
	}
	if m := l.ask("udp", outAddr, question("web.front.internal", dns.TypeA)); m.Rcode != dns.RcodeSuccess {
		t.Errorf("a name of the network meanwhile: %s", m)
	}
	other := l.send("udp", exitAddr, question("example.com", dns.TypeA))
	<-entered
	close(held)
	for _, c := range append(waiting, other) {
		if m, err := c.ReadMsg(); err != nil || m.Rcode != dns.RcodeSuccess {
			t.Errorf("%v, %v", m, err)
		}
	}
	if got := l.server.Stats(); got.Forwarded != clientForward+1 || got.Failed != 1 {
		t.Errorf("%+v", got)
	}
}

func TestAFloodIsNotAnswered(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newLab(t, func(c *Config) { c.now = func() time.Time { return now } })
	z := l.server.Zone()
	flood, calm := netip.MustParseAddr(webAddr), netip.MustParseAddr(dbAddr)
	for i := range perSecond {
		if _, ok := l.server.admit(&z, flood); !ok {
			t.Fatalf("question %d was dropped", i)
		}
	}
	if _, ok := l.server.admit(&z, flood); ok {
		t.Error("one more was answered")
	}
	if _, ok := l.server.admit(&z, calm); !ok {
		t.Error("another workload's was dropped")
	}
	c := l.send("udp", webAddr, question("web.front.internal", dns.TypeA))
	l.ask("udp", dbAddr, question("web.front.internal", dns.TypeA))
	quiet(t, c.Conn)
	l.server.SetZone(Zone{})
	if n := len(l.server.rates); n != 0 {
		t.Errorf("%d rates are kept of workloads that are gone", n)
	}
}

func TestSlowClientsTakeOnlyTheirOwnConnections(t *testing.T) {
	l := newLab(t, func(c *Config) { c.idle = time.Hour })
	var slow []*dns.Conn
	for range clientTCP {
		c := l.send("tcp", webAddr, nil)
		_, err := c.Conn.Write([]byte{0}) // half of a length, and no more
		must(t, err)
		slow = append(slow, c)
	}
	if !l.turnedAway(webAddr) {
		t.Error("one connection more stays")
	}
	if m := l.ask("tcp", dbAddr, question("web.front.internal", dns.TypeA)); m.Rcode != dns.RcodeSuccess {
		t.Errorf("another workload: %s", m)
	}
	must(t, slow[0].Close())
	for start := time.Now(); l.turnedAway(webAddr); {
		if time.Since(start) > 20*time.Second {
			t.Fatal("the place of a closed connection stays taken")
		}
	}
}

func TestAnIdleConnectionIsLeft(t *testing.T) {
	l := newLab(t, func(c *Config) { c.idle = 50 * time.Millisecond })
	for _, begin := range [][]byte{nil, {0}, {0, 40, 1, 2, 3}} {
		c := l.send("tcp", webAddr, nil)
		_, err := c.Conn.Write(begin)
		must(t, err)
		if _, err := c.ReadMsg(); !closedByPeer(err) {
			t.Errorf("after %v: %v", begin, err)
		}
	}
}

func TestOneConnectionCarriesManyQuestionsAndNotEndlessly(t *testing.T) {
	l := newLab(t, nil)
	c := l.send("tcp", webAddr, nil)
	for i := range tcpQuestions {
		must(t, c.WriteMsg(question("web.front.internal", dns.TypeA)))
		if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
			t.Fatalf("question %d: %v, %v", i, m, err)
		}
	}
	_ = c.WriteMsg(question("web.front.internal", dns.TypeA))
	if _, err := c.ReadMsg(); !closedByPeer(err) {
		t.Errorf("one more: %v", err)
	}
}

// Junk gets the bare header of an error, or nothing; never more than was sent.
func TestJunkGetsNoMoreThanItIs(t *testing.T) {
	l := newLab(t, nil)
	answer := question("web.front.internal", dns.TypeA)
	answer.Response = true
	reflected, err := answer.Pack()
	must(t, err)
	silent := l.send("udp", webAddr, nil)
	for _, b := range [][]byte{{}, {1, 2, 3}, reflected} {
		_, err := silent.Conn.Write(b)
		must(t, err)
	}
	for _, b := range [][]byte{append([]byte{7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, strings.Repeat("\xc0\x0c", 20)...),
		append([]byte{7, 7, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, make([]byte, 5000)...)} {
		c := l.send("udp", webAddr, nil)
		_, err := c.Conn.Write(b)
		must(t, err)
		m, err := c.ReadMsg()
		if err != nil || m.Rcode != dns.RcodeFormatError || m.Id != 0x0707 || m.Len() != 12 {
			t.Errorf("%v, %v", m, err)
		}
	}
	quiet(t, silent.Conn)
	c := l.send("tcp", webAddr, nil)
	_, _ = c.Conn.Write([]byte{0xff, 0xff, 1, 2, 3})
	if _, err := c.ReadMsg(); !closedByPeer(err) {
		t.Errorf("a question of 65535 bytes: %v", err)
	}
	if m := l.ask("udp", webAddr, question("web.front.internal", dns.TypeA)); m.Rcode != dns.RcodeSuccess {
		t.Errorf("after all that: %s", m)
	}
}

// Every answer is from one zone, the old or the new.
func TestAZoneIsExchangedWhole(t *testing.T) {
	l := newLab(t, nil)
	old := l.server.Zone()
	moved := newZone("front", old.prefixes, nil, []member{
		{name: "a", aliases: []string{"pool"}, addrs: []netip.Addr{netip.MustParseAddr("10.20.9.1")}, egress: plan.EgressNone},
		{name: "b", aliases: []string{"pool"}, addrs: []netip.Addr{netip.MustParseAddr("10.20.9.2")}, egress: plan.EgressNone},
		{name: "web", addrs: []netip.Addr{netip.MustParseAddr(webAddr)}, egress: plan.EgressNone},
	})
	seen := map[string]bool{}
	for i := range 200 {
		// Each question meets an exchange somewhere on its way; what it meets last is
		// the other zone than before.
		var exchange sync.WaitGroup
		exchange.Go(func() { l.server.SetZone([]Zone{moved, old}[i%2]) })
		got := answerAddrs(l.ask("udp", webAddr, question("pool.front.internal", dns.TypeA)))
		exchange.Wait()
		slices.Sort(got)
		seen[strings.Join(got, " ")] = true
		if i%20 == 0 {
			got := answerAddrs(l.ask("udp", webAddr, question("pool.front.internal", dns.TypeA)))
			slices.Sort(got)
			seen[strings.Join(got, " ")] = true
		}
	}
	if !seen["10.20.9.1 10.20.9.2"] {
		t.Error("the new zone was never in use")
	}
	for s := range seen {
		if s != webAddr+" 10.20.2.2" && s != "10.20.9.1 10.20.9.2" {
			t.Errorf("a mixture: %s", s)
		}
	}
	l.server.SetZone(moved)
	c := l.send("udp", dbAddr, question("pool.front.internal", dns.TypeA)) // not of the network any more
	l.ask("udp", webAddr, question("pool.front.internal", dns.TypeA))
	quiet(t, c.Conn)
}

func TestReplicasAreAnsweredInAnyOrder(t *testing.T) {
	l := newLab(t, nil)
	first := map[string]bool{}
	for i := 0; len(first) < 2; i++ {
		if i == 1000 {
			t.Fatalf("after %d questions only %v came first", i, first)
		}
		first[answerAddrs(l.ask("udp", webAddr, question("pool.front.internal", dns.TypeA)))[0]] = true
	}
}

func TestCheckTellsWhetherItAnswers(t *testing.T) {
	l := newLab(t, nil)
	must(t, l.server.Check(t.Context()))
	r := handle(t, l.router)
	lo, err := r.LinkByName("lo")
	must(t, err)
	must(t, r.LinkSetDown(lo))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := l.server.Check(ctx); err == nil {
		t.Error("found well although nothing can reach it")
	}
	if err := l.server.Check(t.Context()); err == nil { // which never ends by itself
		t.Error("found well although nothing can reach it")
	}
	l.server.SetZone(Zone{})
	if err := l.server.Check(t.Context()); err == nil {
		t.Error("found well without a zone")
	}
}

// The addresses may come after the server, and the server may end before them.
func TestItListensBeforeTheAddressIsThere(t *testing.T) {
	fd := namespaceFD(t)
	for range 3 {
		s, err := Serve(t.Context(), Config{NetNS: fd, Addrs: []netip.Addr{netip.MustParseAddr("10.9.9.1"), netip.MustParseAddr("fd00:9::1")}, Zone: ZoneOf(testPlan(t), "front")})
		must(t, err)
		must(t, s.Close())
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Serve(ctx, Config{NetNS: fd, Addrs: []netip.Addr{netip.MustParseAddr("10.9.9.1")}})
	must(t, err)
	if _, err := Serve(t.Context(), Config{NetNS: fd, Addrs: []netip.Addr{netip.MustParseAddr("10.9.9.2"), netip.MustParseAddr("10.9.9.1")}}); err == nil {
		t.Error("two servers at one address")
	}
	cancel()
	must(t, s.Close())
	if _, err := Serve(t.Context(), Config{NetNS: fd}); err == nil {
		t.Error("a server without an address")
	}
	if _, err := Serve(t.Context(), Config{NetNS: 1 << 20, Addrs: []netip.Addr{netip.MustParseAddr("10.9.9.1")}}); err == nil {
		t.Error("a server in no namespace")
	}
}
