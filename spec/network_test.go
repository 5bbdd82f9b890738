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

// shop is a front that everyone reaches and a database for it alone.
const shop = `apiVersion: zos/v1
name: shop
group: demo
networks:
  - name: back
    subnet: 10.20.0.0/16
    exit: node-1
  - name: front
workloads:
  - name: db
    kind: container
    image: red/web:1
    node: node-1
    networks:
      - name: back
        aliases: [postgres]
        allow:
          - ports: 5432/tcp
            from: [web]
          - ports: icmp
  - name: web
    kind: container
    image: red/web:1
    node: node-2
    networks:
      - front
      - {name: back, allow: [], egress: exit, bandwidth: 100Mbit}
`

// TestMistakesInNetworksAreShownWhereTheyAre plays what people get wrong about
// networks, and what they write by habit of other tools.
func TestMistakesInNetworksAreShownWhereTheyAre(t *testing.T) {
	replace := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(shop) }
	job := "  - {name: job, kind: container, image: red/web:1, node: node-2, networks: [front]}\n"
	for name, c := range map[string]struct{ in, line, message, fix string }{
		"ranges overlap": {replace("- name: front", "- name: front\n    subnet: 10.20.128.0/20"), "9:13",
			`10.20.128.0/20 overlaps 10.20.0.0/16 of the network "back" in line 5`, "leave subnet out"},
		"subnet for no node": {replace("10.20.0.0/16", "10.20.7.0/28"), "6:13", "subnet 10.20.7.0/28 is too small: each node takes a /24", `did you mean "10.20.7.0/24"`},
		"subnet for one node": {replace("10.20.0.0/16", "10.20.7.0/24"), "6:13",
			"subnet 10.20.7.0/24 is too small: it has room for 1 node, and the network's workloads and exit are on 2", "make it a /23 or wider"},
		"subnet too wide":     {replace("10.20.0.0/16", "10.0.0.0/7"), "6:13", "10.0.0.0/7 is no private range", "10.0.0.0/8, 100.64.0.0/10"},
		"public subnet":       {replace("10.20.0.0/16", "8.8.0.0/16"), "6:13", "8.8.0.0/16 is no private range", "10.0.0.0/8"},
		"loopback subnet":     {replace("10.20.0.0/16", "127.0.0.0/16"), "6:13", "no private range", "10.0.0.0/8"},
		"link-local subnet":   {replace("10.20.0.0/16", "169.254.0.0/16"), "6:13", "no private range", "10.0.0.0/8"},
		"multicast subnet":    {replace("10.20.0.0/16", "224.0.0.0/16"), "6:13", "no private range", "10.0.0.0/8"},
		"address of a host":   {replace("10.20.0.0/16", "10.20.3.1/16"), "6:13", "is an address within 10.20.0.0/16", `did you mean "10.20.0.0/16"?`},
		"subnet, no length":   {replace("10.20.0.0/16", "10.20.0.0"), "6:13", `subnet "10.20.0.0" is no range`, `did you mean "10.20.0.0/16"?`},
		"subnet, no text":     {replace("10.20.0.0/16", "10.20/16"), "6:13", `subnet "10.20/16" is no range`, "like 10.20.0.0/16"},
		"IPv6 subnet":         {replace("10.20.0.0/16", "fd00::/48"), "6:13", "is not IPv4", "IPv6 is always there"},
		"unknown network":     {replace("- front\n", "- frnot\n"), "26:9", `no network "frnot" is in this deployment`, `did you mean "front"?`},
		"unknown in mapping":  {replace("{name: back", "{name: bakc"), "27:16", `no network "bakc"`, `did you mean "back"?`},
		"no networks at all":  {strings.Replace(good, "    kind", "    networks: [lan]\n    kind", 1), "6:16", `no network "lan"`, "networks: [{name: lan}]"},
		"network unused":      {replace("      - front\n", ""), "8:5", `no workload is in the network "front"`, "networks: [front]"},
		"network twice":       {replace("- front\n", "- front\n      - back\n"), "28:16", `the network "back" stands twice`, "remove one"},
		"name twice":          {replace("- name: front", "- name: back", "      - front\n", ""), "8:11", `the name "back" is taken by the network in line 5`, "of its own"},
		"network's long name": {replace("- name: front", "- name: "+strings.Repeat("f", 41)), "8:11", "too long for a network", "at most 40"},
		"network's bad name":  {replace("- name: front", "- name: Front"), "8:11", `"Front" can't be a name`, "a-z, 0-9 and -"},
		"from nobody":         {replace("from: [web]", "from: [wbe]"), "19:20", `no workload or alias "wbe" is in the network "back": this rule would let nobody in`, `did you mean "web"?`},
		"from elsewhere": {replace("from: [web]", "from: [job]") + job, "19:20",
			`the workload "job" is not in the network "back": this rule would let nobody in`, "add back to the networks of the workload in line 28"},
		"from itself":          {replace("from: [web]", "from: [db]"), "19:20", `"db" is this workload itself`, "leave from out"},
		"from its own alias":   {replace("from: [web]", "from: [postgres]"), "19:20", `"postgres" is this workload itself`, "leave from out"},
		"from an empty list":   {replace("from: [web]", "from: []"), "19:19", "from", "everyone in the network"},
		"range backwards":      {replace("5432/tcp", "8010-8000/tcp"), "18:20", "the range 8010-8000 holds no port", `did you mean "8000-8010/tcp"?`},
		"port zero":            {replace("5432/tcp", "0/tcp"), "18:20", "holds what is no port", "1 to 65535"},
		"port too high":        {replace("5432/tcp", "1-65536/udp"), "18:20", "holds what is no port", "1 to 65535"},
		"port, no protocol":    {replace("5432/tcp", `"5432"`), "18:20", `"5432" is no port`, `did you mean "5432/tcp"?`},
		"port as a number":     {replace("5432/tcp", "5432"), "18:20", "ports is a number, not a string", "5432/tcp"},
		"protocol in capitals": {replace("5432/tcp", "5432/TCP"), "18:20", `"5432/TCP" is no port`, `did you mean "5432/tcp"?`},
		"unknown protocol":     {replace("5432/tcp", "5432/sctp"), "18:20", `"5432/sctp" is no port`, "tcp and udp"},
		"icmp with ports":      {replace("icmp", "8/icmp"), "20:20", `"8/icmp" is no port`, "icmp stands alone"},
		"ping":                 {replace("icmp", "ping"), "20:20", `"ping" is no port`, `did you mean "icmp"?`},
		"compose's mapping":    {replace("5432/tcp", `"8080:80"`), "18:20", `"8080:80" is no port`, "no port is mapped"},
		"compose's list":       {replace("5432/tcp", `[5432/tcp]`), "18:20", "ports is an array", "an entry of allow for each"},
		"compose's networks":   {replace("      - front\n      - {name: back, allow: [], egress: exit, bandwidth: 100Mbit}\n", "      back: {}\n"), "26:7", "networks is an object", "write a list: - name: NAME"},
		"policy's port":        {replace("- ports: 5432/tcp", "- ports: 5432/tcp\n            port: 5432"), "19:13", `unknown key "port"`, `did you mean "ports"?`},
		"policy's ingress":     {replace("        allow:\n", "        ingress:\n"), "17:9", `unknown key "ingress"`, `did you mean "allow"?`},
		"rule without ports":   {replace("- ports: 5432/tcp\n            from", "- from"), "18:13", `"ports" is missing`, "add a line ports"},
		"alias is a name":      {replace("[postgres]", "[web]"), "16:19", `the alias "web" is the name of the workload in line 21`, "choose another alias"},
		"alias is its name":    {replace("[postgres]", "[pg, db]"), "16:23", `"db" is this workload's own name`, "remove it"},
		"alias twice":          {replace("[postgres]", "[pg, pg]"), "16:23", "aliases holds this twice", "remove one"},
		"alias no name":        {replace("[postgres]", "[Postgres]"), "16:19", `"Postgres" can't be an alias`, "a-z, 0-9 and -"},
		"exit nowhere":         {replace("exit: node-1", "exit: nod-1"), "7:11", `no node "nod-1" takes this group's workloads`, `did you mean "node-1"?`},
		"egress, no exit":      {replace("    exit: node-1\n", ""), "26:41", `the network "back" has no exit`, "add a line exit: NODE to the network in line 5, or write egress: node"},
		"egress misspelt":      {replace("egress: exit", "egress: exti"), "27:41", `egress can't be "exti"`, `did you mean "exit"?`},
		"egress true":          {replace("egress: exit", "egress: true"), "27:41", "egress can't be", "none, node, exit"},
		"two egresses":         {replace("- front\n", "- {name: front, egress: node}\n"), "27:41", `an egress already, by the network "front"`, "keep one"},
		"rate in megabits":     {replace("100Mbit", "100mbps"), "27:58", `bandwidth "100mbps" is no rate`, `did you mean "100Mbit"?`},
		"rate without unit":    {replace("100Mbit", "100"), "27:58", "bandwidth is a number, not a string", "like 100Mbit"},
		"rate too low":         {replace("100Mbit", "1kbit"), "27:58", "bandwidth 1kbit is out of range", "64kbit to 1000Gbit"},
		"network a number":     {replace("- front\n", "- 7\n"), "26:9", "network is a number", "{name: NAME"},
		"name of a router": {replace("- name: web", "- name: back-02000000", "from: [web]", "from: [back-02000000]"), "21:11",
			`"back-02000000" is the name of the router`, "choose another name"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Parse("shop.yaml", []byte(c.in))
			if err == nil {
				_, err = Resolve(t.Context(), d, facts())
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want an *Error", err)
			}
			shown := e.Error()
			for _, want := range []string{"shop.yaml:" + c.line + ": ", c.message, c.fix, "^"} {
				if !strings.Contains(shown, want) {
					t.Errorf("%q is missing in:\n%s", want, shown)
				}
			}
			if len(e.Mistakes) != 1 {
				t.Errorf("one mistake is shown as %d:\n%s", len(e.Mistakes), shown)
			}
		})
	}
}

