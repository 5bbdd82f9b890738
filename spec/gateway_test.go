package spec

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/spec/plan"
)

// market is a deployment that publishes in every way, and how people enter it.
const public = `apiVersion: zos/v1
name: shop
group: demo
networks:
  - name: back
  - name: front
workloads:
  - {name: db, kind: container, image: red/web:1, node: node-1, networks: [back]}
  - {name: web-1, kind: container, image: red/web:1, node: node-1, networks: [{name: front, aliases: [web]}, back]}
  - {name: web-2, kind: container, image: red/web:1, node: node-2, networks: [{name: front, aliases: [web]}]}
  - name: www
    kind: gateway
    publish:
      - host: shop
        to: web:8443
      - host: www.shop.example
        to: web-2:8080
        tls: terminate
        check: /healthz
      - port: 30002/tcp
        to: db:5432
        proxy: v2
      - port: tcp
        to: db.back:5432
      - port: udp
        join: front
`

// publicFacts has gateways on node-3 and node-4.
func publicFacts() Facts {
	f := facts()
	free := contract.Capacity{CPU: 1000, Memory: 512 << 20, Disk: 1 << 30}
	f.Nodes = append(f.Nodes,
		Node{Slot: canon.Hash{3}, Name: "node-3", Free: contract.Capacity{CPU: 1000, Memory: 400 << 20, Disk: 1 << 30}, Pool: &contract.Pool{
			Ranges: []contract.Range{{Prefix: "198.51.100.0/24", Router: "198.51.100.1", First: "198.51.100.10", Last: "198.51.100.13"}},
			Shared: []string{"198.51.100.10"}, First: 30000, Last: 30003},
			Ports:  map[PublicPort]canon.Hash{{"tcp", 30000}: {7}},
			Leased: map[string]canon.Hash{"198.51.100.11": {8}}},
		Node{Slot: canon.Hash{4}, Name: "node-4", Free: contract.Capacity{CPU: 1000, Memory: 200 << 20, Disk: 1 << 30}, Pool: &contract.Pool{
			Ranges: []contract.Range{{Prefix: "203.0.113.0/24", Router: "203.0.113.1", First: "203.0.113.8", Last: "203.0.113.8"}}}},
	)
	for i := range f.Nodes[:2] {
		f.Nodes[i].Free = free
	}
	f.Zone = "grid.example"
	f.Hosts = map[string]canon.Hash{"old.shop.grid.example": {9}}
	f.Holder = func(c canon.Hash) string {
		return map[canon.Hash]string{{7}: "red/db", {8}: "red/mail", {9}: "demo/old"}[c]
	}
	f.Name = func(label string) (string, bool, bool) {
		switch label {
		case "shop":
			return "demo", true, true
		case "bank":
			return "red", false, true
		case "past":
			return "demo", true, false
		}
		return "", false, false
	}
	return f
}

