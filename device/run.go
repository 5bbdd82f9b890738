package device

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/net/dns/dnsmessage"
)

// How often the way is looked at.
const (
	lookSoon = 50 * time.Millisecond // before the first handshake
	lookEach = 500 * time.Millisecond
)

// Event is what Run tells.
type Event struct {
	Up       bool           // the entry answers; otherwise it does not
	Endpoint netip.AddrPort // by which, or that is tried
}

// Run keeps the way to the entry open until ctx ends, which is no error: it takes
// the next endpoint whenever one is silent. tell, which must not block, hears of
// every change; it may be nil.
func (l *Link) Run(ctx context.Context, tell func(Event)) error {
	if tell == nil {
		tell = func(Event) {}
	}
	moves, err := l.moves(ctx)
	if err != nil {
		return err
	}
	up := false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-moves:
			l.way.moved(time.Now())
		case <-timer.C:
		}
		now := time.Now()
		shaken, err := l.look(now)
		if err != nil {
			return err
		}
		if shaken && !up {
			up = true
			tell(Event{true, l.way.endpoint()})
		}
		switch l.way.step(now) {
		case ask:
			l.ask()
		case next:
			if err := l.take(now); err != nil {
				return err
			}
			up = false
			tell(Event{false, l.way.endpoint()})
		}
		if up {
			timer.Reset(lookEach)
		} else {
			timer.Reset(lookSoon)
		}
	}
}

// look asks the device what has come, and whether there has been a handshake
// with the endpoint in use.
func (l *Link) look(now time.Time) (shaken bool, err error) {
	stats, err := l.device.Stats()
	if err != nil {
		return false, err
	}
	for _, s := range stats {
		if s.PublicKey == l.config.Entry {
			l.way.see(now, s.RxBytes)
			return !s.LastHandshake.IsZero(), nil
		}
	}
	return false, fmt.Errorf("interface %s has lost its peer: another program changes it", l.options.Name)
}

// moves tells when the machine's addresses or ways change.
func (l *Link) moves(ctx context.Context) (<-chan struct{}, error) {
	ns := vnetns.NsHandle(l.options.NetNS)
	routes, moved := make(chan netlink.RouteUpdate, 16), make(chan struct{}, 1)
	done := make(chan struct{})
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{Namespace: &ns, ErrorCallback: func(error) {}}); err != nil {
		close(done)
		return nil, fmt.Errorf("watch this machine's routes: %w", err)
	}
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case r, ok := <-routes:
				if !ok { // it can no longer be told; silence is still noticed
					return
				}
				if r.LinkIndex == l.index {
					continue
				}
				select {
				case moved <- struct{}{}:
				default:
				}
			}
		}
	}()
	return moved, nil
}

// asker asks the network's resolver something that it answers at once.
type asker struct {
	conn net.Conn
	id   uint16
}

func (a *asker) close() {
	if a.conn != nil {
		a.conn.Close()
		a.conn = nil
	}
}

// ask sends a question through the tunnel. That an answer came is seen by what
// the device has received; if the question can't be sent, silence follows, which
// is the same.
func (l *Link) ask() {
	if l.asking.conn == nil {
		to := netip.AddrPortFrom(routerOf(l.config.Addresses[0]), 53)
		if len(l.config.DNS) > 0 {
			to = netip.AddrPortFrom(l.config.DNS[0], 53)
		}
		err := l.inside(func() (err error) {
			l.asking.conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
			return err
		})
		if err != nil {
			l.asking.conn = nil
			return
		}
	}
	l.asking.id++
	if b, err := question(l.asking.id, l.config.Domain); err == nil {
		if _, err := l.asking.conn.Write(b); err != nil && !errors.Is(err, net.ErrClosed) {
			l.options.Logger.Debug("ask the network's resolver", "error", err)
		}
	}
}

// question asks for a network's own record.
func question(id uint16, domain string) ([]byte, error) {
	name, err := dnsmessage.NewName(domain + ".")
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id}, Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeSOA, Class: dnsmessage.ClassINET}}}
	return m.Pack()
}

// routerOf is the router of the node's part of the network in which a is.
func routerOf(a netip.Addr) netip.Addr {
	bits := 24
	if a.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked().Addr().Next()
}

// netlinkNet is a prefix as netlink has it.
func netlinkNet(p netip.Prefix) (net.IP, *net.IPNet, error) { return net.ParseCIDR(p.String()) }
