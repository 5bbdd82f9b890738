package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/examples"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec"
	"github.com/zero-os/zos/spec/plan"
)

// shopNet is a deployment with a network over three nodes, of which the third
// does not answer, and what its nodes say.
func shopNet(t *testing.T) (client.Contract, map[canon.Hash]client.View, client.Names) {
	t.Helper()
	slots := []canon.Hash{canon.Sum([]byte("a")), canon.Sum([]byte("b")), canon.Sum([]byte("c"))}
	names := client.Names{slots[0]: "node-1", slots[1]: "node-2", slots[2]: "node-3", canon.Sum([]byte("demo")): "demo"}
	k := client.Contract{ID: canon.Sum([]byte("id")), Plan: plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: canon.Sum([]byte("demo")), Name: "shop"}}
	k.ContractRecord = contract.ContractRecord{Group: k.Plan.Group, Name: "shop", Version: 3}
	n := plan.Network{Name: "front", IPv4: "10.20.0.0/16", IPv6: "fd3a:91c7:5e02::/48", Exit: slots[2]}
	for i, s := range slots {
		n.Nodes = append(n.Nodes, plan.NetworkNode{Slot: s, IPv4: fmt.Sprintf("10.20.%d.0/24", i+1), IPv6: fmt.Sprintf("fd3a:91c7:5e02:%d::/64", i+1)})
	}
	k.Plan.Networks = []plan.Network{n}
	for i, w := range []plan.Attachment{
		{Aliases: []string{"postgres"}, Egress: plan.EgressNone, Allow: []plan.Rule{{Protocol: "tcp", First: 5432, Last: 5432, Peers: []string{"web-1", "web-2"}}, {Protocol: "icmp"}}},
		{Aliases: []string{"web"}, Egress: plan.EgressExit, Open: true, Bandwidth: 100_000_000},
		{Egress: plan.EgressNone},
	} {
		w.Network, w.IPv4, w.IPv6 = "front", fmt.Sprintf("10.20.%d.2", i+1), fmt.Sprintf("fd3a:91c7:5e02:%d::2", i+1)
		c := plan.Container{V: plan.Version, Flist: canon.Sum([]byte("x")), Args: []string{"/x"}, WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), Networks: []plan.Attachment{w}}
		b, err := canon.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		k.Plan.Workloads = append(k.Plan.Workloads, plan.Workload{Name: []string{"db", "web-1", "worker"}[i], Kind: plan.KindContainer, Slot: slots[i], Config: b})
	}
	views := map[canon.Hash]client.View{slots[2]: {Err: problem.New("node-silent", "network.status: node did not answer in time")}}
	for i, peer := range []int{1, 0} {
		views[slots[i]] = client.View{Status: protocol.NetworkStatus{Slot: slots[i], Networks: []protocol.Network{{
			Name: "front", Keys: []protocol.NetworkKey{{Device: "wg0", Engine: protocol.EngineKernel, Epoch: 20543, PublicKey: make([]byte, 32), Age: 11000, Port: uint64(51820 * i)}},
			Firewall: protocol.Check{OK: true}, Resolver: protocol.Check{OK: i == 0, Detail: strings.Repeat("no answer\x1b[2J", i)},
			Workloads: []protocol.AttachedWorkload{{Name: "x"}},
			Peers: []protocol.NetworkPeer{
				{Slot: slots[peer], State: protocol.PeerUp, Path: []string{"direct 192.0.2.17:51820", "relay via rendezvous-1.example.net:443"}[i], Epoch: 20543, UsedEpoch: 20543,
					Handshake: &protocol.Age{Seconds: 41}, PSK: &protocol.Age{Seconds: 360}, Received: 7 << 20, Sent: 1000},
				{Slot: slots[2], State: protocol.PeerUnknown, Code: "exchange-refused", Message: "no binding"},
			},
		}}}}
	}
	return k, views, names
}

