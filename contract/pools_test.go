package contract

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func TestPoolsThatAreWrongByThemselvesAreRefused(t *testing.T) {
	w := newWorld(t)
	good := func() Pool {
		p := somePool(w, 0, 1)
		p.Ranges = append(p.Ranges, Range{Prefix: "2001:db8:1::/64", Router: "2001:db8:1::1", First: "2001:db8:1::2", Last: "2001:db8:1:0:ffff:ffff:ffff:ffff"})
		p.Shared = append(p.Shared, "2001:db8:1::2")
		p.ACME, p.Roots = "https://acme.example/dir", [][]byte{{0x30}}
		return p
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	r := func(prefix, router, first, last string) func(*Pool) {
		return func(p *Pool) {
			p.Ranges, p.Shared, p.First, p.Last = []Range{{prefix, router, first, last}}, nil, 0, 0
		}
	}
	for name, c := range map[string]struct {
		spoil func(*Pool)
		right bool
	}{
		"one address":                  {r("192.0.2.0/24", "192.0.2.1", "192.0.2.2", "192.0.2.2"), true},
		"a private segment, for tests": {r("10.9.0.0/24", "10.9.0.1", "10.9.0.2", "10.9.0.9"), true},
		"a point-to-point link":        {r("192.0.2.0/31", "192.0.2.1", "192.0.2.0", "192.0.2.0"), true},
		"the widest":                   {r("198.51.0.0/16", "198.51.0.1", "198.51.0.2", "198.51.255.254"), true},
		"too wide":                     {r("198.50.0.0/15", "198.50.0.1", "198.50.0.2", "198.51.255.254"), false},
		"IPv6 too wide":                {r("2001:db8::/31", "2001:db8::1", "2001:db8::2", "2001:db8::3"), false},
		"router elsewhere":             {r("192.0.2.0/24", "192.0.3.1", "192.0.2.2", "192.0.2.2"), false},
		"router in it":                 {r("192.0.2.0/24", "192.0.2.5", "192.0.2.2", "192.0.2.9"), false},
		"router is the first":          {r("192.0.2.0/24", "192.0.2.2", "192.0.2.2", "192.0.2.9"), false},
		"router is the last":           {r("192.0.2.0/24", "192.0.2.9", "192.0.2.2", "192.0.2.9"), false},
		"begins elsewhere":             {r("192.0.2.0/24", "192.0.2.1", "192.0.1.2", "192.0.2.9"), false},
		"ends elsewhere":               {r("192.0.2.0/24", "192.0.2.1", "192.0.2.2", "192.0.3.9"), false},
		"backwards":                    {r("192.0.2.0/24", "192.0.2.1", "192.0.2.9", "192.0.2.2"), false},
		"the segment's own address":    {r("192.0.2.0/24", "192.0.2.100", "192.0.2.0", "192.0.2.9"), false},
		"the broadcast address":        {r("192.0.2.0/24", "192.0.2.1", "192.0.2.2", "192.0.2.255"), false},
		"two families":                 {r("192.0.2.0/24", "192.0.2.1", "192.0.2.2", "2001:db8::1"), false},
		"bits behind the prefix":       {r("192.0.2.1/24", "192.0.2.1", "192.0.2.2", "192.0.2.3"), false},
		"no prefix":                    {r("", "192.0.2.1", "192.0.2.2", "192.0.2.3"), false},
		"loopback":                     {r("127.0.0.0/24", "127.0.0.1", "127.0.0.2", "127.0.0.3"), false},
		"multicast":                    {r("224.0.0.0/24", "224.0.0.1", "224.0.0.2", "224.0.0.3"), false},
		"link-local":                   {r("169.254.1.0/24", "169.254.1.1", "169.254.1.2", "169.254.1.3"), false},
		"IPv4 as IPv6":                 {r("::ffff:192.0.2.0/120", "::ffff:192.0.2.1", "::ffff:192.0.2.2", "::ffff:192.0.2.3"), false},
		"an address of an interface":   {r("2001:db8::/64", "2001:db8::1%eth0", "2001:db8::2", "2001:db8::3"), false},
		"other text":                   {r("2001:db8::/64", "2001:db8:0::1", "2001:db8::2", "2001:db8::3"), false},
		"no card":                      {func(p *Pool) { p.MAC = "" }, false},
		"a card in capitals":           {func(p *Pool) { p.MAC = "52:54:00:AA:00:01" }, false},
		"everybody's card":             {func(p *Pool) { p.MAC = "ff:ff:ff:ff:ff:ff" }, false},
		"no one's card":                {func(p *Pool) { p.MAC = "00:00:00:00:00:00" }, false},
		"not sorted":                   {func(p *Pool) { slices.Reverse(p.Ranges) }, false},
		"a prefix twice":               {func(p *Pool) { p.Ranges = append(p.Ranges[:1], p.Ranges...) }, false},
		"a prefix in another": {func(p *Pool) {
			p.Ranges = append(p.Ranges[:1], Range{"198.51.100.128/25", "198.51.100.129", "198.51.100.130", "198.51.100.131"})
		}, false},
		"shared from elsewhere":          {func(p *Pool) { p.Shared = []string{"192.0.2.7"} }, false},
		"shared twice":                   {func(p *Pool) { p.Shared = []string{"198.51.100.10", "198.51.100.10"} }, false},
		"shared is not sorted":           {func(p *Pool) { slices.Reverse(p.Shared) }, false},
		"shared in other text":           {func(p *Pool) { p.Shared = []string{"2001:db8:1:0::2"} }, false},
		"ports without shared addresses": {func(p *Pool) { p.Shared = nil }, false},
		"no ports":                       {func(p *Pool) { p.First, p.Last = 0, 0 }, true},
		"one port":                       {func(p *Pool) { p.First, p.Last = 1024, 1024 }, true},
		"all ports":                      {func(p *Pool) { p.First, p.Last = 1024, 65535 }, true},
		"ports that names need":          {func(p *Pool) { p.First, p.Last = 443, 2000 }, false},
		"ports backwards":                {func(p *Pool) { p.First, p.Last = 2000, 1999 }, false},
		"only a last port":               {func(p *Pool) { p.First = 0 }, false},
		"an authority in the clear":      {func(p *Pool) { p.ACME = "http://acme.example/dir" }, false},
		"an authority of two lines":      {func(p *Pool) { p.ACME = "https://acme.example/\n" }, false},
		"an authority without a host":    {func(p *Pool) { p.ACME = "https://" }, false},
		"roots without an authority":     {func(p *Pool) { p.ACME = "" }, false},
		"an empty root":                  {func(p *Pool) { p.Roots = [][]byte{nil} }, false},
		"too many roots":                 {func(p *Pool) { p.Roots = slices.Repeat(p.Roots, MaxRoots+1) }, false},
		"nothing at all":                 {func(p *Pool) { *p = NewPool(w.grid, Pool{Farm: p.Farm, Slot: p.Slot, Sequence: 1}) }, true},
		"no ranges, and ports": {func(p *Pool) {
			*p = NewPool(w.grid, Pool{Farm: p.Farm, Slot: p.Slot, First: 2000, Last: 2000, Sequence: 1})
		}, false},
		"too many ranges": {func(p *Pool) {
			for i := range MaxRanges {
				p.Ranges = append(p.Ranges, Range{fmt.Sprintf("2001:db8:2:%x::/64", i), fmt.Sprintf("2001:db8:2:%x::1", i), fmt.Sprintf("2001:db8:2:%x::2", i), fmt.Sprintf("2001:db8:2:%x::2", i)})
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := good()
			c.spoil(&p)
			_, err := Apply(w.copy(), w.now, w.tx(w.sign(p, KindPool, "farm")))
			if c.right && err != nil || !c.right && problem.Code(err) != "pool-invalid" {
				t.Errorf("%v, right %v", err, c.right)
			}
		})
	}
}

func TestAPoolIsItsFarmsWord(t *testing.T) {
	w := newWorld(t)
	p := somePool(w, 0, 3)
	w.refused(w.sign(p, KindPool), "signature-missing")
	w.refused(w.sign(p, KindPool, "red"), "signature-missing")
	w.refused(w.sign(p, KindPool, "farm", "red"), "signature-unexpected")
	q := p
	q.Slot = w.group
	w.refused(w.sign(q, KindPool, "farm"), "slot-unknown")
	q = p
	q.Farm = w.group
	w.refused(w.sign(q, KindPool, "farm"), "pool-untrusted")
	q = p
	q.MAC = "52:54:00:00:00:01" // the hint of the slot
	w.refused(w.sign(q, KindPool, "farm"), "pool-invalid")
	other := w.sign(NewFarm(w.grid, "field", w.key("field").Public()), KindFarm, "field")
	w.ok(other)
	w.refused(w.sign(p, KindPool, "field"), "signature-missing")
	// A delegate admits nodes; addresses are not for him to give.
	w.ok(w.sign(NewDelegation(w.grid, w.farm, w.key("agent").Public(), []string{MayAdmit, MayRekey}, nil, 0, big, 1, later), KindDelegation, "farm"))
	w.refused(w.sign(p, KindPool, "agent"), "signature-missing")
	w.ok(w.sign(p, KindPool, "farm"))
	w.refused(w.sign(p, KindPool, "farm"), "stale-sequence")
	w.refused(w.sign(somePool(w, 0, 2), KindPool, "farm"), "stale-sequence")
	// Withdrawn, the sequence stands.
	w.ok(w.sign(NewPool(w.grid, Pool{Farm: w.farm, Slot: w.slots[0], Sequence: 4}), KindPool, "farm"))
	w.refused(w.sign(p, KindPool, "farm"), "stale-sequence")
}

func TestAnAddressIsInOneLivePoolOnly(t *testing.T) {
	w := newWorld(t)
	with := func(slot int, sequence uint64, ranges ...Range) Signed {
		return w.sign(NewPool(w.grid, Pool{Farm: w.farm, Slot: w.slots[slot], MAC: "52:54:00:aa:00:01", Ranges: ranges, Sequence: sequence}), KindPool, "farm")
	}
	v4 := func(first, last int) Range {
		return Range{"198.51.100.0/24", "198.51.100.1", fmt.Sprint("198.51.100.", first), fmt.Sprint("198.51.100.", last)}
	}
	v6 := func(first, last string) Range {
		return Range{"2001:db8::/64", "2001:db8::1", "2001:db8::" + first, "2001:db8::" + last}
	}
	w.ok(with(0, 1, v4(20, 30), v6("10", "ffff")))
	for name, r := range map[string]Range{
		"the same": v4(20, 30), "inside": v4(22, 25), "around": v4(10, 40), "its first": v4(10, 20), "its last": v4(30, 40), "one": v4(25, 25),
		"IPv6": v6("ffff", "1:0"), "another prefix": {"198.51.100.16/28", "198.51.100.17", "198.51.100.20", "198.51.100.22"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.says(with(1, 1, r), "address-taken", "is in the pool of barn/n1")
		})
	}
	w.t = t
	w.ok(with(1, 1, v4(10, 19), v6("5", "f")))
	w.ok(with(1, 2, v4(31, 40)))
	w.says(with(0, 2, v4(20, 31)), "address-taken", "198.51.100.31 is in the pool of barn/n2")
	w.ok(with(0, 2, v4(10, 30)))                                                                     // what the other let go
	w.ok(with(0, 3, v4(2, 5), Range{"203.0.113.0/24", "203.0.113.1", "203.0.113.2", "203.0.113.9"})) // its own old ones don't count
	w.absent(KeySegment(netip.MustParseAddr("2001:db8::1")))
	w.ok(with(1, 3, v4(6, 40)))
	// Another farm's is refused alike.
	w.ok(w.sign(NewFarm(w.grid, "field", w.key("field").Public()), KindFarm, "field"))
	farm := record[NameRecord](w, KeyFarmName("field")).ID
	slot := w.sign(NewSlot(w.grid, farm, "n1", "mac:52:54:00:00:00:07", IdentityDisk, nil, big), KindSlot, "field")
	w.ok(slot)
	squat := NewPool(w.grid, Pool{Farm: farm, Slot: slot.ID(), MAC: "52:54:00:aa:00:01", Ranges: []Range{v4(40, 50)}, Sequence: 1})
	w.says(w.sign(squat, KindPool, "field"), "address-taken", "198.51.100.40 is in the pool of barn/n2")
	for _, slot := range []int{0, 1} {
		w.ok(w.sign(NewPool(w.grid, Pool{Farm: w.farm, Slot: w.slots[slot], Sequence: 9}), KindPool, "farm"))
	}
	w.ok(w.sign(squat, KindPool, "field"))
	for key := range w.st {
		if strings.HasPrefix(key, "segment/") && key != "segment/198.51.0.0/16" {
			t.Errorf("%s is left", key)
		}
	}
}

func TestTheDomainIsTheReleaseQuorumsWord(t *testing.T) {
	w := newWorld(t)
	z := NewZone(w.grid, domain, 2)
	w.refused(w.sign(z, KindZone), "approvals-insufficient")
	w.refused(w.sign(z, KindZone, "release-1"), "approvals-insufficient")
	w.refused(w.sign(z, KindZone, "release-1", "farm"), "signature-unexpected")
	w.refused(w.sign(z, KindZone, "release-1", "release-2", "red"), "signature-unexpected")
	for _, bad := range []string{"", "grid", "Grid.example", "grid.example.", "198.51.100.1", "-.example", strings.Repeat("a23456789.", 18) + "example"} {
		w.refused(w.sign(NewZone(w.grid, bad, 2), KindZone, "release-1", "release-2"), "zone-invalid")
	}
	w.refused(w.sign(NewZone(w.grid, domain, 0), KindZone, "release-1", "release-2"), "zone-invalid")
	for _, farms := range [][]canon.Hash{{{2}, {1}}, {{1}, {1}}, make([]canon.Hash, MaxZoneFarms+1)} {
		bad := z
		bad.Farms = farms
		w.refused(w.sign(bad, KindZone, "release-1", "release-2"), "zone-invalid")
	}
	w.ok(w.sign(z, KindZone, "release-1", "release-3"))
	w.refused(w.sign(z, KindZone, "release-1", "release-2"), "stale-sequence")
	w.refused(w.sign(NewZone(w.grid, "other.example", 1), KindZone, "release-1", "release-2"), "stale-sequence")
	longest := strings.Repeat("a234567890.", 15) + "example.a234567"
	if len(longest) != MaxDomain {
		t.Fatal(len(longest))
	}
	w.ok(w.sign(NewZone(w.grid, longest, 3), KindZone, "release-1", "release-2", "release-3"))
	genesis, err := DecodeGenesis(w.genesis)
	if err != nil {
		t.Fatal(err)
	}
	rec := record[ZoneRecord](w, KeyZone)
	if got, err := OpenZone(rec.Signed, w.grid, genesis); err != nil || got.Domain != longest {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := OpenZone(rec.Signed, canon.Sum(nil), genesis); problem.Code(err) != "wrong-grid" {
		t.Errorf("in another grid: %v", err)
	}
}
