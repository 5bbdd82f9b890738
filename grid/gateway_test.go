package grid

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/examples"
	"github.com/zero-os/zos/gateway/certs/certstest"
	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/qemu"
)

// TestGateway is examples/shop: a page on one node, its database on another behind
// a different NAT, a gateway on a third. A laptop behind a NAT of its own enters the
// network with the stock programs. Everything is approved by two of three.
func TestGateway(t *testing.T) {
	l := newLaboratory(t)
	outside := l.lab.Host("outside", l.internet)
	authority := l.lab.Host("authority", l.internet)
	l.acme = certstest.Start(t, authority.Addr4(), netip.AddrPortFrom(netip.MustParseAddr(publicShared), 53), authority.Start)
	home := l.lab.Site("home", netlab.SiteConfig{WAN: l.internet, NAT: netlab.Symmetric, LAN: []string{"192.168.1.0/24"}})
	laptop := home.Host("laptop")
	w := startWorld(t, Options{Nodes: 3, Gateways: 1, Identity: "disk", Firmware: qemu.BIOS, Underlay: l})
	for _, label := range []string{"shop", "www"} {
		w.reserve(label)
	}
	text := placed(string(examples.Shop), map[string]string{"db": "node-2", "web": "node-1", "www": "node-3"})
	id := w.deploy(enteredBy(text, "node-1"))
	for _, name := range []string{"db", "web", "www"} {
		w.running(id, name, actTime)
	}
	const page = "for sale: a lamp of glass"
	t.Run("ThePageIsThereWithTheWorkloadsOwnKey", func(t *testing.T) {
		w := w.with(t)
		w.page(outside, page, "https://shop.zos.test/", "--insecure")
	})
	t.Run("ThePageIsThereWithACertificateOfTheGateway", func(t *testing.T) {
		w := w.with(t)
		issued, err := l.acme.Issued(t.Context(), authority.Dial)
		if err != nil {
			t.Fatal(err)
		}
		roots := filepath.Join(t.TempDir(), "roots.pem")
		if err := os.WriteFile(roots, issued, 0o600); err != nil {
			t.Fatal(err)
		}
		w.page(outside, page, "https://www.zos.test/", "--cacert", roots)
		w.page(outside, "by HTTP/2", "https://www.zos.test/", "--cacert", roots, "--write-out", "by HTTP/%{http_version}")
		w.page(outside, page, "http://www.zos.test/", "--cacert", roots, "--location")
		www := w.running(id, "www", actTime)
		w.log(www.Slot, id, "www", "www.zos.test") // the access log, for the group
	})
	t.Run("TheGroupSeesWhatIsPublished", func(t *testing.T) {
		out := w.with(t).zos("gateway", "show", "shop")
		for _, want := range []string{"shop.zos.test", "www.zos.test", "30000/udp", publicShared, "web", "valid"} {
			if !strings.Contains(out, want) {
				t.Errorf("zos gateway show has no %q:\n%s", want, out)
			}
		}
	})
	t.Run("TheOutsideReachesWhatIsPublishedAlone", func(t *testing.T) {
		var tried []string
		for _, port := range []int{22, 53, 80, 443, 2222, 4222, 6379, 8080, 8443, 26657, 30000, 30001, 51820} {
			tried = append(tried, fmt.Sprintf("%s:%d", publicShared, port))
		}
		for _, site := range l.sites {
			for _, port := range []int{22, 80, 443, 6379, 8080, 51820} {
				tried = append(tried, fmt.Sprintf("%s:%d", site.Outer(true), port))
			}
		}
		open := make([]bool, len(tried))
		var all sync.WaitGroup
		for i, address := range tried {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if c, err := outside.Dial(ctx, "tcp", address); err == nil {
					c.Close()
					open[i] = true
				}
			})
		}
		all.Wait()
		for i, address := range tried {
			want := address == publicShared+":53" || address == publicShared+":80" || address == publicShared+":443"
			if open[i] != want {
				t.Errorf("%s is open: %v, want %v", address, open[i], want)
			}
		}
	})
	t.Run("ALaptopEntersWithTheStockPrograms", func(t *testing.T) {
		w := w.with(t)
		file := filepath.Join(t.TempDir(), "zos-back.conf")
		export := []string{"net", "export", "shop/back", "--name", "laptop", "--as", "red", "--out", file}
		w.zos(append(export, "--yes", "--no-wait")...)
		w.approveAll("green")
		w.zos(append(export, "--yes")...)
		down := wgQuick(t, laptop, file)
		db := w.addressOf(id, "db")
		began := time.Now()
		w.eventually(actTime, "the laptop reaches the database", func(ctx context.Context) (bool, string, error) {
			out, err := redis(ctx, laptop, db, "GET item")
			return strings.Contains(out, "a lamp of glass"), fmt.Sprint(out, err), nil
		})
		t.Logf("the database answers the laptop %v after wg-quick", time.Since(began).Round(time.Millisecond))
		memberFindsMore(w, laptop, "zos-back", id)
		if out, err := redis(t.Context(), outside, db, "GET item"); err == nil {
			t.Errorf("the public reaches the database: %q", out)
		}
		// Revoked: cut within a second of the node's word that it has the new version.
		w.zos("net", "revoke", "shop/back", "laptop", "--as", "red", "--yes")
		w.approveAll("green")
		revoked := time.Now()
		w.eventually(actTime, "the laptop is cut off", func(ctx context.Context) (bool, string, error) {
			ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			defer cancel()
			out, err := redis(ctx, laptop, db, "PING")
			return err != nil, out, nil
		})
		t.Logf("the laptop is cut off %v after the last approval, half a second of silence included", time.Since(revoked).Round(time.Millisecond))
		down()
	})
	t.Run("WithoutTheGatewayTheDataIsIntact", func(t *testing.T) {
		w := w.with(t)
		before := w.heartbeat(3)
		if err := w.g.machines[2].powerOff(); err != nil {
			t.Fatal(err)
		}
		if out, err := curl(t.Context(), outside, "https://shop.zos.test/", "--insecure"); err == nil {
			t.Errorf("the page is served without its gateway: %q", out)
		}
		for _, name := range []string{"db", "web"} {
			w.running(id, name, actTime)
		}
		t.Run("WhoTakesItOverFindsNothingMore", func(t *testing.T) { takeover(w.with(t), l, id, text) })
		w.g.machines[2].powerOn()
		w.rebooted(3, before)
		w.page(outside, page, "https://shop.zos.test/", "--insecure")
	})
}

