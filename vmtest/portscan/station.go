package portscan

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/zero-os/zos/qemu/segment"
)

// station is a host on the segment that exists only here: it has an Ethernet
// address and IP addresses and answers for them as hosts do.
type station struct {
	conn net.Conn
	mac  segment.MAC
	ip6  netip.Addr

	mu  sync.Mutex // guards ip4 and writing
	ip4 netip.Addr

	in   chan packet // what came for this station, and ARP replies
	stop chan struct{}
	done chan struct{}
}

// attach joins the segment at path.
func attach(path string) (*station, error) {
	conn, err := segment.Dial(path)
	if err != nil {
		return nil, err
	}
	s := &station{conn: conn, in: make(chan packet, 4096), stop: make(chan struct{}), done: make(chan struct{})}
	if _, err := rand.Read(s.mac[:]); err != nil {
		conn.Close()
		return nil, fmt.Errorf("attach to segment: %w", err)
	}
	s.mac[0] = s.mac[0]&0xfc | 0x02 // locally administered, one host
	s.ip6 = linkLocal(s.mac)
	go s.read()
	return s, nil
}

func (s *station) close() {
	close(s.stop)
	s.conn.Close()
	<-s.done
}

func (s *station) setIP(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ip4 = a
}

func (s *station) addr4() netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ip4
}

// own is the station's address of the same family as to.
func (s *station) own(to netip.Addr) netip.Addr {
	if to.Is4() {
		return s.addr4()
	}
	return s.ip6
}

// send writes frames; it fails when the segment is gone.
func (s *station) send(frames ...[]byte) error {
	var b []byte
	for _, f := range frames {
		b = segment.AppendFrame(b, f)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.conn.Write(b); err != nil {
		return fmt.Errorf("send on segment: %w", err)
	}
	return nil
}

// read answers for the station's addresses and hands everything else to in,
// which is closed when the segment is gone.
func (s *station) read() {
	defer close(s.done)
	defer close(s.in)
	r := bufio.NewReaderSize(s.conn, 64<<10)
	for {
		f, err := segment.ReadFrame(r)
		if err != nil {
			return
		}
		p, ok := parse(f)
		if !ok || p.from == s.mac || s.answer(p) {
			continue
		}
		select {
		case s.in <- p:
		case <-s.stop:
			return
		}
	}
}

// answer replies to a question for one of our addresses.
func (s *station) answer(p packet) bool {
	switch {
	case p.ether == etherARP && p.arpOp == arpRequest:
		if own := s.addr4(); own.IsValid() && p.dst == own {
			_ = s.send(arp(arpReply, p.from, s.mac, own, p.from, p.src)) // the reader sees a lost segment
		}
		return true
	case p.proto == protoICMPv6 && p.icmpType == icmp6Solicit:
		if p.target == s.ip6 && p.src != netip.IPv6Unspecified() {
			_ = s.send(ip(p.from, s.mac, s.ip6, p.src, protoICMPv6, neighbour(icmp6Advertise, s.ip6, s.mac), sumICMP))
		}
		return true
	}
	return false
}
