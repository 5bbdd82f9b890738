package portscan

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/zero-os/zos/qemu/segment"
)

// The pace. burst is small against the 256 descriptors of a virtio ring and
// QEMU's own queues; the answer that ends it sets the speed.
const (
	burst        = 128
	passes       = 2
	barrierWait  = time.Second
	barrierTries = 20
	drain        = 1500 * time.Millisecond // late answers
)

// Result is what one address of a machine answered.
type Result struct {
	Address netip.Addr `json:"address"`
	MAC     string     `json:"mac"`
	TCPOpen []int      `json:"tcp_open"` // answered SYN with SYN-ACK
	// TCPClosed answered with RST, TCPSilent with nothing.
	TCPClosed int `json:"tcp_closed"`
	TCPSilent int `json:"tcp_silent"`
	// UDPReplies are the ports from which a datagram came back.
	UDPReplies     []int   `json:"udp_replies"`
	UDPUnreachable int     `json:"udp_unreachable"` // ICMP said so
	Probes         int     `json:"probes"`          // frames sent
	Answers        int     `json:"answers"`         // times the machine answered between bursts
	Seconds        float64 `json:"seconds"`
}

// Silent tells whether nothing was found open.
func (r Result) Silent() bool { return len(r.TCPOpen) == 0 && len(r.UDPReplies) == 0 }

// target is one address of one machine.
type target struct {
	mac  segment.MAC
	addr netip.Addr
}

const (
	portSilent = iota
	portClosed
	portOpen
)

// sweep is one scan of one address; it owns the station's input meanwhile.
type sweep struct {
	*station
	to      target
	tcpPort uint16 // our ports; answers come to them
	udpPort uint16
	tcp     [65536]byte
	udp     [65536]byte
	res     Result
}

func (s *station) sweep(ctx context.Context, to target) (Result, error) {
	w := &sweep{station: s, to: to, tcpPort: 41000, udpPort: 42000}
	w.res = Result{Address: to.addr, MAC: to.mac.String(), TCPOpen: []int{}, UDPReplies: []int{}}
	started := time.Now()
	if err := w.run(ctx); err != nil {
		return Result{}, fmt.Errorf("scan %s: %w", to.addr, err)
	}
	for port := 1; port < 65536; port++ {
		switch w.tcp[port] {
		case portOpen:
			w.res.TCPOpen = append(w.res.TCPOpen, port)
		case portClosed:
			w.res.TCPClosed++
		default:
			w.res.TCPSilent++
		}
		if w.udp[port] == portOpen {
			w.res.UDPReplies = append(w.res.UDPReplies, port)
		}
	}
	w.res.Seconds = time.Since(started).Seconds()
	return w.res, nil
}

func (w *sweep) run(ctx context.Context) error {
	if err := w.barrier(ctx); err != nil {
		return err
	}
	for pass := range passes {
		// Another port each pass: a machine may treat a repeated SYN of the same
		// connection differently.
		w.tcpPort, w.udpPort = uint16(41000+pass), uint16(42000+pass)
		err := w.each(ctx, func(port uint16) []byte {
			if w.tcp[port] != portSilent {
				return nil
			}
			return w.packet(protoTCP, tcp(w.tcpPort, port, cookie(port), 0, tcpSYN), sumTCP)
		})
		if err != nil {
			return err
		}
		err = w.each(ctx, func(port uint16) []byte {
			if w.udp[port] == portOpen {
				return nil
			}
			var payload []byte // the second pass is empty
			if pass == 0 {
				payload = question(port)
			}
			return w.packet(protoUDP, udp(w.udpPort, port, payload), sumUDP)
		})
		if err != nil {
			return err
		}
	}
	if err := w.collect(ctx, drain, w.record); err != nil {
		return err
	}
	return w.barrier(ctx)
}

func (w *sweep) packet(proto byte, seg []byte, sum int) []byte {
	return ip(w.to.mac, w.mac, w.own(w.to.addr), w.to.addr, proto, seg, sum)
}