// placed puts the workloads of a spec on nodes.
func placed(text string, nodes map[string]string) string {
	for name, node := range nodes {
		text = strings.Replace(text, "  - name: "+name+"\n    kind:", "  - name: "+name+"\n    node: "+node+"\n    kind:", 1)
	}
	return text
}

// enteredBy lets people's devices enter the shop's network by a node.
func enteredBy(text, node string) string {
	return strings.Replace(text, "        join: back", "        join: back\n        entry: "+node, 1)
}

// resolve asks the grid's own DNS server.
func resolve(ctx context.Context, from *netlab.Host, name string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return from.Dial(ctx, network, netip.AddrPortFrom(netip.MustParseAddr(publicShared), 53).String())
	}}
	return r.LookupNetIP(ctx, "ip4", name)
}

// curl gets a page as the public would: a name, its addresses by DNS, the page.
func curl(ctx context.Context, from *netlab.Host, url string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, rest, _ := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, "/")
	addrs, err := resolve(ctx, from, host)
	if err != nil {
		return "", err
	}
	args = append([]string{"-sS", "-m", "20"}, args...)
	for _, port := range []string{"80", "443"} {
		args = append(args, "--resolve", host+":"+port+":"+addrs[0].String())
	}
	return from.Output(exec.CommandContext(ctx, "curl", append(args, url)...))
}

// page waits until a page says what it should.
func (w *world) page(from *netlab.Host, want, url string, args ...string) {
	w.Helper()
	w.eventually(actTime, url, func(ctx context.Context) (bool, string, error) {
		out, err := curl(ctx, from, url, args...)
		return strings.Contains(out, want), fmt.Sprint(out, err), nil
	})
}

// redis sends one command in a line, which servers of that protocol take too.
func redis(ctx context.Context, from *netlab.Host, address, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	words := strings.Fields(command)
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(word), word)
	}
	if err := errors.Join(c.SetDeadline(deadline), func() error { _, err := c.Write([]byte(b.String())); return err }()); err != nil {
		return "", err
	}
	answer := make([]byte, 4096)
	n, err := c.Read(answer)
	return string(answer[:n]), err
}

// wgQuick brings a file's interface up with the stock programs. This machine's
// kernel has no WireGuard, so wg-quick is given the userspace one.
func wgQuick(t *testing.T, h *netlab.Host, file string) (down func()) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "wireguard-go")
	if out, err := exec.Command("go", "build", "-o", program, "golang.zx2c4.com/wireguard").CombinedOutput(); err != nil {
		t.Fatalf("build wireguard-go: %v\n%s", err, out)
	}
	run := func(verb string) {
		cmd := exec.Command("wg-quick", verb, file)
		cmd.Env = append(os.Environ(), "WG_QUICK_USERSPACE_IMPLEMENTATION="+program, "PATH="+dir+":"+os.Getenv("PATH"))
		if out, err := h.Output(cmd); err != nil {
			t.Errorf("wg-quick %s: %v\n%s", verb, err, out)
		}
	}
	run("up")
	ended := false
	down = func() {
		if !ended {
			ended = true
			run("down")
		}
	}
	t.Cleanup(down)
	return down
}

// zos is a command line, as a person types it.
func (w *world) zos(args ...string) string {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), actTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "../bin/zos", args...)
	cmd.Env = append(os.Environ(), client.ConfigEnv+"="+w.g.d.config())
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.Fatalf("zos %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// approveAll approves whatever is open.
func (w *world) approveAll(who string) {
	w.Helper()
	all, err := w.c.Proposals(w.Context(), false)
	if err != nil {
		w.Fatal(err)
	}
	for _, p := range all {
		w.approve(p, who)
	}
}

// addressOf is where a workload listens for its network: the shop's database.
func (w *world) addressOf(id canon.Hash, name string) string {
	w.Helper()
	k, err := w.c.Contract(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	for _, p := range k.Plan.Workloads {
		if p.Name == name {
			return net.JoinHostPort(client.AttachmentsOf(p)[0].IPv4, "6379")
		}
	}
	w.Fatalf("no workload %s", name)
	return ""
}

// reserve is a name for the group, by two of three.
func (w *world) reserve(label string) {
	w.Helper()
	id, err := w.c.ProposeName(w.Context(), client.NameProposal{Group: w.g.founding.group, Action: contract.ActionReserve, Label: label, Span: 24 * time.Hour}, w.keys["red"])
	if err != nil {
		w.Fatal(err)
	}
	p, err := w.c.Proposal(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	w.approve(p, "green")
}
