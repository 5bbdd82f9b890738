package node

import (
	"bytes"
	"slices"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
	tenant "github.com/zero-os/zos/workload/network"
)

var here, there = canon.Hash{1}, canon.Hash{2}

// laptops is a plan with a device of alice at this node and one at another, and
// gateways that lead to both.
func laptops(t *testing.T) *plan.Plan {
	t.Helper()
	p := &plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: canon.Hash{9}, Name: "shop", Networks: []plan.Network{{Name: "front", IPv4: "10.20.0.0/16", IPv6: "fd00::/48", Nodes: []plan.NetworkNode{
		{Slot: here, IPv4: "10.20.1.0/24", IPv6: "fd00:0:0:1::/64"}, {Slot: there, IPv4: "10.20.2.0/24", IPv6: "fd00:0:0:2::/64"}}}}}
	add := func(name, kind string, slot canon.Hash, r plan.Resources, config []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		p.Workloads = append(p.Workloads, plan.Workload{Name: name, Kind: kind, Slot: slot, Resources: r, Config: config})
	}
	at := func(v4, v6 string) plan.Attachment {
		return plan.Attachment{Network: "front", IPv4: v4, IPv6: v6, Aliases: []string{}, Allow: []plan.Rule{}, Egress: plan.EgressNone}
	}
	enter := func(port uint16, slot canon.Hash) plan.Route {
		return plan.Route{Mode: plan.ModeUDP, Port: port, Network: "front", Backends: []string{}, Entry: slot, Target: plan.EntryPort, Check: plan.CheckNone}
	}
	for _, slot := range []canon.Hash{here, there} {
		b, err := plan.NetworkConfig{V: plan.Version, Network: "front"}.Encode()
		add(plan.RouterName("front", slot), plan.KindNetwork, slot, plan.RouterResources(), b, err)
	}
	for i, name := range []string{"laptop", "phone"} {
		b, err := plan.Device{V: plan.Version, Key: bytes.Repeat([]byte{byte(i + 1)}, 32), Account: canon.Hash{0xa},
			Network: []plan.Attachment{at("10.20.1.9", "fd00:0:0:1::9"), at("10.20.2.9", "fd00:0:0:2::9")}[i]}.Encode()
		add(name, plan.KindDevice, []canon.Hash{here, there}[i], plan.DeviceResources(), b, err)
	}
	b, err := plan.Gateway{V: plan.Version, Addresses: []string{"198.51.100.9", "2001:db8::9"}, Networks: []plan.Attachment{at("10.20.2.2", "fd00:0:0:2::2")},
		Routes: []plan.Route{enter(4500, here), enter(4501, there), enter(4502, here)}}.Encode()
	add("www", plan.KindGateway, there, plan.GatewayResources(), b, err)
	slices.SortFunc(p.Workloads, func(a, b plan.Workload) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestWhoGetsADevicesConfiguration is the truth table of ownDevice.
func TestWhoGetsADevicesConfiguration(t *testing.T) {
	key := func() sign.PublicKey {
		_, s, err := sign.Generate()
		if err != nil {
			t.Fatal(err)
		}
		return s.Public()
	}
	alice, bob, old := key(), key(), key()
	members := []person{{canon.Hash{0xb}, bob}, {canon.Hash{0xa}, alice}, {canon.Hash{0xc}, nil}}
	p := laptops(t)
	for name, c := range map[string]struct {
		plan    *plan.Plan
		caller  sign.PublicKey
		members []person
		device  string
		code    string
	}{
		"its account":                            {p, alice, members, "laptop", ""},
		"another member":                         {p, bob, members, "laptop", "not-permitted"},
		"its account, which is a member no more": {p, alice, members[:1], "laptop", "not-permitted"},
		"a former key of its account":            {p, old, members, "laptop", "not-permitted"},
		"its account's key at another account":   {p, alice, []person{{canon.Hash{0xb}, alice}}, "laptop", "not-permitted"},
		"nobody":                                 {p, nil, members, "laptop", "not-permitted"},
		"no members":                             {p, alice, nil, "laptop", "not-permitted"},
		"it enters elsewhere":                    {p, alice, members, "phone", "device-unknown"},
		"there is none of this name":             {p, alice, members, "tablet", "device-unknown"},
		"it is no device":                        {p, alice, members, "www", "device-unknown"},
		"no plan":                                {nil, alice, members, "laptop", "device-unknown"},
	} {
		d, err := ownDevice(c.plan, here, c.caller, c.members, c.device)
		if problem.Code(err) != c.code || err != nil && c.code == "" {
			t.Errorf("%s: %v, want %q", name, err, c.code)
		}
		if (err == nil) != (len(d.Key) > 0) {
			t.Errorf("%s: a device of %d bytes' key with %v", name, len(d.Key), err)
		}
	}
}

func TestADevicesConfigurationIsWhatThePlanSays(t *testing.T) {
	p, secrets := laptops(t), tenant.NewSecrets([32]byte{1})
	d, err := ownDevice(p, here, sign.PublicKey("k"), []person{{canon.Hash{0xa}, sign.PublicKey("k")}}, "laptop")
	if err != nil {
		t.Fatal(err)
	}
	got, err := configOf(p, canon.Hash{7}, here, d, secrets)
	if err != nil {
		t.Fatal(err)
	}
	b, err := canon.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := protocol.DecodeDeviceConfig(b); err != nil {
		t.Error(err)
	}
	id := network.ID(canon.Hash{7}, "front")
	entry, psk := secrets.Entry(id).Public(), secrets.Device(id, d.Key, d.Account)
	if !bytes.Equal(got.EntryKey, entry[:]) || !bytes.Equal(got.Preshared, psk[:]) || !bytes.Equal(got.Device, d.Key) {
		t.Errorf("keys of %+v", got)
	}
	for what, c := range map[string][2][]string{
		"addresses": {got.Addresses, {"10.20.1.9", "fd00:0:0:1::9"}},
		"ranges":    {got.Ranges, {"10.20.0.0/16", "fd00::/48"}},
		"resolvers": {got.DNS, {"10.20.1.1", "fd00:0:0:1::1"}},
		"endpoints": {got.Endpoints, {"198.51.100.9:4500", "[2001:db8::9]:4500", "198.51.100.9:4502", "[2001:db8::9]:4502"}},
	} {
		if !slices.Equal(c[0], c[1]) {
			t.Errorf("%s: %v, want %v", what, c[0], c[1])
		}
	}
}