// each sends what probe makes for every port, in bursts.
func (w *sweep) each(ctx context.Context, probe func(port uint16) []byte) error {
	var frames [][]byte
	for port := 1; port < 65536; port++ {
		if f := probe(uint16(port)); f != nil {
			frames = append(frames, f)
		}
		if len(frames) == burst || port == 65535 {
			if err := w.send(frames...); err != nil {
				return err
			}
			w.res.Probes += len(frames)
			frames = frames[:0]
			if err := w.barrier(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// barrier asks the machine for its Ethernet address and waits for the answer.
// Frames stay in order on the way to its one receive queue, so what was sent
// before has been received by then.
func (w *sweep) barrier(ctx context.Context) error {
	for range barrierTries {
		var f []byte
		if w.to.addr.Is4() {
			f = arp(arpRequest, w.to.mac, w.mac, w.addr4(), segment.MAC{}, w.to.addr)
		} else {
			f = w.packet(protoICMPv6, neighbour(icmp6Solicit, w.to.addr, w.mac), sumICMP)
		}
		if err := w.send(f); err != nil {
			return err
		}
		answered, err := w.await(ctx)
		if err != nil {
			return err
		}
		if answered {
			w.res.Answers++
			return nil
		}
	}
	return fmt.Errorf("it does not answer for its own address any more (%d questions over %s)", barrierTries, barrierTries*barrierWait)
}

func (w *sweep) await(ctx context.Context) (bool, error) {
	timer := time.NewTimer(barrierWait)
	defer timer.Stop()
	for {
		select {
		case p, ok := <-w.in:
			if !ok {
				return false, errGone
			}
			if p.from == w.to.mac && (p.ether == etherARP && p.arpOp == arpReply && p.src == w.to.addr ||
				p.proto == protoICMPv6 && p.icmpType == icmp6Advertise && p.target == w.to.addr) {
				return true, nil
			}
			w.record(p)
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// record notes what a packet of the machine says. What others send does not
// count: the user network would answer for addresses that are not its own.
func (w *sweep) record(p packet) {
	if p.from != w.to.mac || p.to != w.mac {
		return
	}
	switch {
	case p.proto == protoTCP && p.src == w.to.addr && p.ack == cookie(p.srcPort)+1:
		switch {
		case p.flags&(tcpSYN|tcpACK) == tcpSYN|tcpACK:
			w.tcp[p.srcPort] = portOpen
			// Polite, and it keeps the machine from asking again.
			_ = w.send(w.packet(protoTCP, tcp(p.dstPort, p.srcPort, p.ack, p.seq+1, tcpRST|tcpACK), sumTCP))
		case p.flags&tcpRST != 0 && w.tcp[p.srcPort] == portSilent:
			w.tcp[p.srcPort] = portClosed
		}
	case p.proto == protoUDP && p.dstPort >= 42000 && p.dstPort < 42000+passes:
		w.udp[p.srcPort] = portOpen
	case p.proto == protoICMP && p.icmpType == icmpUnreachable, p.proto == protoICMPv6 && p.icmpType == icmp6Unreachable:
		w.res.UDPUnreachable++
	}
}

// cookie is the sequence number of the SYN to a port: an answer must know it.
func cookie(port uint16) uint32 { return 0x5a4f5300 + uint32(port)*65537 }

// question is what a service on a well-known port would answer.
func question(port uint16) []byte {
	switch port {
	case 53, 5353, 5355: // DNS: version.bind TXT CHAOS; mDNS and LLMNR read the same form
		return []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07version\x04bind\x00\x00\x10\x00\x03")
	case 69: // TFTP read request
		return []byte("\x00\x01x\x00octet\x00")
	case 111: // portmap NULL call
		return []byte("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01\x86\xa0\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	case 123: // NTP client
		b := make([]byte, 48)
		b[0] = 0x23
		return b
	case 161: // SNMP v1 get-next, community public
		return []byte("0\x26\x02\x01\x00\x04\x06public\xa1\x19\x02\x04\x00\x00\x00\x01\x02\x01\x00\x02\x01\x000\x0b0\x09\x06\x05\x2b\x06\x01\x02\x01\x05\x00")
	case 1900: // SSDP
		return []byte("M-SEARCH * HTTP/1.1\r\nHost: 239.255.255.250:1900\r\nMan: \"ssdp:discover\"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n")
	}
	return []byte("zos port scan\r\n\r\n")
}
