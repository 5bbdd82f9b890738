package contract

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// OpenPool reads a pool of a slot and checks that farmKey, which is the slot's
// farm's, signed it and nobody else. It does not know whether it is the newest.
// Codes: those of Open, "signature-missing", "signature-unexpected",
// "pool-invalid", "pool-untrusted" for another slot's or farm's.
func OpenPool(s Signed, grid, farm canon.Hash, farmKey []byte, slot canon.Hash) (Pool, error) {
	p, _, keys, err := Open[Pool](s, KindPool, grid)
	if err != nil {
		return Pool{}, err
	}
	if p.Farm != farm || p.Slot != slot {
		return Pool{}, problem.New("pool-untrusted", "the pool is of slot %s of farm %s, asked was for slot %s of farm %s", p.Slot.Short(), p.Farm.Short(), slot.Short(), farm.Short())
	}
	if err := signedBy(keys, farmKey); err != nil {
		return Pool{}, err
	}
	return p, p.Validate()
}

// Live tells whether p gives its slot any address.
func (p Pool) Live() bool { return len(p.Ranges) > 0 }

// Contains tells whether a is an address of p, and whether all tenants share it.
func (p Pool) Contains(a netip.Addr) (in, shared bool) {
	for _, r := range p.Ranges {
		first, last, err := r.bounds()
		if err == nil && first.Compare(a) <= 0 && a.Compare(last) <= 0 {
			return true, slices.Contains(p.Shared, a.String())
		}
	}
	return false, false
}

// HasPort tells whether contracts can lease port of p's shared addresses.
func (p Pool) HasPort(port uint16) bool { return p.First != 0 && p.First <= port && port <= p.Last }

// bounds are r's first and last address.
func (r Range) bounds() (first, last netip.Addr, err error) {
	if first, err = netip.ParseAddr(r.First); err == nil {
		last, err = netip.ParseAddr(r.Last)
	}
	return first, last, err
}

// Validate checks what can be known of p without the ledger; code
// "pool-invalid".
func (p Pool) Validate() error {
	bad := func(format string, args ...any) error {
		return problem.New("pool-invalid", "pool: "+format, args...)
	}
	if !p.Live() {
		if p.MAC != "" || len(p.Shared) > 0 || p.First != 0 || p.Last != 0 || p.ACME != "" || len(p.Roots) > 0 {
			return bad("it has no ranges, and yet a card, shared addresses, ports or an authority")
		}
		return nil
	}
	if hw, err := net.ParseMAC(p.MAC); err != nil || len(hw) != 6 || hw.String() != p.MAC || hw[0]&1 != 0 || hw.String() == "00:00:00:00:00:00" {
		return bad("%.40q is no card's address aa:bb:cc:dd:ee:ff, in lower case", p.MAC)
	}
	if len(p.Ranges) > MaxRanges {
		return bad("%d ranges, at most %d are allowed", len(p.Ranges), MaxRanges)
	}
	var prefixes []netip.Prefix
	for _, r := range p.Ranges {
		prefix, err := r.validate()
		if err != nil {
			return err
		}
		for _, other := range prefixes {
			if other.Overlaps(prefix) {
				return bad("prefixes %s and %s overlap", other, prefix)
			}
		}
		if n := len(prefixes); n > 0 && prefixes[n-1].Addr().Compare(prefix.Addr()) > 0 {
			return bad("ranges are not sorted by prefix: %s follows %s", prefix, prefixes[n-1])
		}
		prefixes = append(prefixes, prefix)
	}
	if len(p.Shared) > MaxShared {
		return bad("%d shared addresses, at most %d are allowed", len(p.Shared), MaxShared)
	}
	for i, text := range p.Shared {
		a, ok := PublicAddr(text)
		if !ok {
			return bad("%.80q is no address in canonical form", text)
		}
		if in, _ := p.Contains(a); !in {
			return bad("shared address %s is in none of its ranges", a)
		}
		if i > 0 && p.Shared[i-1] >= text {
			return bad("shared addresses are not sorted as text, or %s stands twice", text)
		}
	}
	// Certificates are bytes here: how they parse could differ between versions of
	// a library, and with it what two machines of the ledger decide.
	if host, ok := strings.CutPrefix(p.ACME, "https://"); p.ACME != "" && (!ok || host == "" || !printable(p.ACME, 1, MaxURL) || strings.Contains(host, " ")) {
		return bad("%.80q is no https address of an authority", p.ACME)
	}
	if len(p.Roots) > MaxRoots || len(p.Roots) > 0 && p.ACME == "" {
		return bad("%d root certificates: at most %d are allowed, and none without an authority", len(p.Roots), MaxRoots)
	}
	for _, root := range p.Roots {
		if len(root) == 0 || len(root) > MaxRoot {
			return bad("a root certificate has %d bytes, want 1 to %d", len(root), MaxRoot)
		}
	}
	if p.First == 0 && p.Last == 0 {
		return nil
	}
	if p.First < MinSharedPort || p.Last < p.First {
		return bad("ports %d to %d: want %d to 65535, or none", p.First, p.Last, MinSharedPort)
	}
	if len(p.Shared) == 0 {
		return bad("it has ports to lease and no shared address")
	}
	return nil
}

