package portscan

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/zero-os/zos/qemu/segment"
)

// Control is the proof that the scanner finds what is open: a second host on
// the same segment, with one TCP and one UDP port opened on purpose.
type Control struct {
	Result
	TCPWanted int  `json:"tcp_wanted"`
	UDPWanted int  `json:"udp_wanted"`
	Found     bool `json:"found"` // exactly these two, by the same scan
}

// decoy is the control's host. It attaches to the segment by a connection of
// its own, so that every probe and every answer crosses the segment's switch.
type decoy struct {
	*station
	tcp, udp uint16
	ended    chan struct{}
}

// startDecoy opens one random port of each kind on a new host.
func startDecoy(path string, ip4 netip.Addr) (*decoy, error) {
	s, err := attach(path)
	if err != nil {
		return nil, err
	}
	s.setIP(ip4)
	var r [4]byte
	if _, err := rand.Read(r[:]); err != nil {
		s.close()
		return nil, fmt.Errorf("start control: %w", err)
	}
	d := &decoy{
		station: s, ended: make(chan struct{}),
		tcp: 1 + binary.BigEndian.Uint16(r[0:])%65535,
		udp: 1 + binary.BigEndian.Uint16(r[2:])%65535,
	}
	// The switch learns where it is.
	if err := s.send(arp(arpRequest, broadcastMAC, s.mac, ip4, segment.MAC{}, ip4)); err != nil {
		s.close()
		return nil, err
	}
	go d.serve()
	return d, nil
}

// stop detaches the host.
func (d *decoy) stop() {
	d.close()
	<-d.ended
}

// serve answers as a host with two open ports and no firewall does.
func (d *decoy) serve() {
	defer close(d.ended)
	for p := range d.in {
		if p.to != d.mac || p.dst != d.addr4() {
			continue
		}
		reply := func(proto byte, seg []byte, sum int) {
			_ = d.send(ip(p.from, d.mac, p.dst, p.src, proto, seg, sum)) // the reader sees a lost segment
		}
		switch {
		case p.proto == protoTCP && p.flags&tcpSYN != 0 && p.dstPort == d.tcp:
			reply(protoTCP, tcp(p.dstPort, p.srcPort, 1, p.seq+1, tcpSYN|tcpACK), sumTCP)
		case p.proto == protoTCP && p.flags&tcpSYN != 0:
			reply(protoTCP, tcp(p.dstPort, p.srcPort, 0, p.seq+1, tcpRST|tcpACK), sumTCP)
		case p.proto == protoUDP && p.dstPort == d.udp:
			reply(protoUDP, udp(p.dstPort, p.srcPort, slices.Clone(p.payload)), sumUDP)
		}
	}
}

// judge compares what the scan found with what was open.
func (d *decoy) judge(r Result) Control {
	return Control{
		Result: r, TCPWanted: int(d.tcp), UDPWanted: int(d.udp),
		Found: slices.Equal(r.TCPOpen, []int{int(d.tcp)}) && slices.Equal(r.UDPReplies, []int{int(d.udp)}),
	}
}