func decoded(t *testing.T, p plan.Plan, name string) plan.Container {
	t.Helper()
	for _, w := range p.Workloads {
		if w.Name == name {
			c, err := plan.DecodeContainer(w.Config)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
	}
	t.Fatalf("no workload %s in %+v", name, p.Workloads)
	return plan.Container{}
}

// TestThePlanSaysTheNetworks reads out of a plan what the spec said of them,
// with nothing left to decide.
func TestThePlanSaysTheNetworks(t *testing.T) {
	p, err := resolve(t, shop, facts())
	if err != nil {
		t.Fatal(err)
	}
	show := func(v any) string { return fmt.Sprintf("%+v", v) }
	one, two := canon.Hash{1}, canon.Hash{2}
	ula := plan.ULA(p.Group, "shop", "back").Addr().String() // ends with ::
	if len(p.Networks) != 2 {
		t.Fatalf("networks %s", show(p.Networks))
	}
	for _, c := range []struct{ what, got, want string }{
		{"back", show(p.Networks[0]), show(plan.Network{Name: "back", IPv4: "10.20.0.0/16", IPv6: ula + "/48", Exit: one, Nodes: []plan.NetworkNode{
			{Slot: one, IPv4: "10.20.0.0/24", IPv6: strings.TrimSuffix(ula, ":") + "1400::/64"},
			{Slot: two, IPv4: "10.20.1.0/24", IPv6: strings.TrimSuffix(ula, ":") + "1401::/64"}}})},
		{"front", show(p.Networks[1].IPv4) + show(p.Networks[1].Nodes[0].IPv4), "10.0.0.0/1610.0.0.0/24"},
		{"db", show(decoded(t, p, "db").Networks), show([]plan.Attachment{{Network: "back", IPv4: "10.20.0.2", IPv6: strings.TrimSuffix(ula, ":") + "1400::2",
			Aliases: []string{"postgres"}, Allow: []plan.Rule{{Protocol: "tcp", First: 5432, Last: 5432, Peers: []string{"web"}}, {Protocol: "icmp"}}, Egress: "none"}})},
		{"web", show(decoded(t, p, "web").Networks), show([]plan.Attachment{
			{Network: "front", IPv4: "10.0.0.2", IPv6: strings.TrimSuffix(plan.ULA(p.Group, "shop", "front").Addr().String(), ":") + "0::2", Open: true, Egress: "none"},
			{Network: "back", IPv4: "10.20.1.2", IPv6: strings.TrimSuffix(ula, ":") + "1401::2", Egress: "exit", Bandwidth: 100_000_000}})},
	} {
		got := strings.ReplaceAll(c.got, ":0::2", "::2") // the zero group
		if want := strings.ReplaceAll(c.want, ":0::2", "::2"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.what, got, want)
		}
	}
	var names []string
	for _, w := range p.Workloads {
		names = append(names, w.Name+" on "+w.Slot.String()[:2])
	}
	if got := strings.Join(names, ", "); got != "back-01000000 on 01, back-02000000 on 02, db on 01, front-02000000 on 02, web on 02" {
		t.Errorf("workloads %s", got)
	}
}

