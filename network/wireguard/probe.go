package wireguard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// probes sends and receives probes for the kernel's devices of a host, whose
// UDP ports are the kernel's. Two raw sockets see every UDP packet that the
// host's firewall let in; a filter in the kernel wakes us only for those that
// begin with ProbeMagic.
type probes struct {
	logger *slog.Logger
	routes *netlink.Handle // in the host's namespace
	v4     *net.IPConn
	v6     *net.IPConn // nil: the host has no IPv6
	done   sync.WaitGroup

	mu      sync.RWMutex
	devices map[uint16]func(netip.AddrPort, []byte)
}

const udpHeader = 8

var errRefused = unix.ECONNREFUSED

// openProbes opens the host's probe sockets, once.
func (h *Host) openProbes() (*probes, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.probes != nil {
		return h.probes, nil
	}
	p := &probes{logger: h.logger, routes: h.routes, devices: map[uint16]func(netip.AddrPort, []byte){}}
	err := within(h.ns, func() (err error) {
		if p.v4, err = listenRaw("ip4:udp"); err != nil {
			return err
		}
		if err := ipv4.NewPacketConn(p.v4).SetBPF(probeFilter(true)); err != nil {
			return fmt.Errorf("filter received probes: %w", err)
		}
		if p.v6, err = listenRaw("ip6:udp"); errors.Is(err, unix.EAFNOSUPPORT) {
			return nil
		}
		if err != nil {
			return err
		}
		v6 := ipv6.NewPacketConn(p.v6)
		if err := v6.SetBPF(probeFilter(false)); err != nil {
			return fmt.Errorf("filter received probes: %w", err)
		}
		return v6.SetChecksum(true, 6) // the kernel computes it, where UDP has it
	})
	if err != nil {
		p.close()
		return nil, fmt.Errorf("open probe sockets: %w", err)
	}
	for _, c := range []*net.IPConn{p.v4, p.v6} {
		if c != nil {
			p.done.Go(func() { p.receive(c) })
		}
	}
	h.probes = p
	return p, nil
}

func listenRaw(network string) (*net.IPConn, error) {
	var listen net.ListenConfig
	c, err := listen.ListenPacket(context.Background(), network, "")
	if err != nil {
		return nil, fmt.Errorf("open a raw socket: %w", err)
	}
	return c.(*net.IPConn), nil
}

// probeFilter passes only UDP packets whose payload begins with ProbeMagic. A
// raw IPv4 socket shows the filter the IP header too, a raw IPv6 socket does not.
func probeFilter(header4 bool) []bpf.RawInstruction {
	magic := []byte(ProbeMagic)
	first, second := binary.BigEndian.Uint32(magic), binary.BigEndian.Uint32(magic[4:])
	program := []bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegX, Val: 0}}
	if header4 {
		program = []bpf.Instruction{bpf.LoadMemShift{Off: 0}} // X: length of the IP header
	}
	program = append(program,
		bpf.LoadIndirect{Off: udpHeader, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: first, SkipFalse: 3},
		bpf.LoadIndirect{Off: udpHeader + 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: second, SkipFalse: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	)
	raw, err := bpf.Assemble(program)
	if err != nil {
		panic("the probe filter does not assemble: " + err.Error()) // of constants only: the tests see it
	}
	return raw
}

func (p *probes) join(port uint16, onProbe func(netip.AddrPort, []byte)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.devices[port] = onProbe
}

func (p *probes) leave(port uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.devices, port)
}

// receive hands out probes until the socket is closed.
func (p *probes) receive(c *net.IPConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFromIP(buf) // without the IP header, for both families
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.logger.Warn("receive probes", "error", err)
			time.Sleep(time.Second) // of no known kind: it must not spin
			continue
		}
		source, port, probe, ok := parseProbe(buf[:n])
		addr, valid := netip.AddrFromSlice(from.IP)
		if !ok || !valid {
			continue
		}
		p.mu.RLock()
		if onProbe := p.devices[port]; onProbe != nil {
			onProbe(netip.AddrPortFrom(addr.Unmap(), source), probe)
		}
		p.mu.RUnlock()
	}
}

// parseProbe reads a UDP packet that should be a probe.
func parseProbe(b []byte) (source, destination uint16, probe []byte, ok bool) {
	if len(b) < udpHeader {
		return 0, 0, nil, false
	}
	size := int(binary.BigEndian.Uint16(b[4:]))
	if size < udpHeader || size > len(b) || !isProbe(b[udpHeader:size]) {
		return 0, 0, nil, false
	}
	return binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), b[udpHeader:size], true
}

// send sends one UDP packet from port.
func (p *probes) send(port uint16, to netip.AddrPort, probe []byte) error {
	packet := make([]byte, udpHeader, udpHeader+len(probe))
	binary.BigEndian.PutUint16(packet, port)
	binary.BigEndian.PutUint16(packet[2:], to.Port())
	binary.BigEndian.PutUint16(packet[4:], uint16(udpHeader+len(probe)))
	packet = append(packet, probe...)
	ip := &net.IPAddr{IP: to.Addr().AsSlice()}
	if to.Addr().Is6() {
		if p.v6 == nil {
			return fmt.Errorf("send a probe to %s: %w", to, unix.EAFNOSUPPORT)
		}
		if _, err := p.v6.WriteToIP(packet, ip); err != nil {
			return fmt.Errorf("send a probe to %s: %w", to, err)
		}
		return nil
	}
	// The checksum covers the source address, which only the route tells; the
	// packet is then sent from that address, whatever the routes are by then.
	found, err := p.routes.RouteGet(ip.IP)
	if err != nil || len(found) == 0 || found[0].Src.To4() == nil {
		return fmt.Errorf("send a probe to %s: no route (%w)", to, errors.Join(err, unix.ENETUNREACH))
	}
	source := found[0].Src.To4()
	binary.BigEndian.PutUint16(packet[6:], udpChecksum([4]byte(source), to.Addr().As4(), packet))
	control := ipv4.ControlMessage{Src: source}
	if _, _, err := p.v4.WriteMsgIP(packet, control.Marshal(), ip); err != nil {
		return fmt.Errorf("send a probe to %s: %w", to, err)
	}
	return nil
}

// udpChecksum of a packet with its checksum field zero (RFC 768).
func udpChecksum(source, destination [4]byte, packet []byte) uint16 {
	sum := uint32(unix.IPPROTO_UDP) + uint32(len(packet))
	for _, b := range [][]byte{source[:], destination[:], packet} {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		return 0xffff // zero would say that there is none
	}
	return ^uint16(sum)
}

func (p *probes) close() {
	for _, c := range []*net.IPConn{p.v4, p.v6} {
		if c != nil {
			c.Close()
		}
	}
	p.done.Wait()
}
