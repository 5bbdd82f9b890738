package network

import (
	"bytes"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

func names(id canon.Hash) string {
	return map[canon.Hash]string{{1}: "node-1", {2}: "node-2", {9}: "alice"}[id]
}

// TestPeopleReadWhatIsPublished in the words of the field, and whose devices are
// in the network.
func TestPeopleReadWhatIsPublished(t *testing.T) {
	place := plan.Attachment{Network: "front", IPv4: "10.20.0.2", IPv6: "fd00:20::2", Egress: plan.EgressNone}
	limited := place
	limited.Bandwidth = 100_000_000
	g := plan.Gateway{V: plan.Version, Addresses: []string{"198.51.100.10", "2001:db8::1"}, Networks: []plan.Attachment{place}, Routes: []plan.Route{
		{Mode: plan.ModeTCP, Port: 5432, Network: "front", Backends: []string{"db"}, Target: 5433, Proxy: 2, Check: plan.CheckNone},
		{Mode: plan.ModeUDP, Port: 30000, Network: "front", Target: plan.EntryPort, Entry: canon.Hash{2}, Check: plan.CheckNone},
		{Mode: plan.ModeUDP, Port: 30001, Network: "front", Backends: []string{"dns"}, Target: 53, Check: plan.CheckNone},
		{Host: "shop.grid.example", Mode: plan.ModePassthrough, Port: 443, Network: "front", Backends: []string{"web-1", "web-2"}, Target: 8443, Proxy: 1, Check: plan.CheckTCP},
		{Host: "www.shop.example", Mode: plan.ModeTerminate, Port: 443, Network: "front", Backends: []string{"web-1"}, Target: 8080, Check: plan.CheckHTTP, Path: "/healthz"},
	}}
	if err := g.Validate(); err != nil {
		t.Fatal(err)
	}
	own := plan.Gateway{Addresses: []string{"198.51.100.11"}, Leased: true}
	device := plan.Device{V: plan.Version, Key: bytes.Repeat([]byte{7}, 32), Account: canon.Hash{9}, Network: limited}
	for _, c := range []struct {
		what string
		got  []string
		want string
	}{
		{"gateway", DescribeGateway(g, names), `    address  198.51.100.10, shared with others
    address  2001:db8::1, shared with others
    port     5432/tcp to db.front:5433, PROXY v2, no check
    port     30000/udp lets people's devices into front at node-2
    port     30001/udp to dns.front:53
    host     shop.grid.example to web-1.front:8443 and web-2.front:8443, TLS passthrough, PROXY v1, check tcp
    host     www.shop.example to web-1.front:8080, TLS terminated at the gateway, HTTP, check http /healthz
    network  in front as 10.20.0.2 and fd00:20::2`},
		{"leased", DescribeGateway(own, names), "    address  198.51.100.11, leased: no other contract's"},
		{"device", DescribeDevice(canon.Hash{2}, device, names), `    account  alice
    key      BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=
    entry    node-2
    network  in front as 10.20.0.2 and fd00:20::2
    limit    in front 100Mbit each way`},
	} {
		if got := strings.Join(c.got, "\n"); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.what, got, c.want)
		}
	}
}

// TestNothingOfARouteIsHidden: two routes that differ are shown differently, so
// that an update of one is seen.
func TestNothingOfARouteIsHidden(t *testing.T) {
	r := plan.Route{Mode: plan.ModeTCP, Port: 5432, Network: "front", Backends: []string{"db"}, Target: 5433, Check: plan.CheckTCP}
	host := plan.Route{Host: "a.example", Mode: plan.ModePassthrough, Port: 443, Network: "front", Backends: []string{"db"}, Target: 5433, Check: plan.CheckHTTP, Path: "/a"}
	entry := plan.Route{Mode: plan.ModeUDP, Port: 5432, Network: "front", Target: plan.EntryPort, Entry: canon.Hash{1}, Check: plan.CheckNone}
	for name, c := range map[string]struct {
		of     plan.Route
		change func(*plan.Route)
	}{
		"host":     {host, func(r *plan.Route) { r.Host = "b.example" }},
		"mode":     {host, func(r *plan.Route) { r.Mode = plan.ModeTerminate }},
		"port":     {r, func(r *plan.Route) { r.Port++ }},
		"protocol": {r, func(r *plan.Route) { r.Mode, r.Check = plan.ModeUDP, plan.CheckNone }},
		"network":  {r, func(r *plan.Route) { r.Network = "back" }},
		"backends": {r, func(r *plan.Route) { r.Backends = []string{"db", "db2"} }},
		"target":   {r, func(r *plan.Route) { r.Target++ }},
		"entry":    {entry, func(r *plan.Route) { r.Entry = canon.Hash{2} }},
		"to entry": {entry, func(r *plan.Route) { r.Entry, r.Backends = canon.Hash{}, []string{"db"} }},
		"proxy":    {r, func(r *plan.Route) { r.Proxy = 1 }},
		"version":  {r, func(r *plan.Route) { r.Proxy = 2 }},
		"check":    {r, func(r *plan.Route) { r.Check = plan.CheckNone }},
		"http":     {r, func(r *plan.Route) { r.Check, r.Path = plan.CheckHTTP, "/" }},
		"path":     {host, func(r *plan.Route) { r.Path = "/b" }},
	} {
		changed := c.of
		c.change(&changed)
		if a, b := DescribeRoute(c.of, names), DescribeRoute(changed, names); a == b {
			t.Errorf("%s: both are %q", name, a)
		}
	}
}