// TestMistakesInWhatIsPublishedAreShownWhereTheyAre plays what people get wrong
// about gateways, with every message whole.
func TestMistakesInWhatIsPublishedAreShownWhereTheyAre(t *testing.T) {
	replace := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(public) }
	second := func(node, entry string) string {
		return public + "  - name: www-2\n    kind: gateway\n    node: " + node + "\n    publish:\n      - " + entry + "\n"
	}
	for name, c := range map[string]struct{ in, want string }{
		// What a gateway and a container have.
		"image":               {replace("kind: gateway", "kind: gateway\n    image: red/web:1"), `13:5: a gateway has no "image" = remove it: every node has the gateway's program, and a share of it for each`},
		"command":             {replace("kind: gateway", "kind: gateway\n    command: [x]"), `13:5: a gateway has no "command" = remove it: every node has the gateway's program, and a share of it for each`},
		"networks":            {replace("kind: gateway", "kind: gateway\n    networks: [front]"), `13:5: a gateway has no "networks" = remove it: a gateway is in the networks of what it publishes`},
		"container publishes": {replace("node: node-2,", "publish: [{port: tcp, to: db:1}],"), `10:54: a container has no "publish" = publish it by a workload of kind gateway`},
		"misspelt": {replace("publish:", "pubish:"), `11:5: "publish" is missing = add a line publish: …
13:5: unknown key "pubish" = did you mean "publish"?`},
		"misspelt entry":    {replace("check: /healthz", "chek: /healthz"), `19:9: unknown key "chek" = did you mean "check"?`},
		"publish nothing":   {replace(public[strings.Index(public, "    publish:"):], "    publish: []\n"), `13:14: publish is an empty list = write at least one`},
		"publish a mapping": {replace(public[strings.Index(public, "    publish:"):], "    publish: {host: shop, to: web:8443}\n"), `13:14: publish is an object, not an array = write a list: - host: NAME`},
		"kind misspelt":     {replace("kind: gateway", "kind: gatway"), "11:5: \"image\" is missing = add a line image: …\n12:11: kind can't be \"gatway\" = did you mean \"gateway\"?\n13:5: a container has no \"publish\" = publish it by a workload of kind gateway"},
		// Entries by themselves.
		"host and port":       {replace("port: 30002/tcp\n", "port: 30002/tcp\n        host: shop\n"), `20:15: this publishes a host and a port = make two entries of it; a host is served on port 443`},
		"neither":             {replace("- port: 30002/tcp\n        to", "- to"), `20:9: this publishes neither a host nor a port = add a line host: NAME or port: 5432/tcp`},
		"terminate, no host":  {replace("- host: www.shop.example\n        to", "- to"), `17:14: TLS can't end here without a host: there is no name for the certificate = add a line host: NAME`},
		"terminate a port":    {replace("proxy: v2", "tls: terminate"), `22:14: tls belongs to a host: what comes to a port is passed on as it is = add a line host: NAME instead of the port, or remove tls`},
		"tls misspelt":        {replace("tls: terminate", "tls: terminated"), `18:14: tls can't be "terminated" = did you mean "terminate"?`},
		"proxy on terminate":  {replace("check: /healthz", "proxy: v1"), `19:16: the PROXY protocol is not for a host whose TLS ends at the gateway = remove it: the workload reads the client's address in X-Forwarded-For`},
		"proxy a number":      {replace("proxy: v2", "proxy: 2"), `22:16: proxy can't be "2" = did you mean "v2"?`},
		"proxy v1 on udp":     {replace("30002/tcp", "30002/udp", "proxy: v2", "proxy: v1"), `22:16: version 1 of the PROXY protocol is not for udp = did you mean "v2"?`},
		"check of udp":        {replace("30002/tcp", "30002/udp", "proxy: v2", "check: tcp"), `22:16: udp has no health check = remove it`},
		"check no path":       {replace("/healthz", "healthz"), `19:16: "healthz" is no check = write tcp, none, or the path that is asked for, like /healthz`},
		"port twice":          {replace("port: tcp", "port: 30002/tcp"), `23:15: 30002/tcp is published twice, first in line 20 = choose another port, or write port: tcp for one that is free`},
		"port of the hosts":   {replace("30002/tcp", "443/tcp"), `20:15: 443/tcp serves the hosts of this gateway = choose another port, or publish it by another gateway with an address of its own`},
		"port zero":           {replace("30002/tcp", "0/tcp"), `20:15: 0 is no port = ports are 1 to 65535; write tcp alone for one that is free`},
		"port too high":       {replace("30002/tcp", "65536/tcp"), `20:15: 65536 is no port = ports are 1 to 65535; write tcp alone for one that is free`},
		"port a number":       {replace("30002/tcp", "30002"), `20:15: port is a number, not a string = write a port with its protocol, like 5432/tcp; or tcp or udp for one that is free`},
		"port without tcp":    {replace("30002/tcp", `"30002"`), `20:15: "30002" is no public port = did you mean "30002/tcp"?`},
		"ports of a range":    {replace("30002/tcp", `30002-30003/tcp`), `20:15: "30002-30003/tcp" is no public port = publish each port by an entry of its own`},
		"compose's mapping":   {replace("30002/tcp", `"5432:30002"`), `20:15: "5432:30002" is no public port = write the public port alone, like 5432/tcp; the workload's own is in to`},
		"wildcard":            {replace("host: shop", `host: "*.shop.example"`), `14:15: "*.shop.example" stands for many names, of which nobody can tell whose they are = publish each name by an entry of its own`},
		"host in capitals":    {replace("host: shop", "host: Shop"), `14:15: "Shop" is no host name = did you mean "shop"?`},
		"host a URL":          {replace("host: shop", "host: https://shop.example/x"), `14:15: "https://shop.example/x" is no host name = did you mean "shop.example"?`},
		"host an address":     {replace("host: shop", "host: 198.51.100.10"), `14:15: 198.51.100.10 is an address, not a host name = write a name; what is published without one has a port`},
		"host with umlauts":   {replace("host: shop", "host: büro.example"), `14:15: "büro.example" is no host name = use labels of a-z, 0-9 and - between dots, an internationalised name in its ASCII form`},
		"address of the net":  {replace("kind: gateway", "kind: gateway\n    address: 10.0.0.1"), `13:14: 10.0.0.1 is no public address = write shared, own, or one public address of the node`},
		"address misspelt":    {replace("kind: gateway", "kind: gateway\n    address: sharde"), `13:14: address "sharde" is no address = did you mean "shared"?`},
		"join and to":         {replace("join: front", "join: front\n        to: web:1"), `26:15: this goes to a workload and to people's devices = make two entries of it`},
		"join by tcp":         {replace("port: udp", "port: tcp"), `26:15: people's devices enter by udp = add a line port: udp instead`},
		"join, no port":       {replace("- port: udp\n        join", "- join"), `25:9: this says no port for devices to enter by = add a line port: udp`},
		"join with proxy":     {replace("join: front", "join: front\n        proxy: v2"), `27:16: proxy is for workloads, and here people's devices enter = remove it`},
		"entry without join":  {replace("proxy: v2", "entry: node-1"), `22:16: an entry is for people's devices, and this goes to a workload = remove it`},
		"neither to nor join": {replace("        join: front\n", ""), `25:9: "to" is missing = add a line to: WORKLOAD:PORT`},
		"join what isn't":     {replace("join: front", "join: frnt"), `26:15: no network "frnt" is in this deployment = did you mean "front"?`},
		// Whom they name.
		"to a number":         {replace("to: db:5432", "to: 5432"), `21:13: to is a number, not a string = write the workload and its port, like web:8080`},
		"to no port":          {replace("to: db:5432", "to: db"), `21:13: "db" names no port = write the one at which it answers, like db:8080`},
		"to port zero":        {replace("to: db:5432", "to: db:0"), `21:13: "0" is no port = ports are 1 to 65535`},
		"to with protocol":    {replace("to: db:5432", "to: db:5432/tcp"), `21:13: "5432/tcp" is no port = did you mean "db:5432"?`},
		"to a URL":            {replace("to: db:5432", "to: http://db:80"), `21:13: "http://db" is no workload or alias = write WORKLOAD:PORT, or WORKLOAD.NETWORK:PORT`},
		"to its full name":    {replace("to: db:5432", "to: db.back.internal:80"), `21:13: "back.internal" is no network = did you mean "db.back:80"?`},
		"to nobody":           {replace("to: db:5432", "to: dbb:5432"), `21:13: no workload or alias "dbb" is in this deployment = did you mean "db:5432"?`},
		"to nobody near":      {replace("to: db:5432", "to: postgres:5432"), `21:13: no workload or alias "postgres" is in this deployment = known here: db, web, web-1, web-2`},
		"to a gateway":        {replace("to: db:5432", "to: www:5432"), `21:13: the workload "www" is a gateway itself = name the container that answers`},
		"to several networks": {replace("to: db:5432", "to: web-1:80"), `21:13: "web-1" is in the networks back, front = write which one: web-1.back:80 or web-1.front:80`},
		"to another network":  {replace("to: db:5432", "to: db.front:80"), `21:13: "db" is not in the network "front" = add front to the networks of the workload in line 8`},
		"to no network":       {replace("to: db:5432", "to: db.bakc:80"), `21:13: no network "bakc" is in this deployment = did you mean "back"?`},
		"to an island":        {strings.Replace(replace("to: db:5432", "to: job:80"), "  - name: www", "  - {name: job, kind: container, image: red/web:1}\n  - name: www", 1), `22:13: the workload "job" is in no network, so no gateway reaches it = add a line networks: [NETWORK] to the workload in line 11`},
		"alias elsewhere":     {replace("to: web:8443", "to: web.back:8443"), `15:13: "web" is not in the network "back" = add back to the networks of the workload in line 9`},
		"a rule for it":       {replace("networks: [back]}", "networks: [{name: back, allow: [{ports: 1/tcp, from: [www]}]}]}"), `8:119: "www" is a gateway, which reaches what it publishes and nothing else = leave it out here: what it publishes needs no rule`},
		"network of nobody":   {replace("  - name: front\n", "  - name: front\n  - name: empty\n", "join: front", "join: empty"), `7:5: no workload is in the network "empty" = add a line networks: [empty] to a workload, or remove the network`},
		// Names.
		"name not reserved":  {replace("host: shop", "host: sohp"), `14:15: nobody has reserved the name sohp.grid.example = let the group reserve it first: zos name reserve sohp`},
		"name taken":         {replace("host: shop", "host: bank"), `14:15: the name bank.grid.example is reserved by red = choose another name, or let red transfer it`},
		"name taken, below":  {replace("host: shop", "host: www.bank.grid.example"), `14:15: the name bank.grid.example is reserved by red = choose another name, or let red transfer it`},
		"name ended":         {replace("host: shop", "host: past"), `14:15: the group's reservation of past.grid.example has ended = renew it first: zos name renew past`},
		"name not for names": {replace("host: shop", "host: xn--shp-rna"), `14:15: xn--shp-rna.grid.example is no name that can be reserved = use letters, digits and single hyphens between them`},
		"the grid's domain":  {replace("host: shop", "host: grid.example"), `14:15: grid.example is the domain of the grid itself = write a name under it, that the group has reserved`},
		"host of another":    {replace("host: shop", "host: old.shop.grid.example"), `14:15: old.shop.grid.example is published by demo/old already = publish it in one deployment only`},
		"host twice":         {replace("www.shop.example", "shop.grid.example"), `16:15: shop.grid.example is published twice, first in line 14 = remove one of the two; several workloads behind one name share an alias`},
		// Public addresses.
		"node without":           {replace("kind: gateway", "kind: gateway\n    node: node-1"), `13:11: node node-1 has no public addresses = nodes that have some: node-3, node-4`},
		"node unknown":           {replace("kind: gateway", "kind: gateway\n    node: node-33"), `13:11: no node "node-33" takes this group's workloads = did you mean "node-3"?`},
		"nothing shared there":   {replace("kind: gateway", "kind: gateway\n    node: node-4\n    address: shared"), `14:14: node node-4 shares no public address = write address: own`},
		"address of nobody":      {replace("kind: gateway", "kind: gateway\n    address: 198.51.100.99"), `13:14: 198.51.100.99 is none of the public addresses of node node-3 = it has 198.51.100.10 to 198.51.100.13`},
		"address of another":     {replace("kind: gateway", "kind: gateway\n    address: 198.51.100.11"), `13:14: 198.51.100.11 is leased by red/mail = write address: own for one that is free`},
		"port leased":            {replace("30002/tcp", "30000/tcp"), `20:15: 30000/tcp of node node-3 is leased by red/db = choose another one, or write port: tcp for one that is free`},
		"port outside":           {replace("30002/tcp", "5432/tcp"), `20:15: 5432/tcp is none of the ports 30000 to 30003 that node node-3 leases = write one of them, or port: tcp for one that is free; with address: own there is every port`},
		"entry unknown":          {replace("join: front", "join: front\n        entry: nod-1"), `27:16: no node "nod-1" takes this group's workloads = did you mean "node-1"?`},
		"port twice on a node":   {second("node-3", "{port: 30002/tcp, to: db:1}"), `20:15: 30002/tcp is published at 198.51.100.10 already, by the gateway in line 27 = choose another port, or place one of the two gateways on another node`},
		"host twice on a node":   {second("node-3", "{host: shop, to: web:1}"), `14:15: shop.grid.example is published at 198.51.100.10 already, by the gateway in line 27 = publish it once there; a second gateway for it goes on another node`},
		"address twice":          {replace("kind: gateway", "kind: gateway\n    address: 203.0.113.8") + "  - {name: www-2, kind: gateway, address: 203.0.113.8, publish: [{port: 1/tcp, to: db:1}]}\n", `28:43: 203.0.113.8 is the address of the gateway in line 11 = publish all of it by one gateway, or write address: own for one that is free`},
		"own address, none left": {replace("kind: gateway", "kind: gateway\n    address: own\n    node: node-4") + "  - {name: wwx, kind: gateway, node: node-4, address: own, publish: [{port: 1/tcp, to: db:1}]}\n", `29:55: no public address of node node-4 is free = name another node with public addresses, or write address: shared`},
		"no port left": {strings.Replace(public, "      - port: tcp\n", "      - {port: tcp, to: db:1}\n      - {port: tcp, to: db:2}\n      - {port: tcp, to: db:3}\n      - port: tcp\n", 1),
			`25:16: no port 30000 to 30003 of node node-3 is free for tcp = name another node with public addresses, or write address: own`},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Parse("shop.yaml", []byte(c.in))
			if err == nil {
				_, err = Resolve(t.Context(), d, publicFacts())
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want an *Error", err)
			}
			var got []string
			for _, m := range e.Mistakes {
				got = append(got, fmt.Sprintf("%d:%d: %s = %s", m.Line, m.Column, m.Message, m.Fix))
			}
			if shown := strings.Join(got, "\n"); shown != c.want {
				t.Errorf("got\n%s\nwant\n%s", shown, c.want)
			}
		})
	}
}