// PublicAddr reads an address at which something can be published, in its one
// canonical text.
func PublicAddr(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	return a, err == nil && a.String() == text && a.Zone() == "" && !a.Is4In6() && a.IsGlobalUnicast()
}

// validate checks one range by itself.
func (r Range) validate() (netip.Prefix, error) {
	bad := func(format string, args ...any) (netip.Prefix, error) {
		return netip.Prefix{}, problem.New("pool-invalid", "pool: range in %.60q: "+format, append([]any{r.Prefix}, args...)...)
	}
	prefix, err := netip.ParsePrefix(r.Prefix)
	if err != nil || prefix != prefix.Masked() || prefix.String() != r.Prefix || prefix.Addr().Is4In6() {
		return bad("it is no prefix in canonical form")
	}
	widest := segmentBits4
	if prefix.Addr().Is6() {
		widest = segmentBits6
	}
	if prefix.Bits() < widest {
		return bad("the prefix is wider than /%d", widest)
	}
	var addrs [3]netip.Addr
	for i, text := range []string{r.Router, r.First, r.Last} {
		a, ok := PublicAddr(text)
		if !ok {
			return bad("%.80q is no unicast address in canonical form", text)
		}
		if !prefix.Contains(a) {
			return bad("%s is not in it", a)
		}
		addrs[i] = a
	}
	router, first, last := addrs[0], addrs[1], addrs[2]
	if last.Less(first) {
		return bad("%s to %s is no range", first, last)
	}
	if first.Compare(router) <= 0 && router.Compare(last) <= 0 {
		return bad("its router %s is in %s to %s", router, first, last)
	}
	if prefix.Bits() < prefix.Addr().BitLen()-1 { // a point-to-point link has neither (RFC 3021, RFC 6164)
		if first == prefix.Addr() {
			return bad("%s is the segment's own address", first)
		}
		if prefix.Addr().Is4() && !prefix.Contains(last.Next()) {
			return bad("%s is the broadcast address", last)
		}
	}
	return prefix, nil
}

