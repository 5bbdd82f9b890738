//go:build invm

package agent_test

import (
	"testing"
	"time"

	"github.com/zero-os/zos/network/agent"
	"github.com/zero-os/zos/network/wireguard"
)

// The emulated processor is slow, so there is more time than a test on the
// machine itself needs.
func TestKernelRotationLosesNothing(t *testing.T) {
	rotate(t, wireguard.Kernel, 2, agent.Periods{
		Rotate: 14 * time.Second, Overlap: 12 * time.Second, Linger: time.Second, Renew: 3 * time.Second, MaxPSKAge: 30 * time.Second,
	})
}

// The daemon ends and another begins: the sessions of the kernel's devices go on,
// packets flow meanwhile, and new preshared keys are agreed without a break.
func TestKernelRestartKeepsSessions(t *testing.T) {
	l := newLab(t)
	a := l.nodeWith(wireguard.Kernel, 1, l.Host("a", l.internet), agent.Periods{})
	b := l.nodeWith(wireguard.Kernel, 2, l.Host("b", l.internet), agent.Periods{})
	l.ensure(a, b)
	l.until("direct", on(agent.PathDirect, a, b))
	s := l.stream(a, b, 10*time.Millisecond)
	s.arrives(l)
	for _, n := range []*labNode{a, b} {
		o := a
		if n == a {
			o = b
		}
		before, _ := n.agent.Status(labNet)
		n.stop()
		s.arrives(l) // nobody is there but the kernel
		n.start()
		l.ensure(a, b)
		l.until("a new exchange", func() bool { return !n.peer(o).PSK.IsZero() })
		after, _ := n.agent.Status(labNet)
		if after.Devices[0].PublicKey != before.Devices[0].PublicKey || after.Devices[0].Port != before.Devices[0].Port {
			t.Errorf("another device: %+v, before %+v", after.Devices[0], before.Devices[0])
		}
		if !after.Peers[0].Handshake.Equal(before.Peers[0].Handshake) {
			t.Errorf("another handshake: %v, before %v", after.Peers[0].Handshake, before.Peers[0].Handshake)
		}
		l.until("direct", on(agent.PathDirect, a, b))
		s.arrives(l)
	}
	if lost := s.end(); len(lost) > 0 {
		t.Errorf("%d of %d datagrams were lost: %v", len(lost), s.sent.Load(), lost[:min(len(lost), 20)])
	}
}

func TestKernelDeletedDeviceIsMadeAgain(t *testing.T) { deleted(t, wireguard.Kernel) }

func TestKernelAndUserspaceMeet(t *testing.T) {
	l := newLab(t)
	a := l.nodeWith(wireguard.Kernel, 1, l.Host("a", l.internet), agent.Periods{})
	b := l.nodeWith(wireguard.Userspace, 2, l.Host("b", l.internet), agent.Periods{})
	l.ensure(a, b)
	s := l.stream(a, b, 10*time.Millisecond)
	s.arrives(l)
	l.until("direct", on(agent.PathDirect, a, b))
	s.arrives(l)
	s.end()
}
