package network

import (
	"net/netip"
	"testing"

	"github.com/zero-os/zos/spec/plan"
)

// beacon is a port that is open in the tests of rules.
const beacon = 9999

func both(p place) []netip.Addr { return []netip.Addr{p.v4, p.v6} }

func TestWorkloadsReachEachOther(t *testing.T) {
	d := newWorld(t, "a", "b").deploy("d", "front", "10.20.0.0/16", "a", "b").
		add("one", "a", 2).add("two", "a", 3).add("three", "b", 2).up()
	names := []string{"one", "two", "three"}
	for _, from := range names {
		for _, to := range names {
			if from == to {
				continue
			}
			for _, at := range both(d.place(to)) {
				if !d.place(from).reaches(d.place(to), at, 7000, beacon) {
					t.Errorf("%s does not reach %s at %s", from, to, at)
				}
			}
		}
	}
}

func TestRulesAreKeptByTheDestination(t *testing.T) {
	d := newWorld(t, "a", "b").deploy("d", "front", "10.20.0.0/16", "a", "b").
		add("web", "a", 2, allow(rule("udp", beacon, beacon), rule("udp", 80, 89, "far"), rule("udp", 443, 443))).
		add("near", "a", 3).add("far", "b", 2).add("other", "b", 3).up()
	web := d.place("web")
	for _, c := range []struct {
		from string
		port int
		want bool
	}{
		{"near", 443, true}, {"far", 443, true}, {"other", 443, true},
		{"near", 444, false}, {"far", 442, false},
		{"far", 80, true}, {"far", 85, true}, {"far", 89, true}, {"far", 79, false}, {"far", 90, false},
		{"near", 80, false}, {"other", 85, false},
	} {
		for _, at := range both(web) {
			if got := d.place(c.from).reaches(web, at, c.port, beacon); got != c.want {
				t.Errorf("%s to %s port %d: reached %t, want %t", c.from, at, c.port, got, c.want)
			}
		}
	}
	_ = plan.EgressNone
}
