package rendezvous_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/rendezvoustest"
	"github.com/zero-os/zos/rendezvous/server"
)

// packetSize is a full WireGuard message of a device with MTU 1420.
const packetSize = 1452

// window is how many packets the benchmarks keep on the way, so that nothing is
// dropped and what is sent is what is measured.
const window = 128

func BenchmarkRelayTLS(b *testing.B) { benchRelay(b, true) }

func BenchmarkRelayUDP(b *testing.B) { benchRelay(b, false) }

func benchRelay(b *testing.B, tls bool) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(b, func(c *server.Config) { c.Limits.Rate = -1 })
	ma, mb := w.Join(b, "a"), w.Join(b, "b")
	var got atomic.Int64
	room := make(chan struct{}, 1)
	cb := w.Config(mb, s.URL())
	cb.RelayOnly = tls
	cb.OnPacket = func(canon.Hash, []byte) {
		if got.Add(1)%(window/4) == 0 {
			select {
			case room <- struct{}{}:
			default:
			}
		}
	}
	ca := w.Config(ma, s.URL())
	ca.RelayOnly = tls
	receiver, err := rendezvous.Connect(cb)
	if err != nil {
		b.Fatal(err)
	}
	defer receiver.Close()
	sender, err := rendezvous.Connect(ca)
	if err != nil {
		b.Fatal(err)
	}
	defer sender.Close()
	packet := make([]byte, packetSize)
	rendezvoustest.Until(b, "both are connected", func() bool {
		for _, c := range []*rendezvous.Client{sender, receiver} {
			if l := c.Links()[0]; !l.Up || !tls && !l.UDP {
				return false
			}
		}
		sender.Send(mb.Slot, packet)
		return got.Load() > 0
	})
	time.Sleep(100 * time.Millisecond) // what was sent to connect arrives
	b.SetBytes(packetSize)
	b.ReportAllocs()
	start, sent, lost := got.Load(), int64(0), int64(0)
	b.ResetTimer()
	for got.Load()-start < int64(b.N) {
		if sent-(got.Load()-start) < window {
			sender.Send(mb.Slot, packet)
			sent++
			continue
		}
		select {
		case <-room:
		case <-time.After(time.Second):
			now := got.Load() - start // some were lost: they are not counted
			lost += sent - now
			sent = now
		}
	}
	b.ReportMetric(float64(lost), "lost")
}

// BenchmarkPlainTCPRelay is what the relay is compared with: the same packets,
// each with a length, through a server that copies bytes from one TCP connection
// to another, without encryption or anything else.
func BenchmarkPlainTCPRelay(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go func() {
		in, err := ln.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		out, err := ln.Accept()
		if err != nil {
			return
		}
		defer out.Close()
		io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 64<<10))
	}()
	sender, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer sender.Close()
	receiver, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer receiver.Close()
	b.SetBytes(packetSize)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		w := bufio.NewWriterSize(sender, 16<<10)
		packet := make([]byte, 2+packetSize)
		binary.BigEndian.PutUint16(packet, packetSize)
		for range b.N {
			w.Write(packet)
		}
		w.Flush()
	}()
	r := bufio.NewReaderSize(receiver, 16<<10)
	packet := make([]byte, packetSize)
	for range b.N {
		var head [2]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(r, packet); err != nil {
			b.Fatal(err)
		}
	}
}