// TestAGridThatCannotPublishSaysSo: one without a domain, without gateways,
// without shared ports, without room.
func TestAGridThatCannotPublishSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Facts)
		want   string
	}{
		"no domain":       {func(f *Facts) { f.Zone = "" }, `14:15: this grid has no domain for the name "shop" = write a full name of a domain of your own, like shop.example.org`},
		"long domain":     {func(f *Facts) { f.Zone = strings.Repeat("a.", 124) + "ab" }, `14:15: shop.` + strings.Repeat("a.", 124) + `ab is no host name: it is too long = choose a shorter one`},
		"no lookup":       {func(f *Facts) { f.Name = nil }, `14:15: nobody has reserved the name shop.grid.example = let the group reserve it first: zos name reserve shop`},
		"no gateway":      {func(f *Facts) { f.Nodes = f.Nodes[:2] }, `11:5: no node that takes this group's workloads has public addresses = ask a farm that has some to run: zos farm admit GROUP`},
		"withdrawn":       {func(f *Facts) { f.Nodes[2].Pool, f.Nodes[3].Pool = &contract.Pool{}, nil }, `11:5: no node that takes this group's workloads has public addresses = ask a farm that has some to run: zos farm admit GROUP`},
		"no ports":        {func(f *Facts) { f.Nodes[2].Pool.First, f.Nodes[2].Pool.Last = 0, 0 }, `20:15: node node-3 leases no ports of its shared addresses = write address: own, which has every port`},
		"shared too late": {func(f *Facts) { f.Nodes[2].Leased = map[string]canon.Hash{"198.51.100.10": {}}; f.Nodes[3].Pool = nil }, `11:5: node node-3 shares no public address = write address: own`},
		"no room": {func(f *Facts) { f.Nodes[2].Free.Memory = 47 << 20; f.Nodes[3].Pool = nil },
			`11:5: node node-3, which has public addresses, has 1 cores, 47 MiB memory, 1024 MiB disk free, this workload wants 0.07 cores, 48 MiB memory, 8 MiB disk = cancel a contract there, or ask another farm for a gateway`},
		"no room for an entry": {func(f *Facts) { f.Nodes[0].Free.CPU = 5 }, `27:16: node node-1 has 0.005 cores, 512 MiB memory, 1024 MiB disk free, the router for the devices that enter there wants 0.01 cores, 8 MiB memory, 0 MiB disk = name another node`},
	} {
		t.Run(name, func(t *testing.T) {
			f := publicFacts()
			c.change(&f)
			text := public
			if name == "no room for an entry" {
				text = strings.NewReplacer("node: node-1", "node: node-2", "join: front", "join: front\n        entry: node-1").Replace(public)
			}
			_, err := resolve(t, text, f)
			var e *Error
			if !errors.As(err, &e) || len(e.Mistakes) != 1 {
				t.Fatalf("got %v, want one mistake", err)
			}
			m := e.Mistakes[0]
			if got := fmt.Sprintf("%d:%d: %s = %s", m.Line, m.Column, m.Message, m.Fix); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func published(t *testing.T, p plan.Plan, name string) (plan.Gateway, canon.Hash) {
	t.Helper()
	for _, w := range p.Workloads {
		if w.Name == name {
			g, err := plan.DecodeGateway(w.Config)
			if err != nil {
				t.Fatal(err)
			}
			return g, w.Slot
		}
	}
	t.Fatalf("no gateway %s", name)
	return plan.Gateway{}, canon.Hash{}
}

// TestThePlanSaysWhatIsPublished reads out of a plan what the spec said, with
// nothing left to decide.
func TestThePlanSaysWhatIsPublished(t *testing.T) {
	p, err := resolve(t, public, publicFacts())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Encode(p); err != nil {
		t.Fatal(err)
	}
	g, slot := published(t, p, "www")
	if slot != (canon.Hash{3}) || g.Leased || fmt.Sprint(g.Addresses) != "[198.51.100.10]" {
		t.Errorf("on %s at %v, leased %v", slot.Short(), g.Addresses, g.Leased)
	}
	want := []plan.Route{
		{Mode: "tcp", Port: 30001, Network: "back", Backends: []string{"db"}, Target: 5432, Check: "tcp"},
		{Mode: "tcp", Port: 30002, Network: "back", Backends: []string{"db"}, Target: 5432, Proxy: 2, Check: "tcp"},
		{Mode: "udp", Port: 30000, Network: "front", Target: plan.EntryPort, Entry: canon.Hash{1}, Check: "none"},
		{Host: "shop.grid.example", Mode: "passthrough", Port: 443, Network: "front", Backends: []string{"web-1", "web-2"}, Target: 8443, Check: "tcp"},
		{Host: "www.shop.example", Mode: "terminate", Port: 443, Network: "front", Backends: []string{"web-2"}, Target: 8080, Check: "http", Path: "/healthz"},
	}
	if got := fmt.Sprintf("%+v", g.Routes); got != fmt.Sprintf("%+v", want) {
		t.Errorf("routes\n%s\nwant\n%+v", got, want)
	}
	var at []string
	for _, a := range g.Networks {
		at = append(at, a.Network+" "+a.IPv4)
		if a.Open || a.Egress != plan.EgressNone {
			t.Errorf("attachment %+v", a)
		}
	}
	if got := strings.Join(at, ", "); got != "back 10.0.1.2, front 10.1.2.2" {
		t.Errorf("places %s", got)
	}
	var names []string
	for _, w := range p.Workloads {
		names = append(names, w.Name)
	}
	if got := strings.Join(names, " "); got != "back-01000000 back-03000000 db front-01000000 front-02000000 front-03000000 web-1 web-2 www" {
		t.Errorf("workloads %s", got)
	}
}

// TestAnAddressOfItsOwn is leased whole, with all its ports.
func TestAnAddressOfItsOwn(t *testing.T) {
	own := func(line string) string {
		return strings.Replace(public, "kind: gateway", "kind: gateway\n    "+line, 1)
	}
	for name, c := range map[string]struct{ text, addresses, ports string }{
		// .10 is shared, .11 is red/mail's.
		"own":            {own("address: own"), "198.51.100.12 true", "5432/tcp 30002/tcp 51820/udp"},
		"literal":        {own("address: 198.51.100.13"), "198.51.100.13 true", "5432/tcp 30002/tcp 51820/udp"},
		"one only":       {own("address: 203.0.113.8"), "203.0.113.8 true", "5432/tcp 30002/tcp 51820/udp"},
		"shared":         {own("address: 198.51.100.10"), "198.51.100.10 false", "30001/tcp 30002/tcp 30000/udp"},
		"twice the same": {strings.Replace(own("address: own"), "      - port: tcp\n", "      - {port: tcp, to: db:5432, check: none}\n      - port: tcp\n", 1), "198.51.100.12 true", "1024/tcp 5432/tcp 30002/tcp 51820/udp"},
		"ports of the web": {strings.NewReplacer("    publish:\n      - host: shop\n        to: web:8443\n      - host: www.shop.example\n        to: web-2:8080\n        tls: terminate\n        check: /healthz\n",
			"    address: own\n    publish:\n", "30002/tcp", "443/tcp").Replace(public), "198.51.100.12 true", "443/tcp 5432/tcp 51820/udp"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := resolve(t, c.text, publicFacts())
			if err != nil {
				t.Fatal(err)
			}
			g, _ := published(t, p, "www")
			var ports []string
			for _, r := range g.Routes {
				if r.Host == "" {
					ports = append(ports, r.String())
				}
			}
			if got := fmt.Sprint(strings.Join(g.Addresses, " "), " ", g.Leased); got != c.addresses || strings.Join(ports, " ") != c.ports {
				t.Errorf("at %s, ports %v; want %s, %s", got, ports, c.addresses, c.ports)
			}
		})
	}
}

// TestTwoGatewaysForOneName go on two nodes, so that one can fail.
func TestTwoGatewaysForOneName(t *testing.T) {
	f := publicFacts()
	f.Nodes[3].Pool.Shared = []string{"203.0.113.8"}
	text := public + "  - {name: www-2, kind: gateway, publish: [{host: shop, to: web:8443}]}\n"
	p, err := resolve(t, text, f)
	if err != nil {
		t.Fatal(err)
	}
	if _, one := published(t, p, "www"); one != (canon.Hash{3}) {
		t.Errorf("www is on %s", one.Short())
	}
	if _, two := published(t, p, "www-2"); two != (canon.Hash{4}) {
		t.Errorf("www-2 is on %s", two.Short())
	}
}
