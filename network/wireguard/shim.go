package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// shim is how a peer of a kernel device is reached through the relay: the
// kernel always sends to an address, and this is one, on the host's loopback.
// Its socket is connected to the device's port, so it hears nobody else.
type shim struct {
	addr netip.AddrPort // what the kernel takes for the peer
	conn *net.UDPConn
	done chan struct{}
}

// shimBatch is how many packets are read at once: 64 KiB of buffers per peer.
const shimBatch = 32

// shimBuffer is what may wait in the kernel for the relay, bytes as it counts.
const shimBuffer = 4 << 20

func openShim(host int, device uint16, toRelay func([]byte), logger *slog.Logger) (*shim, error) {
	s := &shim{done: make(chan struct{})}
	err := within(host, func() error {
		dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				// A TCP sender's window arrives at once: the default has room for 90
				// packets, and what is lost here costs its connection most of its speed.
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, shimBuffer)
			})
		}}
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), device)
		conn, err := dialer.DialContext(context.Background(), "udp4", to.String())
		if err != nil {
			return fmt.Errorf("open the loopback socket for a relayed peer: %w", err)
		}
		s.conn = conn.(*net.UDPConn)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.addr = s.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	go s.run(toRelay, logger)
	return s, nil
}

// run gives the relay what the kernel sends, until the shim is closed.
func (s *shim) run(toRelay func([]byte), logger *slog.Logger) {
	defer close(s.done)
	messages := make([]ipv4.Message, shimBatch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, MaxPacket)}
	}
	batch := ipv4.NewPacketConn(s.conn)
	for {
		n, err := batch.ReadBatch(messages, 0)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Told once for every packet that the device's port refused: the
			// interface is down or gone.
			logger.Debug("loopback socket of a relayed peer", "error", err)
			if !errors.Is(err, errRefused) {
				time.Sleep(time.Second) // of no known kind: it must not spin
			}
			continue
		}
		for i := range n {
			toRelay(messages[i].Buffers[0][:messages[i].N])
		}
	}
}

// send gives the kernel a packet that the relay brought. What it does not take
// is lost, as on any link.
func (s *shim) send(packet []byte) { s.conn.Write(packet) }

func (s *shim) close() {
	s.conn.Close()
	<-s.done
}
