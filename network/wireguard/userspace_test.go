//go:build !invm

package wireguard

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUserspace(t *testing.T) { runPromises(t, Userspace, Userspace) }

// TestAutoFallsBack: this machine's kernel need not have WireGuard.
func TestAutoFallsBack(t *testing.T) {
	a, b := newLink(t, Auto, Userspace)
	talk(t, a, b, false, "hello")
	probe, err := a.host.New(context.Background(), func() Config { c := a.config(Config{Engine: Kernel}, b); c.Name = "wg-k"; return c }())
	if err == nil {
		must(t, probe.Close())
	}
	if want := errors.Is(err, unix.EOPNOTSUPP); (a.dev.Engine() == Userspace) != want {
		t.Errorf("engine %v, but asking for the kernel's: %v", a.dev.Engine(), err)
	}
}

func TestRelayOnlyOpensNoSocket(t *testing.T) {
	a, b := newSites(t)
	a.start(t, Config{RelayOnly: true}, b)
	b.start(t, Config{RelayOnly: true}, a)
	must(t, a.dev.SetPeer(a.peerOf(b)))
	must(t, b.dev.SetPeer(b.peerOf(a)))
	seen := newCapture(t, b)
	talk(t, a, b, false, "hello")
	talk(t, b, a, true, "hello")
	for _, s := range []*site{a, b} {
		if got := append(udpSockets(t, s.hostNS), udpSockets(t, s.routerNS)...); len(got) > 0 {
			t.Errorf("%s has UDP sockets: %q", s.name, got)
		}
		if s.dev.Port() != 0 || s.dev.Engine() != Userspace {
			t.Errorf("port %d, engine %v", s.dev.Port(), s.dev.Engine())
		}
	}
	at := netip.AddrPortFrom(b.addr4, 9)
	if err := a.dev.SetPath(b.key.Public(), at); err == nil {
		t.Error("a direct path was taken")
	}
	if err := a.dev.SendProbe(at, []byte(ProbeMagic)); err == nil {
		t.Error("a probe was sent")
	}
	talk(t, a, b, false, "still relayed")
	if n := seen.udpFrom(netip.AddrPortFrom(a.addr4, 0)); n > 0 {
		t.Errorf("%d packets on the underlay", n)
	}
	// The control: an ordinary device's sockets are seen.
	c := a.config(Config{Engine: Userspace}, b)
	c.Name = "wg-udp"
	d, err := a.host.New(context.Background(), c)
	must(t, err)
	if len(udpSockets(t, a.hostNS)) != 2 {
		t.Errorf("an ordinary device shows %q", udpSockets(t, a.hostNS))
	}
	must(t, d.Close())
}

func TestUserspaceCannotBeAdopted(t *testing.T) {
	a, b := newLink(t, Userspace, Userspace)
	for _, e := range []Engine{Auto, Kernel, Userspace} {
		if _, err := a.host.Adopt(context.Background(), a.config(Config{Engine: e}, b)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: %v", e, err)
		}
	}
	must(t, a.dev.Leave())
	if got := linksIn(t, a.routerNS); got != "lo" {
		t.Errorf("links %s", got)
	}
}
