package plan

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// wired is a plan with a network of two nodes: db on the first, web on the
// second, and both in a network that leaves through the first.
type wired struct {
	plan    Plan
	db, web Container
}

func newWired() *wired {
	one, two := canon.Hash{1}, canon.Hash{2}
	attach := func(network, v4, v6 string) Attachment {
		return Attachment{Network: network, IPv4: v4, IPv6: v6, Aliases: []string{}, Allow: []Rule{}, Egress: EgressNone}
	}
	w := &wired{db: container(), web: container()}
	w.plan = Plan{V: Version, Update: DefaultUpdate(), Group: canon.Sum([]byte("group")), Name: "shop", Networks: []Network{
		{Name: "back", IPv4: "10.20.0.0/16", IPv6: "fd00:20::/48", Exit: one, Nodes: []NetworkNode{
			{Slot: one, IPv4: "10.20.0.0/24", IPv6: "fd00:20::/64"}, {Slot: two, IPv4: "10.20.1.0/24", IPv6: "fd00:20:0:1::/64"}}},
		{Name: "front", IPv4: "192.168.7.0/24", IPv6: "fd00:7::/48", Nodes: []NetworkNode{
			{Slot: two, IPv4: "192.168.7.0/24", IPv6: "fd00:7::/64"}}},
	}}
	db, web := attach("back", "10.20.0.2", "fd00:20::2"), attach("back", "10.20.1.254", "fd00:20:0:1::2")
	db.Aliases, db.Allow = []string{"pg", "sql"}, []Rule{{Protocol: ProtocolTCP, First: 1, Last: 65535, Peers: []string{"web"}}, {Protocol: ProtocolICMP, Peers: []string{}}}
	web.Egress, web.Bandwidth = EgressExit, MinBandwidth
	open := attach("front", "192.168.7.2", "fd00:7::2")
	open.Open = true
	w.db.Networks, w.web.Networks = []Attachment{db}, []Attachment{open, web}
	job := func(name string, slot canon.Hash) Workload {
		return Workload{Name: name, Kind: KindContainer, Slot: slot, Resources: Resources{CPU: 1, Memory: MinMemory, PIDs: 1}}
	}
	w.plan.Workloads = []Workload{router("back", one), router("back", two), job("db", one), router("front", two), job("web", two)}
	return w
}

func router(network string, slot canon.Hash) Workload {
	config, err := canon.Marshal(NetworkConfig{V: Version, Network: network})
	if err != nil {
		panic(err)
	}
	return Workload{Name: RouterName(network, slot), Kind: KindNetwork, Slot: slot, Resources: RouterResources(), Config: config}
}

// build puts the containers into the plan, as they are.
func (w *wired) build(t testing.TB) Plan {
	t.Helper()
	for i := range w.plan.Workloads {
		c := map[string]*Container{"db": &w.db, "web": &w.web}[w.plan.Workloads[i].Name]
		if c == nil {
			continue
		}
		b, err := canon.Marshal(*c)
		if err != nil {
			t.Fatal(err)
		}
		w.plan.Workloads[i].Config = b
	}
	return w.plan
}

func TestNetworksComeBackEqual(t *testing.T) {
	w := newWired()
	p := w.build(t)
	b, err := Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(got.Networks[0], p.Networks[0]) {
		t.Errorf("got %+v, %v", got, err)
	}
	c, err := DecodeContainer(got.Workloads[2].Config)
	if err != nil || !reflect.DeepEqual(c, w.db) {
		t.Errorf("got %+v, %v", c, err)
	}
	n, err := DecodeNetworkConfig(got.Workloads[0].Config)
	if err != nil || n != (NetworkConfig{V: Version, Network: "back"}) {
		t.Errorf("got %+v, %v", n, err)
	}
}

