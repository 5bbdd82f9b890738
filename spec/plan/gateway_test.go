package plan

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
)

func slotID(name string) canon.Hash { return canon.Sum([]byte(name)) }

// published is a plan of one node with a network, the container web in it, and a
// gateway for each entry.
func published(t *testing.T, gateways map[string]Gateway) Plan {
	t.Helper()
	slot := slotID("slot")
	must := func(b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	at := func(host byte) Attachment {
		return Attachment{Network: "front", IPv4: "10.1.0." + string('0'+host), IPv6: "fd00:1::" + string('0'+host), Egress: EgressNone}
	}
	web := at(2)
	web.Open = true
	p := Plan{V: Version, Update: DefaultUpdate(), Group: slotID("group"), Name: "shop",
		Networks: []Network{{Name: "front", IPv4: "10.1.0.0/24", IPv6: "fd00:1::/48", Nodes: []NetworkNode{{Slot: slot, IPv4: "10.1.0.0/24", IPv6: "fd00:1::/64"}}}},
		Workloads: []Workload{
			{Name: RouterName("front", slot), Kind: KindNetwork, Slot: slot, Resources: RouterResources(), Config: must(NetworkConfig{V: Version, Network: "front"}.Encode())},
			{Name: "web", Kind: KindContainer, Slot: slot, Resources: Resources{CPU: 1, Memory: 1 << 20, PIDs: 1}, Config: must(Container{V: Version, Flist: slotID("f"), Args: []string{"/web"}, WorkDir: "/", Isolation: IsolationNamespace, Life: DefaultLife(), Networks: []Attachment{web}}.Encode())},
		}}
	n := byte(3)
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for k := range gateways {
			if !yield(k) {
				return
			}
		}
	}) {
		g := gateways[name]
		g.V, g.Networks = Version, []Attachment{at(n)}
		n++
		config, err := canon.Marshal(g) // also those that are wrong by themselves
		if err != nil {
			t.Fatal(err)
		}
		p.Workloads = append(p.Workloads, Workload{Name: name, Kind: KindGateway, Slot: slot, Resources: GatewayResources(), Config: config})
	}
	slices.SortFunc(p.Workloads, func(a, b Workload) int { return strings.Compare(a.Name, b.Name) })
	return p
}

func toHost(host string) Route {
	return Route{Host: host, Mode: ModePassthrough, Port: 443, Network: "front", Backends: []string{"web"}, Target: 8443, Check: CheckTCP}
}

func toPort(mode string, port uint16) Route {
	r := Route{Mode: mode, Port: port, Network: "front", Backends: []string{"web"}, Target: 5432, Check: CheckTCP}
	if mode == ModeUDP {
		r.Check = CheckNone
	}
	return r
}

func TestTwoGatewaysOfAPlanPublishNothingTwiceAtOneAddress(t *testing.T) {
	const a, b = "198.51.100.1", "198.51.100.2"
	at := func(address string, routes ...Route) Gateway {
		SortRoutes(routes)
		return Gateway{Addresses: []string{address}, Routes: routes}
	}
	for name, c := range map[string]struct {
		one, two Gateway
		wrong    string // part of the error, "" if it is right
	}{
		"different hosts":                {at(a, toHost("a.example")), at(a, toHost("b.example")), ""},
		"different ports":                {at(a, toPort(ModeTCP, 5000)), at(a, toPort(ModeTCP, 5001)), ""},
		"tcp and udp":                    {at(a, toPort(ModeTCP, 5000)), at(a, toPort(ModeUDP, 5000)), ""},
		"one host at two addresses":      {at(a, toHost("a.example")), at(b, toHost("a.example")), ""},
		"one port at two addresses":      {at(a, toPort(ModeTCP, 5000)), at(b, toPort(ModeTCP, 5000)), ""},
		"hosts and another port":         {at(a, toHost("a.example")), at(a, toPort(ModeTCP, 444)), ""},
		"hosts and 443/udp":              {at(a, toHost("a.example")), at(a, toPort(ModeUDP, 443)), ""},
		"one host twice":                 {at(a, toHost("a.example")), at(a, toHost("a.example")), "publishes a.example at 198.51.100.1, as gw-1"},
		"one port twice":                 {at(a, toPort(ModeTCP, 5000)), at(a, toPort(ModeTCP, 5000)), "publishes 5000/tcp at 198.51.100.1, as gw-1"},
		"hosts, and 443 by another one":  {at(a, toHost("a.example")), at(a, toPort(ModeTCP, 443)), "where gw-1 publishes hosts"},
		"hosts, and 80 by another one":   {at(a, toHost("a.example")), at(a, toPort(ModeTCP, 80)), "where gw-1 publishes hosts"},
		"80 as a whole, then hosts":      {at(a, toPort(ModeTCP, 80)), at(a, toHost("a.example")), "where gw-1 publishes port 80"},
		"one of several addresses twice": {Gateway{Addresses: []string{a, b}, Routes: []Route{toPort(ModeTCP, 5000)}}, at(b, toPort(ModeTCP, 5000)), "at 198.51.100.2, as gw-1"},
	} {
		t.Run(name, func(t *testing.T) {
			err := published(t, map[string]Gateway{"gw-1": c.one, "gw-2": c.two}).Validate()
			if c.wrong == "" && err != nil || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
				t.Errorf("%v, want %q", err, c.wrong)
			}
		})
	}
}