// golden compares what a verb shows with a file of testdata/net.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "net", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (go test ./cmd/zos -run 'TestANetworkFor|TestWhatIsPublishedFor' -update writes it anew):\n%s\nwant\n%s", path, got, want)
	}
	for line := range strings.Lines(got) {
		if len([]rune(line)) > 120 {
			t.Errorf("%s: a line of %d characters: %s", name, len([]rune(line)), line)
		}
	}
}

func TestANetworkForPeople(t *testing.T) {
	k, views, names := shopNet(t)
	n := k.Plan.Networks[0]
	for name, views := range map[string]map[canon.Hash]client.View{"show.txt": views, "foreign.txt": nil} {
		var why error
		if views == nil {
			why = problem.New("not-permitted", "no key in context test has the right to this")
		}
		var b bytes.Buffer
		a := &app{out: &b, err: &b, format: "table"}
		if err := a.showNetwork(netShownOf(k, n, views, names), why); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(b.String(), "\x1b") {
			t.Error("a node's words steer the terminal, or colours come out of a pipe")
		}
		golden(t, name, b.String())
	}
	var b bytes.Buffer
	a := &app{out: &b, format: "table"}
	row := netRow{Contract: "demo/shop", Network: "front", IPv4: n.IPv4, Nodes: 3, Workloads: 3}
	row.State, row.Problems = client.NetworkState(&k.Plan, n, views, names)
	other := netRow{Contract: "demo/site", Network: "back", IPv4: "10.9.0.0/16", Nodes: 1, Workloads: 12, State: client.NetworkReady}
	if err := a.showNetworks([]netRow{row, other}); err != nil {
		t.Fatal(err)
	}
	golden(t, "ls.txt", b.String())
}

