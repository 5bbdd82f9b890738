package client

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

var (
	slotA, slotB = canon.Hash{0: 1}, canon.Hash{0: 2}
	red, green   = canon.Hash{0: 0xaa}, canon.Hash{0: 0xbb}
)

func must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// published is a deployment with a network over two nodes, a database on the second,
// and a gateway on the first that lets devices in by the given slots.
func published(t *testing.T, entries ...canon.Hash) plan.Plan {
	t.Helper()
	p := plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: canon.Hash{0: 9}, Name: "shop", Networks: []plan.Network{{Name: "front", IPv4: "10.20.0.0/16", IPv6: "fd3a:91c7:5e02::/48",
		Nodes: []plan.NetworkNode{
			{Slot: slotA, IPv4: "10.20.1.0/24", IPv6: "fd3a:91c7:5e02:1401::/64"},
			{Slot: slotB, IPv4: "10.20.2.0/24", IPv6: "fd3a:91c7:5e02:1402::/64"},
		}}}}
	db := plan.Container{V: plan.Version, Flist: canon.Hash{0: 3}, Args: []string{"/db"}, WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), NoNewPrivs: true,
		Networks: []plan.Attachment{{Network: "front", IPv4: "10.20.2.2", IPv6: "fd3a:91c7:5e02:1402::2", Egress: plan.EgressNone, Allow: []plan.Rule{{Protocol: "tcp", First: 5432, Last: 5432}}}}}
	p.Workloads = append(p.Workloads, plan.Workload{Name: "db", Kind: plan.KindContainer, Slot: slotB, Resources: plan.GatewayResources(), Config: must2(db.Encode())})
	g := plan.Gateway{V: plan.Version, Addresses: []string{"198.51.100.10", "2001:db8::10"}, Networks: []plan.Attachment{{Network: "front", IPv4: "10.20.1.2", IPv6: "fd3a:91c7:5e02:1401::2", Egress: plan.EgressNone}}}
	for i, e := range entries {
		g.Routes = append(g.Routes, plan.Route{Mode: plan.ModeUDP, Port: uint16(7000 + i), Network: "front", Target: plan.EntryPort, Entry: e, Check: plan.CheckNone})
	}
	if len(entries) == 0 {
		g.Routes = []plan.Route{{Mode: plan.ModeTCP, Port: 5432, Network: "front", Backends: []string{"db"}, Target: 5432, Check: plan.CheckTCP}}
	}
	config, err := g.Encode()
	p.Workloads = append(p.Workloads, plan.Workload{Name: "www", Kind: plan.KindGateway, Slot: slotA, Resources: plan.GatewayResources(), Config: must(t, config, err)})
	for _, s := range []canon.Hash{slotA, slotB} {
		config, err := plan.NetworkConfig{V: plan.Version, Network: "front"}.Encode()
		p.Workloads = append(p.Workloads, plan.Workload{Name: plan.RouterName("front", s), Kind: plan.KindNetwork, Slot: s, Resources: plan.RouterResources(), Config: must(t, config, err)})
	}
	slices.SortFunc(p.Workloads, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	return p
}

func newDevice(name string, n byte) NewDevice {
	return NewDevice{Name: name, Network: "front", Key: [32]byte{0: n, 31: 1}, Account: red}
}

func TestADeviceGetsTheLowestFreeAddressOfItsEntry(t *testing.T) {
	p := published(t, slotB)
	before := must2(plan.Encode(p))
	one := must1(WithDevice(p, newDevice("red-laptop", 1)))
	if got := Devices(&one)["red-laptop"]; got.Network.IPv4 != "10.20.2.3" || got.Network.IPv6 != "fd3a:91c7:5e02:1402::3" || got.Account != red || got.Network.Open {
		t.Errorf("%+v", got) // .2 is the database's
	}
	two := must1(WithDevice(one, newDevice("a-phone", 2)))
	if got := Devices(&two)["a-phone"]; got.Network.IPv4 != "10.20.2.4" {
		t.Errorf("%+v", got)
	}
	back := must1(WithoutDevice(two, "front", "red-laptop"))
	three := must1(WithDevice(back, newDevice("b-phone", 3)))
	if got := Devices(&three)["b-phone"]; got.Network.IPv4 != "10.20.2.3" {
		t.Errorf("an address that is free again: %+v", got)
	}
	again := must1(WithDevice(one, newDevice("red-laptop", 1)))
	if !bytes.Equal(must2(plan.Encode(again)), must2(plan.Encode(one))) {
		t.Error("joining again changes the plan")
	}
	if !bytes.Equal(must2(plan.Encode(p)), before) {
		t.Error("the standing plan was changed")
	}
	if gone := must1(WithoutDevice(one, "front", "red-laptop")); !bytes.Equal(must2(plan.Encode(gone)), before) {
		t.Error("a device that joined and left leaves something in the plan")
	}
}

