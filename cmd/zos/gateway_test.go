package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// publishedShop are two gateways of a deployment: one does what it can, the other
// one's node is silent.
func publishedShop(t *testing.T) ([]client.Published, client.Names) {
	t.Helper()
	slots := []canon.Hash{canon.Sum([]byte("a")), canon.Sum([]byte("b"))}
	names := client.Names{slots[0]: "node-1", slots[1]: "node-2", canon.Sum([]byte("demo")): "demo"}
	k := client.Contract{ID: canon.Sum([]byte("id"))}
	k.ContractRecord = contract.ContractRecord{Group: canon.Sum([]byte("demo")), Name: "shop", Version: 4}
	g := plan.Gateway{V: plan.Version, Addresses: []string{"198.51.100.10", "2001:db8::10"}, Routes: []plan.Route{
		{Mode: plan.ModeTCP, Port: 5432, Network: "front", Backends: []string{"db"}, Target: 5432, Proxy: 2, Check: plan.CheckTCP},
		{Mode: plan.ModeUDP, Port: 7001, Network: "front", Target: plan.EntryPort, Entry: slots[1], Check: plan.CheckNone},
		{Host: "shop.grid.example", Mode: plan.ModePassthrough, Port: 443, Network: "front", Backends: []string{"web-1", "web-2"}, Target: 8443, Check: plan.CheckTCP},
		{Host: "www.shop.example", Mode: plan.ModeTerminate, Port: 443, Network: "front", Backends: []string{"web-1", "web-2"}, Target: 8080, Check: plan.CheckHTTP, Path: "/healthz"},
	}}
	web := []protocol.GatewayBackend{
		{Name: "web-1", Address: "10.20.1.2:8443", State: protocol.BackendHealthy, Since: &protocol.Age{Seconds: 7300}, Open: 12},
		{Name: "web-2", Address: "10.20.2.3:8443", State: protocol.BackendUnhealthy, Since: &protocol.Age{Seconds: 40}, Message: "refused\x1b[2J"},
	}
	live := &protocol.Gateway{Name: "www", Version: 3, Process: protocol.Check{OK: true}, Public: protocol.Check{OK: true}, Routes: []protocol.GatewayRoute{
		{Name: "5432/tcp", Mode: plan.ModeTCP, Serving: true, Backends: []protocol.GatewayBackend{{Name: "db", Address: "10.20.2.2:5432", State: protocol.BackendHealthy, Since: &protocol.Age{Seconds: 99}}},
			Counters: protocol.GatewayCounters{Connections: 41, Open: 2, Received: 7 << 20, Sent: 1000}},
		{Name: "7001/udp", Mode: plan.ModeUDP, Serving: true, Entry: slots[1], Counters: protocol.GatewayCounters{Connections: 3}},
		{Name: "shop.grid.example", Mode: plan.ModePassthrough, Serving: true, Backends: web},
		{Name: "www.shop.example", Mode: plan.ModeTerminate, Serving: true, Backends: web, Counters: protocol.GatewayCounters{Requests: 120934, Errors: 3, Connections: 900, Refused: 4},
			Certificate: &protocol.GatewayCertificate{State: protocol.CertificateRenew, Issuer: "Test Authority R3", NotAfter: 1782000000, Code: "acme-refused", Message: "rate limited", Failing: &protocol.Age{Seconds: 3 * 86400}}},
	}}
	one := client.Published{Contract: k, Workload: plan.Workload{Name: "www", Kind: plan.KindGateway, Slot: slots[0]}, Gateway: g, Live: live}
	two := client.Published{Contract: k, Workload: plan.Workload{Name: "www-2", Kind: plan.KindGateway, Slot: slots[1]},
		Gateway: plan.Gateway{V: plan.Version, Addresses: []string{"198.51.100.20"}, Leased: true, Routes: g.Routes[2:3]}, Err: problem.New("node-silent", "node did not answer in time")}
	return []client.Published{one, two}, names
}

func TestWhatIsPublishedForPeople(t *testing.T) {
	list, names := publishedShop(t)
	for name, show := range map[string]func(*app) error{
		"gateways.txt": func(a *app) error { return a.showGateways(gatewayRows(list, names)) },
		"gateway.txt":  func(a *app) error { return a.showPublished(list, names) },
	} {
		var b bytes.Buffer
		a := &app{out: &b, err: &b, format: "table"}
		if err := show(a); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(b.String(), "\x1b") {
			t.Error("a node's words steer the terminal, or colours come out of a pipe")
		}
		golden(t, name, b.String())
	}
}