// TestNetworksThatContradictThemselvesAreRefused plays every rule of networks:
// each change breaks one thing of a valid plan.
func TestNetworksThatContradictThemselvesAreRefused(t *testing.T) {
	net := func(change func(*Network)) func(*wired) { return func(w *wired) { change(&w.plan.Networks[0]) } }
	node := func(change func(*NetworkNode)) func(*wired) {
		return func(w *wired) { change(&w.plan.Networks[0].Nodes[1]) }
	}
	db := func(change func(*Attachment)) func(*wired) { return func(w *wired) { change(&w.db.Networks[0]) } }
	web := func(change func(*Attachment)) func(*wired) { return func(w *wired) { change(&w.web.Networks[1]) } }
	rule := func(change func(*Rule)) func(*wired) { return func(w *wired) { change(&w.db.Networks[0].Allow[0]) } }
	names := func(n int) []string {
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf("n%03d", i))
		}
		return out
	}
	for name, c := range map[string]struct {
		change func(*wired)
		want   string
	}{
		"too many networks": {func(w *wired) {
			for i := range MaxNetworks {
				w.plan.Networks = append(w.plan.Networks, Network{Name: fmt.Sprint("x", i)})
			}
		}, "networks"},
		"name":                  {net(func(n *Network) { n.Name = "Back" }), "network name"},
		"no name":               {net(func(n *Network) { n.Name = "" }), "network name"},
		"long name":             {net(func(n *Network) { n.Name = strings.Repeat("a", 41) }), "network name"},
		"name twice":            {net(func(n *Network) { n.Name = "front" }), "occurs twice"},
		"unsorted":              {net(func(n *Network) { n.Name = "z" }), "not sorted"},
		"no range":              {net(func(n *Network) { n.IPv4 = "" }), "canonical"},
		"not canonical":         {net(func(n *Network) { n.IPv4 = "10.20.0.0/016" }), "canonical"},
		"not masked":            {net(func(n *Network) { n.IPv4 = "10.20.0.1/16" }), "canonical"},
		"an address":            {net(func(n *Network) { n.IPv4 = "10.20.0.0" }), "canonical"},
		"IPv6 for IPv4":         {net(func(n *Network) { n.IPv4 = "fd00:20::/48" }), "canonical"},
		"IPv4 in IPv6":          {net(func(n *Network) { n.IPv4 = "::ffff:10.20.0.0/112" }), "canonical"},
		"too wide":              {net(func(n *Network) { n.IPv4 = "0.0.0.0/0" }), "/8 to /24"},
		"too narrow":            {net(func(n *Network) { n.IPv4 = "10.20.0.0/25" }), "/8 to /24"},
		"public":                {net(func(n *Network) { n.IPv4 = "8.8.0.0/16" }), "private"},
		"around a private one":  {net(func(n *Network) { n.IPv4 = "172.0.0.0/8" }), "private"},
		"loopback":              {net(func(n *Network) { n.IPv4 = "127.0.0.0/16" }), "private"},
		"link-local":            {net(func(n *Network) { n.IPv4 = "169.254.0.0/16" }), "private"},
		"multicast":             {net(func(n *Network) { n.IPv4 = "239.0.0.0/16" }), "private"},
		"this network":          {net(func(n *Network) { n.IPv4 = "0.0.0.0/8" }), "private"},
		"no IPv6":               {net(func(n *Network) { n.IPv6 = "" }), "canonical"},
		"IPv6 not canonical":    {net(func(n *Network) { n.IPv6 = "fd00:0020::/48" }), "canonical"},
		"IPv6 in capitals":      {net(func(n *Network) { n.IPv6 = "FD00:20::/48" }), "canonical"},
		"IPv6 not unique local": {net(func(n *Network) { n.IPv6 = "fe80::/48" }), "fd00::/8"},
		"IPv6 of fc00":          {net(func(n *Network) { n.IPv6 = "fc00:20::/48" }), "fd00::/8"},
		"IPv6 length":           {net(func(n *Network) { n.IPv6 = "fd00:20::/47" }), "fd00::/8"},
		"IPv4 for IPv6":         {net(func(n *Network) { n.IPv6 = "10.30.0.0/16" }), "canonical"},
		"networks overlap":      {func(w *wired) { w.plan.Networks[1].IPv4 = "10.20.7.0/24" }, "overlap"},
		"networks' IPv6":        {func(w *wired) { w.plan.Networks[1].IPv6 = "fd00:20::/48" }, "overlap"},
		"exit elsewhere":        {net(func(n *Network) { n.Exit = canon.Hash{3} }), "exit"},
		"no nodes":              {net(func(n *Network) { n.Nodes = nil }), "nodes"},
		"too many nodes":        {net(func(n *Network) { n.Nodes = make([]NetworkNode, MaxNodes+1) }), "nodes"},

		"node without slot":    {net(func(n *Network) { n.Nodes[0].Slot = canon.Hash{} }), "without a slot"},
		"nodes unsorted":       {net(func(n *Network) { slices.Reverse(n.Nodes) }), "not sorted"},
		"node twice":           {net(func(n *Network) { n.Nodes[0].Slot = n.Nodes[1].Slot }), "occurs twice"},
		"node's range outside": {node(func(n *NetworkNode) { n.IPv4 = "10.21.0.0/24" }), "is no /24 of"},
		"node's range wide":    {node(func(n *NetworkNode) { n.IPv4 = "10.20.0.0/23" }), "is no /24 of"},
		"node's range narrow":  {node(func(n *NetworkNode) { n.IPv4 = "10.20.1.0/25" }), "is no /24 of"},
		"node's range masked":  {node(func(n *NetworkNode) { n.IPv4 = "10.20.1.1/24" }), "canonical"},
		"node's range twice":   {node(func(n *NetworkNode) { n.IPv4 = "10.20.0.0/24" }), "another node's"},
		"node's IPv6 outside":  {node(func(n *NetworkNode) { n.IPv6 = "fd00:21::/64" }), "is no /64 of"},
		"node's IPv6 length":   {node(func(n *NetworkNode) { n.IPv6 = "fd00:20:0:1::/65" }), "is no /64 of"},
		"node's IPv6 twice":    {node(func(n *NetworkNode) { n.IPv6 = "fd00:20::/64" }), "another node's"},
		"node's IPv6 missing":  {node(func(n *NetworkNode) { n.IPv6 = "" }), "canonical"},

		"router missing":   {func(w *wired) { w.plan.Workloads = w.plan.Workloads[1:] }, "1 routers"},
		"router's network": {func(w *wired) { w.plan.Workloads[0] = router("aack", canon.Hash{1}) }, "no network aack"},
		"router's slot":    {func(w *wired) { w.plan.Workloads[1].Slot = canon.Hash{3} }, "not part of network"},
		"router's name":    {func(w *wired) { w.plan.Workloads[0].Name = "a" }, "is named back-01000000"},
		"router's config":  {func(w *wired) { w.plan.Workloads[0].Config = []byte{0xa0} }, "network configuration"},
		"router's version": {func(w *wired) { w.plan.Workloads[0].Config, _ = canon.Marshal(NetworkConfig{V: 2, Network: "back"}) }, "version 2"},
		"router's no name": {func(w *wired) { w.plan.Workloads[0].Config, _ = canon.Marshal(NetworkConfig{V: 1}) }, "network name"},
		"config of a kind": {func(w *wired) { w.plan.Workloads[0].Kind = KindContainer }, "container configuration"},
		"second router":    {func(w *wired) { w.plan.Workloads[1].Slot = canon.Hash{1} }, "is named back-01000000"},
		"no networks left": {func(w *wired) { w.plan.Networks = nil }, "no network back"},

		"unknown network":     {db(func(a *Attachment) { a.Network = "bakc" }), "no network bakc"},
		"slot not in network": {db(func(a *Attachment) { a.Network = "front" }), "not part of network front"},
		"network twice":       {web(func(a *Attachment) { a.Network = "front" }), "front twice"},
		"too many networks of one": {func(w *wired) {
			for len(w.web.Networks) <= MaxAttachments {
				w.web.Networks = append(w.web.Networks, w.web.Networks[0])
			}
		}, "at most 4"},
		"no address":           {db(func(a *Attachment) { a.IPv4 = "" }), "canonical"},
		"address's form":       {db(func(a *Attachment) { a.IPv4 = "10.20.0.02" }), "canonical"},
		"address with length":  {db(func(a *Attachment) { a.IPv4 = "10.20.0.2/32" }), "canonical"},
		"IPv6 as address":      {db(func(a *Attachment) { a.IPv4 = "fd00:20::2" }), "canonical"},
		"IPv4 in IPv6 address": {db(func(a *Attachment) { a.IPv4 = "::ffff:10.20.0.2" }), "canonical"},
		"another node's":       {db(func(a *Attachment) { a.IPv4 = "10.20.1.3" }), "is no address"},
		"the router's":         {db(func(a *Attachment) { a.IPv4 = "10.20.0.1" }), "is no address"},
		"the network's":        {db(func(a *Attachment) { a.IPv4 = "10.20.0.0" }), "is no address"},
		"broadcast":            {db(func(a *Attachment) { a.IPv4 = "10.20.0.255" }), "is no address"},
		"no IPv6 address":      {db(func(a *Attachment) { a.IPv6 = "" }), "canonical"},
		"IPv6 address's form":  {db(func(a *Attachment) { a.IPv6 = "fd00:20:0::2" }), "canonical"},
		"IPv6 zone":            {db(func(a *Attachment) { a.IPv6 = "fd00:20::2%eth0" }), "canonical"},
		"another's IPv6":       {db(func(a *Attachment) { a.IPv6 = "fd00:20:0:1::3" }), "is no address"},
		"the router's IPv6":    {db(func(a *Attachment) { a.IPv6 = "fd00:20::1" }), "is no address"},
		"the anycast":          {db(func(a *Attachment) { a.IPv6 = "fd00:20::" }), "is no address"},
		"alias's form":         {db(func(a *Attachment) { a.Aliases = []string{"PG"} }), "alias"},
		"aliases unsorted":     {db(func(a *Attachment) { a.Aliases = []string{"sql", "pg"} }), "alias"},
		"alias twice":          {db(func(a *Attachment) { a.Aliases = []string{"pg", "pg"} }), "alias"},
		"alias a workload":     {db(func(a *Attachment) { a.Aliases = []string{"web"} }), "alias web"},
		"alias itself":         {db(func(a *Attachment) { a.Aliases = []string{"db"} }), "alias db"},
		"alias a router":       {db(func(a *Attachment) { a.Aliases = []string{"back-01000000"} }), "alias back"},
		"too many aliases":     {db(func(a *Attachment) { a.Aliases = names(MaxAliases + 1) }), "aliases"},
		"open with rules":      {db(func(a *Attachment) { a.Open = true }), "open"},
		"too many rules":       {db(func(a *Attachment) { a.Allow = slices.Repeat(a.Allow[1:], MaxRules+1) }), "rules"},
		"egress":               {db(func(a *Attachment) { a.Egress = "" }), "egress"},
		"egress unknown":       {db(func(a *Attachment) { a.Egress = "all" }), "egress"},
		"egress, no exit":      {net(func(n *Network) { n.Exit = canon.Hash{} }), "has no exit"},
		"two egresses":         {func(w *wired) { w.web.Networks[0].Egress = EgressNode }, "egress in 2"},
		"bandwidth low":        {web(func(a *Attachment) { a.Bandwidth = MinBandwidth - 1 }), "bandwidth"},
		"bandwidth high":       {web(func(a *Attachment) { a.Bandwidth = MaxBandwidth + 1 }), "bandwidth"},
		"protocol":             {rule(func(r *Rule) { r.Protocol = "sctp" }), "protocol"},
		"no protocol":          {rule(func(r *Rule) { r.Protocol = "" }), "protocol"},
		"no port":              {rule(func(r *Rule) { r.First, r.Last = 0, 0 }), "no range"},
		"from port zero":       {rule(func(r *Rule) { r.First = 0 }), "no range"},
		"empty range":          {rule(func(r *Rule) { r.First, r.Last = 5, 4 }), "no range"},
		"icmp with ports":      {rule(func(r *Rule) { r.Protocol = ProtocolICMP }), "no ports"},
		"peer unknown":         {rule(func(r *Rule) { r.Peers = []string{"wbe"} }), "lets wbe in"},
		"peer an alias":        {rule(func(r *Rule) { r.Peers = []string{"pg"} }), "lets pg in"},
		"peer a router":        {rule(func(r *Rule) { r.Peers = []string{"back-01000000"} }), "lets back"},
		"peer elsewhere":       {func(w *wired) { w.web.Networks = w.web.Networks[:1] }, "lets web in"},
		"peer's form":          {rule(func(r *Rule) { r.Peers = []string{"Web"} }), "peer"},
		"peers unsorted":       {rule(func(r *Rule) { r.Peers = []string{"web", "db"} }), "peer"},
		"peer twice":           {rule(func(r *Rule) { r.Peers = []string{"web", "web"} }), "peer"},
		"too many peers":       {rule(func(r *Rule) { r.Peers = names(MaxPeers + 1) }), "peers"},
		"address twice": {func(w *wired) {
			w.plan.Workloads[4].Slot = canon.Hash{1}
			w.web.Networks = []Attachment{w.db.Networks[0]}
			w.web.Networks[0].Allow = nil
		}, "is workload db's"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWired()
			c.change(w)
			p := w.build(t)
			_, err := Encode(p)
			if problem.Code(err) != "plan-invalid" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Encode: %v, want %q", err, c.want)
			}
			b, err := canon.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Decode(b); problem.Code(err) != "plan-invalid" {
				t.Errorf("Decode: %v", err)
			}
		})
	}
}