func TestANetworkForMachines(t *testing.T) {
	k, views, names := shopNet(t)
	var b bytes.Buffer
	a := &app{out: &b, format: "json"}
	if err := a.showNetwork(netShownOf(k, k.Plan.Networks[0], views, names), nil); err != nil {
		t.Fatal(err)
	}
	var got struct {
		State string
		Nodes []struct {
			Node, Error string
			Live        *struct {
				Peers []struct {
					Slot, State, Path string
					RX                uint64 `json:"rx"`
					Handshake         *struct{ Seconds uint64 }
				}
			}
			Names map[string]string
		}
		Workloads []struct {
			Workload     string
			Allow, Names []string
		}
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	peer := got.Nodes[0].Live.Peers[0]
	if got.State != "degraded" || peer.RX != 7<<20 || peer.Handshake.Seconds != 41 || got.Nodes[0].Names[peer.Slot] != "node-2" ||
		got.Nodes[2].Live != nil || got.Nodes[2].Error != "node-silent" || got.Workloads[0].Allow[0] != "5432/tcp from web-1, web-2" || got.Workloads[1].Allow == nil {
		t.Errorf("%s", b.String())
	}
	b.Reset()
	if err := a.showNetworks(nil); err != nil || b.String() != "[]\n" {
		t.Errorf("no networks: %q, %v", b.String(), err)
	}
}

func TestADiagnosisForPeople(t *testing.T) {
	broken := client.Diagnosis{From: "web", To: "db", Port: "22/tcp", Network: "front", Steps: []client.Step{
		{Name: client.StepContract, OK: true, Detail: "web on node-1 and db on node-2 run, both in network front"},
		{Name: client.StepKeys, Detail: "node-2 does not answer: \x1b[2J", Fix: "check its power"},
	}}
	var b bytes.Buffer
	a := &app{out: &b, err: &b, format: "table"}
	err := a.showDiagnosis(broken)
	if problem.Code(err) != "workloads-apart" || exitCode(err) != exitUnreachable || problem.Fix(err) != "check its power" {
		t.Errorf("%v, exit %d", err, exitCode(err))
	}
	if got, want := b.String(), "ok  contract  web on node-1 and db on node-2 run, both in network front\n✗   keys      node-2 does not answer: ·[2J\n"; got != want {
		t.Errorf("%s", got)
	}
	b.Reset()
	broken.Steps[1].OK, broken.Steps[1].Fix, broken.OK = true, "", true
	if err := a.showDiagnosis(broken); err != nil || !strings.Contains(b.String(), "Nothing keeps web from 22/tcp of db") {
		t.Errorf("%v\n%s", err, b.String())
	}
	for want, change := range map[string]func(*client.Diagnosis){
		"\nNothing keeps web from 22/tcp of db. If it fails all the same, look at the programs:\nzos logs demo/shop/db\n": func(*client.Diagnosis) {},
		"\nweb reaches 5432/tcp of db, and nothing else there. ":                                                          func(d *client.Diagnosis) { d.Port, d.Reaches = client.Port{}.String(), []string{"5432/tcp"} },
		"\nweb reaches 80/tcp, icmp and 53/udp of db, and nothing else there. ": func(d *client.Diagnosis) {
			d.Port, d.Reaches = client.Port{}.String(), []string{"80/tcp", "icmp", "53/udp"}
		},
		"\nweb reaches every port of db. ": func(d *client.Diagnosis) { d.Port, d.Open = client.Port{}.String(), true },
	} {
		well := broken
		well.Contract = "demo/shop"
		change(&well)
		b.Reset()
		if err := a.showDiagnosis(well); err != nil || !strings.Contains(b.String(), want) {
			t.Errorf("%v\n%s\nwant %s", err, b.String(), want)
		}
	}
	b.Reset()
	a.format = "json"
	broken.OK = false
	broken.Steps[1].OK = false
	err = a.showDiagnosis(broken)
	var got client.Diagnosis
	if err2 := json.Unmarshal(b.Bytes(), &got); err2 != nil || err == nil || len(got.Steps) != 2 || got.OK {
		t.Errorf("%v\n%s", errors.Join(err, err2), b.String())
	}
}

// What the how-to shows is a spec that works.
func TestTheHowToOfNetworksIsRight(t *testing.T) {
	b, err := os.ReadFile("../../docs/how-to/networks.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "```yaml\n")
	text, _, found := strings.Cut(text, "```")
	if !found {
		t.Fatal("no spec in it")
	}
	d, err := spec.Parse("shop.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Networks) != 1 || len(d.Workloads) != 2 || len(d.Workloads[0].Networks[0].Allow) != 1 {
		t.Errorf("%+v", d)
	}
	hello, err := spec.Parse("hello.yaml", examples.Hello)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range d.Workloads {
		if w.Image != hello.Workloads[0].Image {
			t.Errorf("workload %s runs %s, and a new grid has only %s", w.Name, w.Image, hello.Workloads[0].Image)
		}
	}
}

func TestLongLinesAreBrokenBetweenWords(t *testing.T) {
	for in, want := range map[string]string{"": "", "one": "one", "one two": "one two", "one twos": "one\n  twos", "muchtoolong a b": "muchtoolong\n  a b", "é é é é é": "é é é é\n  é"} {
		if got := wrapped(in, 7, "  "); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestQuantitiesOfNetworks(t *testing.T) {
	for _, c := range [][2]string{
		{span(0), "0s"}, {span(119), "119s"}, {span(120), "2m"}, {span(7200), "2h"}, {span(1 << 62), "99420d"},
		{traffic(0), "0 B"}, {traffic(1023), "1023 B"}, {traffic(1536), "1.5 KiB"}, {traffic(3 << 40), "3.0 TiB"},
		{rate(0), "-"}, {rate(100_000_000), "100Mbit"}, {rate(1_000_000_000), "1Gbit"}, {rate(1500), "-"}, {rate(64_000), "64kbit"},
	} {
		if c[0] != c[1] {
			t.Errorf("%s, want %s", c[0], c[1])
		}
	}
}