func TestWhatIsPublishedForMachines(t *testing.T) {
	list, names := publishedShop(t)
	var b bytes.Buffer
	a := &app{out: &b, format: "json"}
	if err := a.showGateways(gatewayRows(list, names)); err != nil {
		t.Fatal(err)
	}
	var rows []gatewayRow
	if err := json.Unmarshal(b.Bytes(), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 5 || rows[2].Healthy != 1 || rows[2].Backends != 2 || rows[3].Code != "acme-refused" || rows[1].Entry != "node-2" ||
		rows[4].State != stateUnknown || rows[4].Healthy != -1 || rows[4].Live != nil || rows[0].Live.Counters.Connections != 41 {
		t.Errorf("%s", b.String())
	}
	b.Reset()
	if err := a.showGateways(gatewayRows(nil, names)); err != nil || b.String() != "[]\n" {
		t.Errorf("nothing published: %q, %v", b.String(), err)
	}
}

func TestAGatewayThatDoesNotServeSaysWhy(t *testing.T) {
	for want, change := range map[string]func(*client.Published){
		"not serving: gateway process: exit status 2": func(p *client.Published) { p.Live.Process = protocol.Check{Detail: "exit status 2"} },
		"not serving: public card: is not there":      func(p *client.Published) { p.Live.Public = protocol.Check{} },
		"not serving: node-1 does not have it yet":    func(p *client.Published) { p.Live = nil },
		"not serving: the name is kiwi's": func(p *client.Published) {
			p.Live.Routes[0].Serving, p.Live.Routes[0].Message = false, "the name is kiwi's"
		},
		"unknown: its node was not asked": func(p *client.Published) { p.Err = problem.New("not-permitted", "no key") },
		"serving: db: no route": func(p *client.Published) {
			p.Live.Routes[0].Backends[0].State, p.Live.Routes[0].Backends[0].Message = protocol.BackendUnhealthy, "no route"
		},
		"not serving: no certificate: its gateway's pool names no authority": func(p *client.Published) {
			p.Live.Routes = p.Live.Routes[3:]
			p.Live.Routes[0].Certificate = &protocol.GatewayCertificate{State: protocol.CertificatePending, Code: "acme-unset",
				Message: "certify www.shop.example: its gateway's pool names no authority", Failing: &protocol.Age{Seconds: 5}}
			p.Gateway.Routes = p.Gateway.Routes[3:]
		},
		"serving: renewal fails since 3d": nil,
	} {
		list, names := publishedShop(t)
		row := 0
		if change == nil {
			row = 3
		} else {
			change(&list[0])
		}
		if r := gatewayRows(list[:1], names)[row]; r.State+": "+r.Problem != want {
			t.Errorf("%s: %s, want %s", r.State, r.Problem, want)
		}
	}
}

func TestChecksEndWithAnErrorIfSomethingDoesNotHold(t *testing.T) {
	good := client.HostCheck{Name: "a.example", OK: true, Steps: []client.Step{{Name: client.StepDNS, OK: true, Detail: "a.example points to 198.51.100.10"}}}
	broken := client.HostCheck{Name: "b.example", Steps: []client.Step{{Name: client.StepDNS, Detail: "b.example points to \x1b[2J", Fix: "it should point to 198.51.100.10"}, {Name: client.StepTLS, OK: true}}}
	var b bytes.Buffer
	a := &app{out: &b, err: &b, format: "table"}
	err := a.showChecks([]client.HostCheck{good, broken})
	if problem.Code(err) != "publication-broken" || problem.Fix(err) != "it should point to 198.51.100.10" || exitCode(err) != exitUnreachable {
		t.Errorf("%v", err)
	}
	if got, want := b.String(), "a.example\nok  dns       a.example points to 198.51.100.10\n\nb.example\n✗   dns       b.example points to ·[2J\n              fix: it should point to 198.51.100.10\nok  tls       \n"; got != want {
		t.Errorf("%q", got)
	}
	if err := a.showChecks([]client.HostCheck{good}); err != nil {
		t.Error(err)
	}
}

func TestAMachinesNameIsMadeOfItsAccountAndHost(t *testing.T) {
	for in, want := range map[[2]string]string{
		{"red", "laptop"}: "red-laptop", {"red", "Laptop.example.net"}: "red-laptop", {"red", "My MacBook_Pro"}: "red-my-macbook-pro", {"red", "ü"}: "red-machine",
		{"red", "-"}: "red-machine", {"red", strings.Repeat("x", 80)}: "red-" + strings.Repeat("x", 59), {"red", strings.Repeat("x", 58) + "-y"}: "red-" + strings.Repeat("x", 58),
	} {
		if got := deviceName(in[0], in[1]); got != want || !plan.ValidName(got) {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestAnInterfacesNameFits(t *testing.T) {
	k := client.Contract{ID: canon.Sum([]byte("id"))}
	for _, n := range []string{"a", "front", strings.Repeat("n", plan.MaxNetworkName)} {
		if got := interfaceName(k, n); len(got) > 15 {
			t.Errorf("%s has %d bytes", got, len(got))
		}
	}
}

func TestArgumentsAreQuotedForAShell(t *testing.T) {
	for in, want := range map[string]string{"front": "front", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(reboot)": "'$(reboot)'", "A=/x/y-z_1.2": "A=/x/y-z_1.2"} {
		if got := quoted(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestAWgQuickFileIsItsOwnersAlone(t *testing.T) {
	var b bytes.Buffer
	a := &app{out: &b, err: &b}
	dir := t.TempDir()
	path := dir + "/zos-front.conf"
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := a.writeQuick(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != 3 || strings.Contains(b.String(), "wg-quick takes") {
		t.Errorf("%v, %v\n%s", info, err, b.String())
	}
	if err := a.writeQuick(dir+"/a-name-that-is-too-long.conf", nil); err != nil || !strings.Contains(b.String(), "15 characters") {
		t.Errorf("%v\n%s", err, b.String())
	}
	if err := a.writeQuick(dir+"/no/such.conf", nil); err == nil {
		t.Error("written to nowhere")
	}
}