// pool gives a slot public addresses, other ones, or none. What contracts hold
// of addresses that are not in it any more stays theirs on the ledger, so nobody
// else gets it, but their nodes stop serving it; their next version has to do
// without.
func (l *ledger) pool(s Signed) (Result, error) {
	head, _, _, err := Open[Pool](s, KindPool, l.grid)
	if err != nil {
		return Result{}, err
	}
	slot, err := l.loadSlot(head.Slot)
	if err != nil {
		return Result{}, err
	}
	farm, err := l.loadFarm(slot.Farm)
	if err != nil {
		return Result{}, err
	}
	p, err := OpenPool(s, l.grid, slot.Farm, farm.Key, head.Slot)
	if err != nil {
		return Result{}, err
	}
	if p.Live() && slot.Hint == "mac:"+p.MAC {
		return Result{}, problem.New("pool-invalid", "pool: %s is the card by which the node itself is known; public addresses need one of their own", p.MAC)
	}
	old, known, err := l.loadPool(head.Slot)
	if err != nil {
		return Result{}, err
	}
	if known && p.Sequence <= old.Sequence {
		return Result{}, problem.New("stale-sequence", "the pool has sequence %d, the ledger knows %d already", p.Sequence, old.Sequence)
	}
	if err := l.segments(p.Slot, old.Ranges, p.Ranges); err != nil {
		return Result{}, err
	}
	return Result{}, store(l.st, KeyPool(p.Slot), PoolRecord{Signed: s, Time: l.now})
}

// loadPool returns the newest pool of a slot, which may not be live.
func (l *ledger) loadPool(slot canon.Hash) (Pool, bool, error) {
	rec, ok, err := Load[PoolRecord](l.st, KeyPool(slot))
	if err != nil || !ok {
		return Pool{}, false, err
	}
	p, err := statement[Pool](rec.Signed)
	return p, true, err
}

// segments rewrites which ranges are whose: slot leaves the old ones and takes
// the new ones, unless an address of theirs is another slot's.
func (l *ledger) segments(slot canon.Hash, from, to []Range) error {
	in := map[string][]SegmentRange{} // the slot's new ones, by segment
	for _, r := range from {
		first, _, err := r.bounds()
		if err != nil {
			return err
		}
		in[KeySegment(first)] = nil
	}
	for _, r := range to {
		first, last, err := r.bounds()
		if err != nil {
			return err
		}
		key := KeySegment(first)
		in[key] = append(in[key], SegmentRange{First: first.AsSlice(), Last: last.AsSlice(), Slot: slot})
	}
	keys := make([]string, 0, len(in))
	for key := range in {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, strings.Compare)
	for _, key := range keys {
		rec, _, err := Load[SegmentRecord](l.st, key)
		if err != nil {
			return err
		}
		rec.Ranges = slices.DeleteFunc(rec.Ranges, func(r SegmentRange) bool { return r.Slot == slot })
		for _, mine := range in[key] {
			i, _ := slices.BinarySearchFunc(rec.Ranges, mine.First, func(r SegmentRange, first []byte) int { return bytes.Compare(r.First, first) })
			for _, j := range []int{i - 1, i} {
				if j >= 0 && j < len(rec.Ranges) && bytes.Compare(rec.Ranges[j].First, mine.Last) <= 0 && bytes.Compare(mine.First, rec.Ranges[j].Last) <= 0 {
					return l.overlap(mine, rec.Ranges[j])
				}
			}
			rec.Ranges = slices.Insert(rec.Ranges, i, mine)
		}
		if len(rec.Ranges) > MaxSegment {
			return problem.New("too-large", "%s would have %d ranges of pools, at most %d are allowed", key, len(rec.Ranges), MaxSegment)
		}
		if len(rec.Ranges) == 0 {
			l.st.Delete(key)
		} else if err := store(l.st, key, rec); err != nil {
			return err
		}
	}
	return nil
}

// overlap says which address is whose already.
func (l *ledger) overlap(mine, theirs SegmentRange) error {
	first := mine.First
	if bytes.Compare(first, theirs.First) < 0 {
		first = theirs.First
	}
	a, _ := netip.AddrFromSlice(first)
	owner := theirs.Slot.Short()
	if slot, err := l.loadSlot(theirs.Slot); err == nil {
		owner = slot.Name
		if farm, err := l.loadFarm(slot.Farm); err == nil {
			owner = farm.Name + "/" + slot.Name
		}
	}
	return problem.New("address-taken", "address %s is in the pool of %s", a, owner).
		WithFix("leave it out, or let that slot's farm take it out of its pool first")
}