// TestReplicasAreMeantByTheirAlias lets everyone in who has the alias.
func TestReplicasAreMeantByTheirAlias(t *testing.T) {
	text := strings.NewReplacer("from: [web]", "from: [pool]", "{name: back,", "{name: back, aliases: [pool],").Replace(shop) +
		"  - {name: cron, kind: container, image: red/web:1, networks: [{name: back, aliases: [pool]}]}\n"
	p, err := resolve(t, text, facts())
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(decoded(t, p, "db").Networks[0].Allow[0].Peers); got != "[cron web]" {
		t.Errorf("peers %s", got)
	}
}

// TestRoutersNeedRoomToo: a workload takes its routers' room as well, and an
// exit takes its own.
func TestRoutersNeedRoomToo(t *testing.T) {
	f := facts()
	f.Nodes[1].Free = contract.Capacity{CPU: 1000, Memory: 100 << 20, Disk: 1 << 30} // node-2
	for size, want := range map[string]string{
		"84MiB": "", // and two routers of 8 MiB
		"85MiB": "node node-2 has 1 cores, 100 MiB memory, 1024 MiB disk free, this workload wants 0.12 cores, 101 MiB memory",
	} {
		_, err := resolve(t, strings.Replace(shop, "    node: node-2\n", "    node: node-2\n    resources: {memory: "+size+"}\n", 1), f)
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("%s: %v, want %q", size, err, want)
		}
	}
	f.Nodes[0].Free.Memory = 4 << 20
	if _, err := resolve(t, shop, f); err == nil || !strings.Contains(err.Error(), "shop.yaml:7:11: node node-1 has 1 cores, 4 MiB memory") {
		t.Errorf("an exit without room: %v", err)
	}
}

// TestWrittenRangesComeBeforeChosenOnes also when they are written later.
func TestWrittenRangesComeBeforeChosenOnes(t *testing.T) {
	text := strings.NewReplacer("- name: back\n    subnet: 10.20.0.0/16\n", "- name: back\n", "- name: front", "- name: front\n    subnet: 10.0.0.0/12").Replace(shop)
	p, err := resolve(t, text, facts())
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Networks[0].IPv4; got != "10.16.0.0/16" {
		t.Errorf("back has %s", got)
	}
}