func must1(p plan.Plan, err error) plan.Plan {
	if err != nil {
		panic(err)
	}
	return p
}

func must2(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestDevicesAreSpreadOverEntries(t *testing.T) {
	p := published(t, slotA, slotB)
	count := map[canon.Hash]int{}
	for i := range 6 {
		p = must1(WithDevice(p, newDevice(fmt.Sprintf("d-%d", i), byte(i+1))))
	}
	for _, w := range p.Workloads {
		if w.Kind == plan.KindDevice {
			count[w.Slot]++
		}
	}
	if count[slotA] != 3 || count[slotB] != 3 {
		t.Errorf("%v", count)
	}
}

func TestWhatIsNoDeviceIsRefusedWithAWayOut(t *testing.T) {
	joined := must1(WithDevice(published(t, slotB), newDevice("red-laptop", 1)))
	for name, c := range map[string]struct {
		p    plan.Plan
		d    NewDevice
		code string
		fix  string
	}{
		"no way in":            {published(t), newDevice("x", 1), "no-entry", "join: front"},
		"another network":      {joined, NewDevice{Name: "x", Network: "back", Key: [32]byte{1}, Account: red}, "network-unknown", ""},
		"a workload's name":    {joined, newDevice("db", 2), "name-taken", "--name"},
		"someone else's":       {joined, NewDevice{Name: "red-laptop", Network: "front", Key: [32]byte{0: 1, 31: 1}, Account: green}, "name-taken", "--name"},
		"its own, another key": {joined, newDevice("red-laptop", 2), "name-taken", "zos net revoke shop/front red-laptop"},
		"a key twice":          {joined, newDevice("x", 1), "plan-invalid", ""},
		"no key":               {joined, NewDevice{Name: "x", Network: "front", Account: red}, "plan-invalid", ""},
		"no name":              {joined, newDevice("X y", 2), "plan-invalid", ""},
	} {
		got, err := WithDevice(c.p, c.d)
		if problem.Code(err) != c.code || !strings.Contains(problem.Fix(err), c.fix) {
			t.Errorf("%s: %v, fix %q", name, err, problem.Fix(err))
		}
		if !bytes.Equal(must2(plan.Encode(got)), must2(plan.Encode(c.p))) {
			t.Errorf("%s: another plan all the same", name)
		}
	}
	for i := byte(2); i < 253; i++ { // beside red's laptop and the database
		joined = must1(WithDevice(joined, newDevice(fmt.Sprintf("d-%03d", i), i)))
	}
	if _, err := WithDevice(joined, newDevice("one-more", 254)); problem.Code(err) != "network-full" {
		t.Errorf("a full node: %v", err)
	}
}

// Without its peers a rule lets in everybody.
func TestARevokedDeviceTakesItsRulesAlong(t *testing.T) {
	p := must1(WithDevice(must1(WithDevice(published(t, slotB), newDevice("red-laptop", 1))), newDevice("a-phone", 2)))
	for i, w := range p.Workloads {
		if w.Name != "db" {
			continue
		}
		c, err := plan.DecodeContainer(w.Config)
		must(t, c, err)
		c.Networks[0].Allow = []plan.Rule{
			{Protocol: "tcp", First: 22, Last: 22, Peers: []string{"red-laptop"}},
			{Protocol: "tcp", First: 5432, Last: 5432, Peers: []string{"a-phone", "red-laptop"}},
			{Protocol: "icmp"},
		}
		p.Workloads[i].Config = must2(c.Encode())
	}
	if got := ReachedBy(&p, "front", "red-laptop"); len(got) != 1 || !slices.Equal(got[0].Ports, []string{"22/tcp", "5432/tcp", "icmp"}) {
		t.Errorf("%+v", got)
	}
	if got := ReachedBy(&p, "front", "a-phone"); len(got) != 1 || !slices.Equal(got[0].Ports, []string{"5432/tcp", "icmp"}) {
		t.Errorf("%+v", got)
	}
	left := must1(WithoutDevice(p, "front", "red-laptop"))
	for _, w := range AttachedTo(&left, "front") {
		if w.Workload.Name != "db" {
			continue
		}
		if len(w.Allow) != 2 || w.Allow[0].First != 5432 || !slices.Equal(w.Allow[0].Peers, []string{"a-phone"}) || w.Allow[1].Protocol != "icmp" {
			t.Errorf("rules that stay: %+v", w.Allow)
		}
	}
	none := must1(WithoutDevice(left, "front", "a-phone"))
	for _, w := range AttachedTo(&none, "front") {
		if w.Workload.Name == "db" && (len(w.Allow) != 1 || w.Allow[0].Protocol != "icmp" || w.Open) {
			t.Errorf("a rule for nobody lets in everybody: %+v", w.Allow)
		}
	}
	if got := Devices(&p); len(got) != 2 {
		t.Errorf("the standing plan was changed: %v", got)
	}
	for _, c := range [][2]string{{"front", "red-latpop"}, {"front", "db"}, {"back", "red-laptop"}} {
		if _, err := WithoutDevice(p, c[0], c[1]); problem.Code(err) != "device-unknown" {
			t.Errorf("%v: %v", c, err)
		}
	}
	if _, err := WithoutDevice(p, "front", "red-latpop"); problem.Fix(err) != `did you mean "red-laptop"?` {
		t.Errorf("fix %q", problem.Fix(err))
	}
}

func TestANodeIsNotBelievedBesideThePlan(t *testing.T) {
	key := wireguard.NewPrivateKey()
	p := must1(WithDevice(published(t, slotB), NewDevice{Name: "red-laptop", Network: "front", Key: key.Public(), Account: red}))
	w := p.Workloads[slices.IndexFunc(p.Workloads, func(w plan.Workload) bool { return w.Name == "red-laptop" })]
	public, entry := key.Public(), wireguard.NewPrivateKey().Public()
	good := func() protocol.DeviceConfig {
		return protocol.DeviceConfig{Network: "front", EntryKey: entry[:], Preshared: bytes.Repeat([]byte{1}, 32), Device: public[:],
			Addresses: []string{"10.20.2.3", "fd3a:91c7:5e02:1402::3"}, Ranges: []string{"10.20.0.0/16", "fd3a:91c7:5e02::/48"},
			DNS: []string{"10.20.2.1", "fd3a:91c7:5e02:1402::1"}, Endpoints: []string{"198.51.100.10:7000", "[2001:db8::10]:7000"}, MTU: 1280}
	}
	got, err := deviceConfig(&p, w, key, good())
	if err != nil || got.Domain != "front.internal" || len(got.Endpoints) != 2 || got.Entry != entry {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, change := range map[string]func(*protocol.DeviceConfig){
		"another range":       func(c *protocol.DeviceConfig) { c.Ranges[0] = "10.0.0.0/8" },
		"all of the world":    func(c *protocol.DeviceConfig) { c.Ranges[0] = "0.0.0.0/0" },
		"another address":     func(c *protocol.DeviceConfig) { c.Addresses[0] = "10.20.2.4" },
		"another endpoint":    func(c *protocol.DeviceConfig) { c.Endpoints[0] = "203.0.113.1:7000" },
		"another port":        func(c *protocol.DeviceConfig) { c.Endpoints[0] = "198.51.100.10:7001" },
		"another device":      func(c *protocol.DeviceConfig) { c.Device = entry[:] },
		"another network":     func(c *protocol.DeviceConfig) { c.Network = "back" },
		"a resolver outside":  func(c *protocol.DeviceConfig) { c.DNS[0] = "8.8.8.8" },
		"no preshared key":    func(c *protocol.DeviceConfig) { c.Preshared = make([]byte, 32) },
		"this machine's keys": func(c *protocol.DeviceConfig) { c.EntryKey = public[:] },
	} {
		answer := good()
		change(&answer)
		if got, err := deviceConfig(&p, w, key, answer); problem.Code(err) != "reply-invalid" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	answer := good()
	answer.Endpoints = nil
	if _, err := deviceConfig(&p, w, key, answer); problem.Code(err) != "no-entry" {
		t.Errorf("no way in: %v", err)
	}
	if _, err := deviceConfig(&p, w, wireguard.NewPrivateKey(), good()); problem.Code(err) != "key-invalid" {
		t.Errorf("another key: %v", err)
	}
}

func TestADevicesKeyIsMadeOnceForItsOwnerAlone(t *testing.T) {
	c := &Client{config: Config{Dir: t.TempDir()}, context: &Context{Genesis: []byte("x")}}
	id := canon.Hash{0: 7}
	key, err := c.DeviceKey(id, "front", "red-laptop")
	must(t, key, err)
	again, err := c.DeviceKey(id, "front", "red-laptop")
	if err != nil || again != key || key.IsZero() {
		t.Errorf("another key the second time: %v", err)
	}
	path := c.DeviceKeyPath(id, "front", "red-laptop")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	for _, other := range []string{c.DeviceKeyPath(canon.Hash{0: 8}, "front", "red-laptop"), c.DeviceKeyPath(id, "back", "red-laptop"), c.DeviceKeyPath(id, "front", "phone")} {
		if other == path {
			t.Errorf("%s is that of two devices", path)
		}
	}
	for name, spoil := range map[string]func() error{
		"readable by others": func() error { return os.Chmod(path, 0o644) },
		"damaged":            func() error { return os.WriteFile(path, []byte("AAAA"), 0o600) },
		"huge":               func() error { return os.WriteFile(path, make([]byte, 1000), 0o600) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		_, err := c.DeviceKey(id, "front", "red-laptop")
		if problem.Code(err) != "key-invalid" || strings.Contains(err.Error(), key.String()) {
			t.Errorf("%s: %v", name, err)
		}
		_ = os.Chmod(path, 0o600)
	}
}

func TestANetworkIsFoundByAsMuchAsPeopleWrite(t *testing.T) {
	mk := func(group byte, name string, networks ...string) Contract {
		k := Contract{ID: canon.Hash{0: group, 1: name[0]}, ContractRecord: contract.ContractRecord{Group: canon.Hash{0: group}, Name: name}}
		for _, n := range networks {
			k.Plan.Networks = append(k.Plan.Networks, plan.Network{Name: n})
		}
		return k
	}
	all := []Contract{mk(1, "shop", "front", "back"), mk(1, "site", "front"), mk(1, "blog", "inner"), mk(2, "shop", "secret"), mk(2, "wiki", "front")}
	names, mine := Names{{0: 1}: "demo", {0: 2}: "other"}, map[canon.Hash]bool{{0: 1}: true}
	for ref, want := range map[string]string{
		"inner": "blog/inner", "back": "shop/back", "shop/front": "shop/front", "site/front": "site/front", "demo/shop/front": "shop/front",
		"demo/site": "site/front", "other/wiki/front": "wiki/front", "other/wiki": "wiki/front", "demo/blog": "blog/inner",
		"front": "?demo/shop/front or demo/site/front", "secret": "?list them with: zos net ls", "demo/shop": "?list them", "shop/fornt": `?did you mean "demo/shop/front"?`, "a/b/c/d": "?list them", "": "?list them",
	} {
		k, n, err := findNetwork(ref, all, names, mine)
		if got := k.Name + "/" + n.Name; err == nil && got != want {
			t.Errorf("%q is %s, want %s", ref, got, want)
		} else if fix, isFix := strings.CutPrefix(want, "?"); err != nil && (!isFix || !strings.Contains(problem.Fix(err), fix) && !strings.Contains(problem.Fix(err), "known: ")) {
			t.Errorf("%q: %v, fix %q, want %q", ref, err, problem.Fix(err), want)
		} else if err == nil && isFix {
			t.Errorf("%q is %s, want no one", ref, got)
		}
	}
}