// TestWidestNetworksAreTaken is the other side of the limits.
func TestWidestNetworksAreTaken(t *testing.T) {
	p := newWired().plan
	p.Workloads = nil
	p.Networks = nil
	for i := range MaxNetworks {
		n := Network{Name: fmt.Sprint("n", i), IPv4: fmt.Sprintf("10.%d.0.0/16", i), IPv6: fmt.Sprintf("fd00:%x::/48", i+1)}
		nodes := MaxNodes / MaxNetworks
		if i == 0 { // the routers of all would be more than MaxWorkloads
			nodes = MaxNodes
		}
		for j := range nodes {
			slot := canon.Hash{byte(j >> 8), byte(j), 1}
			n.Nodes = append(n.Nodes, NetworkNode{Slot: slot, IPv4: fmt.Sprintf("10.%d.%d.0/24", i, j), IPv6: netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd00:%x:0:%x::", i+1, j)), 64).String()})
			p.Workloads = append(p.Workloads, router(n.Name, slot))
		}
		p.Networks = append(p.Networks, n)
	}
	b, err := Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d networks, %d routers: %d bytes", len(p.Networks), len(p.Workloads), len(b))
	for _, private := range []string{"10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "172.31.255.0/24", "100.127.0.0/16"} {
		w := newWired()
		prefix := netip.MustParsePrefix(private)
		n := &w.plan.Networks[1]
		n.IPv4, n.Nodes[0].IPv4 = private, netip.PrefixFrom(prefix.Addr(), 24).String()
		w.web.Networks[0].IPv4 = prefix.Addr().Next().Next().String()
		if private == "10.0.0.0/8" { // which the other network is part of
			w.plan.Networks, w.plan.Workloads = w.plan.Networks[1:], w.plan.Workloads[3:]
			w.web.Networks = w.web.Networks[:1]
		}
		if _, err := Encode(w.build(t)); err != nil {
			t.Errorf("%s: %v", private, err)
		}
	}
}

// TestULAIsTheDeploymentsOwn: the same for the same names, another for others.
func TestULAIsTheDeploymentsOwn(t *testing.T) {
	group := canon.Sum([]byte("group"))
	a := ULA(group, "shop", "back")
	if a != ULA(group, "shop", "back") || a.Bits() != 48 || a.Addr().As16()[0] != 0xfd || a != a.Masked() {
		t.Errorf("%s", a)
	}
	for _, b := range []netip.Prefix{ULA(canon.Hash{1}, "shop", "back"), ULA(group, "shopb", "ack"), ULA(group, "shop", "front")} {
		if a == b {
			t.Errorf("%s is given twice", b)
		}
	}
	// Written down, for the addresses of what runs must never change.
	if got := ULA(canon.Hash{}, "shop", "back").String(); got != "fd94:d712:2349::/48" {
		t.Errorf("got %s", got)
	}
}