func TestAGatewayThatContradictsItselfIsRefused(t *testing.T) {
	good := func() Gateway {
		return Gateway{Addresses: []string{"198.51.100.1"}, Routes: []Route{toHost("a.example")}}
	}
	if err := published(t, map[string]Gateway{"gw": good()}).Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Gateway){
		"no address":               func(g *Gateway) { g.Addresses = nil },
		"an address twice":         func(g *Gateway) { g.Addresses = []string{"198.51.100.1", "198.51.100.1"} },
		"a loopback address":       func(g *Gateway) { g.Addresses = []string{"127.0.0.1"} },
		"a multicast address":      func(g *Gateway) { g.Addresses = []string{"224.0.0.1"} },
		"other text of an address": func(g *Gateway) { g.Addresses = []string{"2001:DB8::1"} },
		"no route":                 func(g *Gateway) { g.Routes = nil },
		"a host twice":             func(g *Gateway) { g.Routes = append(g.Routes, g.Routes[0]) },
		"a host in capitals":       func(g *Gateway) { g.Routes[0].Host = "A.example" },
		"an address as host":       func(g *Gateway) { g.Routes[0].Host = "198.51.100.1" },
		"a host of one label":      func(g *Gateway) { g.Routes[0].Host = "example" },
		"a host elsewhere":         func(g *Gateway) { g.Routes[0].Port = 8443 },
		"a backend of no name":     func(g *Gateway) { g.Routes[0].Backends = []string{"nobody"} },
		"no backend":               func(g *Gateway) { g.Routes[0].Backends = nil },
		"another network":          func(g *Gateway) { g.Routes[0].Network = "back" },
		"an unknown mode":          func(g *Gateway) { g.Routes[0].Mode = "magic" },
		"an unknown check":         func(g *Gateway) { g.Routes[0].Check = "ping" },
		"a path without http":      func(g *Gateway) { g.Routes[0].Path = "/" },
		"a path with a new line":   func(g *Gateway) { g.Routes[0].Check, g.Routes[0].Path = CheckHTTP, "/\r\n" },
		"hosts next to all of 443": func(g *Gateway) { g.Routes = append([]Route{toPort(ModeTCP, 443)}, g.Routes...) },
		"an entry by tcp": func(g *Gateway) {
			g.Routes = []Route{{Mode: ModeTCP, Port: 5000, Network: "front", Entry: slotID("slot"), Target: EntryPort, Check: CheckNone}}
		},
		"an entry elsewhere": func(g *Gateway) {
			g.Routes = []Route{{Mode: ModeUDP, Port: 5000, Network: "front", Entry: slotID("other"), Target: EntryPort, Check: CheckNone}}
		},
		"PROXY to who decrypts": func(g *Gateway) { g.Routes[0].Mode, g.Routes[0].Proxy = ModeTerminate, 2 },
	} {
		t.Run(name, func(t *testing.T) {
			g := good()
			spoil(&g)
			if err := published(t, map[string]Gateway{"gw": g}).Validate(); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestLabelsThatCanBeReserved(t *testing.T) {
	for label, want := range map[string]bool{
		"shop": true, "a": true, "7": true, "my-shop": true, "a--b": true, "ab-": false, "-ab": false, "-": false, "": false,
		"Shop": false, "sh.op": false, "xn--shp-tna": false, "ab--c": false, "ab-c-d": true, "sh_op": false,
		strings.Repeat("a", 63): true, strings.Repeat("a", 64): false,
	} {
		if got := ValidLabel(label); got != want {
			t.Errorf("%q: %v, want %v", label, got, want)
		}
	}
}

func FuzzDecodeName(f *testing.F) {
	b, err := EncodeName(Name{V: Version, Label: "shop", To: slotID("group"), Until: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := DecodeName(b)
		if err != nil {
			return
		}
		if again, err := EncodeName(n); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x encodes to %x: %v", b, again, err)
		}
	})
}

// FuzzDecodeGateway: what is read is what would be written, and nothing panics.
func FuzzDecodeGateway(f *testing.F) {
	at := Attachment{Network: "front", IPv4: "10.1.0.3", IPv6: "fd00:1::3", Egress: EgressNone}
	routes := []Route{toHost("a.example"), toPort(ModeTCP, 5000), {Mode: ModeUDP, Port: 5001, Network: "front", Entry: slotID("slot"), Target: EntryPort, Check: CheckNone}}
	SortRoutes(routes)
	b, err := Gateway{V: Version, Addresses: []string{"198.51.100.1", "2001:db8::1"}, Networks: []Attachment{at}, Routes: routes}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := DecodeGateway(b)
		if err != nil {
			return
		}
		if again, err := g.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x encodes to %x: %v", b, again, err)
		}
	})
}

// FuzzDecodeDevice is FuzzDecodeGateway for devices.
func FuzzDecodeDevice(f *testing.F) {
	key := slotID("key")
	b, err := Device{V: Version, Key: key[:], Account: slotID("red"), Network: Attachment{Network: "front", IPv4: "10.1.0.3", IPv6: "fd00:1::3", Egress: EgressNone}}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := DecodeDevice(b)
		if err != nil {
			return
		}
		if again, err := d.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x encodes to %x: %v", b, again, err)
		}
	})
}
