package grid

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/examples"
	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/qemu"
)

// TestGateway is examples/shop: a page on one node, its database on another behind
// a different NAT, a gateway on a third. Everything is approved by two of three.
func TestGateway(t *testing.T) {
	l := newLaboratory(t)
	outside := l.lab.Host("outside", l.internet)
	w := startWorld(t, Options{Nodes: 3, Gateways: 1, Identity: "disk", Firmware: qemu.BIOS, Underlay: l})
	for _, label := range []string{"shop", "www"} {
		w.reserve(label)
	}
	id := w.deploy(placed(string(examples.Shop), map[string]string{"db": "node-2", "web": "node-1", "www": "node-3"}))
	for _, name := range []string{"db", "web", "www"} {
		w.running(id, name, actTime)
	}
	t.Run("ThePageIsThereByPassthrough", func(t *testing.T) {
		w := w.with(t)
		w.eventually(actTime, "the page", func(ctx context.Context) (bool, string, error) {
			out, err := curl(ctx, outside, "https://shop.zos.test/", "--insecure")
			return strings.Contains(out, "for sale: a lamp of glass"), fmt.Sprint(out, err), nil
		})
	})
}

// placed puts the workloads of a spec on nodes.
func placed(text string, nodes map[string]string) string {
	for name, node := range nodes {
		text = strings.Replace(text, "  - name: "+name+"\n    kind:", "  - name: "+name+"\n    node: "+node+"\n    kind:", 1)
	}
	return text
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
	host, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(url, "https://"), "http://"), "/")
	addrs, err := resolve(ctx, from, host)
	if err != nil {
		return "", err
	}
	args = append([]string{"-sS", "-m", "20"}, args...)
	for _, port := range []string{"80", "443"} {
		args = append(args, "--resolve", host+":"+port+":"+addrs[0].String())
	}
	cmd := exec.CommandContext(ctx, "curl", append(args, url)...)
	return from.Output(cmd)
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
