package portscan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/zero-os/zos/qemu/segment"
)

// How long answers to discovery may take: a machine under emulation that is
// busy needs hundreds of milliseconds.
const (
	discoverRounds = 3
	discoverWait   = 700 * time.Millisecond
)

// neighbours asks for every address of the subnet and returns who answered.
func (s *station) neighbours(ctx context.Context, subnet netip.Prefix) (map[netip.Addr]segment.MAC, error) {
	if !subnet.Addr().Is4() || subnet.Bits() < 20 || subnet.Bits() > 30 {
		return nil, fmt.Errorf("subnet %s: want IPv4 with 20 to 30 bits", subnet)
	}
	found := map[netip.Addr]segment.MAC{}
	for range discoverRounds {
		var frames [][]byte
		subnet = subnet.Masked()
		for a := subnet.Addr().Next(); subnet.Contains(a.Next()); a = a.Next() {
			if a == s.addr4() {
				continue
			}
			sender := s.addr4()
			if !sender.IsValid() {
				sender = netip.IPv4Unspecified() // an ARP probe (RFC 5227)
			}
			frames = append(frames, arp(arpRequest, broadcastMAC, s.mac, sender, segment.MAC{}, a))
		}
		if err := s.send(frames...); err != nil {
			return nil, err
		}
		err := s.collect(ctx, discoverWait, func(p packet) {
			if p.ether == etherARP && p.arpOp == arpReply && subnet.Contains(p.src) {
				found[p.src] = p.from
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// neighbours6 returns the link-local addresses at mac.
func (s *station) neighbours6(ctx context.Context, mac segment.MAC) ([]netip.Addr, error) {
	guess := linkLocal(mac)
	all := netip.MustParseAddr("ff02::1")
	echo := []byte{icmp6EchoRequest, 0, 0, 0, 'z', 'o', 0, 1}
	var found []netip.Addr
	for range discoverRounds {
		err := s.send(
			ip(segment.MAC{0x33, 0x33, 0, 0, 0, 1}, s.mac, s.ip6, all, protoICMPv6, slices.Clone(echo), sumICMP),
			ip(mac, s.mac, s.ip6, guess, protoICMPv6, neighbour(icmp6Solicit, guess, s.mac), sumICMP))
		if err != nil {
			return nil, err
		}
		err = s.collect(ctx, discoverWait, func(p packet) {
			if p.from == mac && p.ether == etherIPv6 && p.src.IsLinkLocalUnicast() && !slices.Contains(found, p.src) {
				found = append(found, p.src)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// errGone means that the machine's segment has ended.
var errGone = errors.New("the segment is gone: the machine ended")

// collect hands packets to each for a while.
func (s *station) collect(ctx context.Context, wait time.Duration, each func(packet)) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case p, ok := <-s.in:
			if !ok {
				return errGone
			}
			each(p)
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// isGateway tells whether a MAC is one that QEMU's user network makes up for
// itself: 52:55 and then the IPv4 address.
func isGateway(m segment.MAC, a netip.Addr) bool {
	b := a.As4()
	return m == segment.MAC{0x52, 0x55, b[0], b[1], b[2], b[3]}
}
