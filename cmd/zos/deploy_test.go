package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/spec/plan"
)

func TestAPlanShowsTheOldBesideTheNewBelowItsHeading(t *testing.T) {
	node := canon.Sum([]byte("node-1"))
	names := client.Names{node: "node-1"}
	of := func(workloads map[string]plan.Container) *plan.Plan {
		p := &plan.Plan{Name: "duo"}
		for _, name := range []string{"db", "old", "web"} {
			c, ok := workloads[name]
			if !ok {
				continue
			}
			c.Args, c.WorkDir, c.Life.Restart = append([]string{"/" + name}, c.Args...), "/", plan.RestartAlways
			b, err := canon.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			p.Workloads = append(p.Workloads, plan.Workload{Name: name, Kind: plan.KindContainer, Slot: node, Config: b})
		}
		return p
	}
	from := of(map[string]plan.Container{
		"db":  {Env: []string{"A=1", "B=1"}},
		"old": {},
		"web": {Args: []string{"-x"}, Env: []string{"A=1", "B=1", "C=1"}, UID: 1, Networks: []plan.Attachment{{Network: "front", IPv4: "10.20.1.3", IPv6: "fd00::3", Open: true}}},
	})
	to := of(map[string]plan.Container{
		"db":  {Env: []string{"A=2", "B=1", "C=1"}},
		"web": {Args: []string{"-y"}, Env: []string{"A=2", "B=2", "C=1"}, UID: 1, Networks: []plan.Attachment{{Network: "front", IPv4: "10.20.1.3", IPv6: "fd00::3"}}},
	})
	got := diff(from, to, names)
	want := []string{
		"  container db on node-1",
		`-     env      "A=1"`,
		`+     env      "A=2"`,
		`+     env      "C=1"`,
		"  container web on node-1",
		`-     command  ["/web" "-x"]`,
		`+     command  ["/web" "-y"]`,
		`-     env      "A=1"`,
		`+     env      "A=2"`,
		`-     env      "B=1"`,
		`+     env      "B=2"`,
		"-     reached  in front by everyone on every port",
		"+     reached  in front by nobody",
		"- container old on node-1",
	}
	if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestADifferenceLeavesNothingOut(t *testing.T) {
	for _, c := range []struct{ before, after, want string }{
		{"", "", ""},
		{"x a b", "x a b", ""},
		{"", "x a", "+x +a"},
		{"x a", "", "-x -a"},
		{"x a b", "x b", " x -a"},
		{"x a", "y a", "-x +y"},
		{"x a b", "x b a", " x -a +b -b +a"},
		{"x a b", "x a a b", " x -b +a +b"},
		{"x a a b", "x a b", " x -a +b -b"},
		{"x a b c", "x d", " x -a -b -c +d"},
	} {
		got := diffPart(strings.Fields(c.before), strings.Fields(c.after))
		for i, l := range got {
			got[i] = l[:1] + l[2:]
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("from %q to %q: %q, want %q", c.before, c.after, strings.Join(got, " "), c.want)
		}
	}
}

// TestAnUpdateShowsWhatIsPublishedAndWhoIsLetIn: routes and devices that come and
// go, each in its own line.
func TestAnUpdateShowsWhatIsPublishedAndWhoIsLetIn(t *testing.T) {
	node, alice := canon.Sum([]byte("node-3")), canon.Sum([]byte("alice"))
	names := client.Names{node: "node-3", alice: "alice"}
	place := plan.Attachment{Network: "front", IPv4: "10.20.1.2", IPv6: "fd00:0:0:1::2", Egress: plan.EgressNone}
	of := func(target uint16, hosts []string, devices ...byte) *plan.Plan {
		g := plan.Gateway{V: plan.Version, Addresses: []string{"198.51.100.10"}, Networks: []plan.Attachment{place}}
		for _, h := range hosts {
			g.Routes = append(g.Routes, plan.Route{Host: h, Mode: plan.ModePassthrough, Port: 443, Network: "front", Backends: []string{"web"}, Target: target, Check: plan.CheckTCP})
		}
		config, err := g.Encode()
		if err != nil {
			t.Fatal(err)
		}
		p := &plan.Plan{Name: "shop", Workloads: []plan.Workload{{Name: "www", Kind: plan.KindGateway, Slot: node, Resources: plan.GatewayResources(), Config: config}}}
		for _, d := range devices {
			at := place
			at.IPv4, at.IPv6 = "10.20.1."+string('0'+rune(d)), "fd00:0:0:1::"+string('0'+rune(d))
			config, err := plan.Device{V: plan.Version, Key: slices.Repeat([]byte{d}, 32), Account: alice, Network: at}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			p.Workloads = append(p.Workloads, plan.Workload{Name: "laptop-" + string('0'+rune(d)), Kind: plan.KindDevice, Slot: node, Resources: plan.DeviceResources(), Config: config})
		}
		return p
	}
	got := strings.Join(diff(of(80, []string{"a.example", "b.example"}, 5), of(81, []string{"b.example", "c.example"}, 6), names), "\n")
	want := `  gateway www on node-3
-     host     a.example to web.front:80, TLS passthrough, check tcp
+     host     b.example to web.front:81, TLS passthrough, check tcp
-     host     b.example to web.front:80, TLS passthrough, check tcp
+     host     c.example to web.front:81, TLS passthrough, check tcp
+ device laptop-6
+     limits   0.001 cpu, 1.0 MiB memory, 0.0 MiB disk, 1 processes
+     account  alice
+     key      BgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgY=
+     entry    node-3
+     network  in front as 10.20.1.6 and fd00:0:0:1::6
- device laptop-5
-     limits   0.001 cpu, 1.0 MiB memory, 0.0 MiB disk, 1 processes
-     account  alice
-     key      BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=
-     entry    node-3
-     network  in front as 10.20.1.5 and fd00:0:0:1::5`
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
