package rendezvoustest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/server"
	"github.com/zero-os/zos/sign"
)

// PacketSize is that of the packets that are measured: a full WireGuard message
// of a device with MTU 1420.
const PacketSize = 1452

// onTheWay is how many packets are sent before some have arrived: as many as the
// queues hold, so that none is dropped and what is sent is what is measured.
const onTheWay = 128

// Rate is what a relay passed on between two clients, all in this process and on
// loopback.
type Rate struct {
	BytesPerSecond float64
	CPUPerGB       float64 // seconds of processor time of everybody, per 10^9 bytes
	Lost           int
}

// Ratio measures the relay and a plain TCP relay in turn, several times, and
// returns the best of each: on a machine with other work, the best is what says
// most. relayOnly is TLS, else UDP.
func Ratio(ctx context.Context, rounds int, each time.Duration, relayOnly bool) (relay, plain Rate, err error) {
	for range rounds {
		r, err := RelayRate(ctx, each, relayOnly)
		if err != nil {
			return relay, plain, err
		}
		p, err := PlainRate(ctx, each)
		if err != nil {
			return relay, plain, err
		}
		relay, plain = better(relay, r), better(plain, p)
	}
	return relay, plain, nil
}

func better(a, b Rate) Rate {
	if b.BytesPerSecond > a.BytesPerSecond {
		a.BytesPerSecond, a.Lost = b.BytesPerSecond, b.Lost
	}
	if a.CPUPerGB == 0 || b.CPUPerGB < a.CPUPerGB {
		a.CPUPerGB = b.CPUPerGB
	}
	return a
}

// RelayRate sends packets from one client to another through a server for a
// while.
func RelayRate(ctx context.Context, d time.Duration, relayOnly bool) (_ Rate, err error) {
	dir, err := os.MkdirTemp("", "zos-relay-rate-")
	if err != nil {
		return Rate{}, err
	}
	defer os.RemoveAll(dir)
	grid := canon.Sum([]byte("grid"))
	keys := map[canon.Hash]sign.Signer{canon.Sum([]byte("a")): nil, canon.Sum([]byte("b")): nil}
	for slot := range keys {
		if _, keys[slot], err = sign.Generate(); err != nil {
			return Rate{}, err
		}
	}
	s, err := server.Serve(ctx, server.Config{
		CertDir: dir, Grid: grid, Limits: server.Limits{Rate: -1},
		Bound: func(_ context.Context, slot canon.Hash) (bus.Binding, error) {
			return bus.Binding{Epoch: 1, SigningKey: keys[slot].Public()}, nil
		},
	})
	if err != nil {
		return Rate{}, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	var got atomic.Int64
	room := make(chan struct{}, 1)
	connect := func(slot canon.Hash) (*rendezvous.Client, error) {
		return rendezvous.Connect(rendezvous.ClientConfig{
			URLs: []string{s.URL()}, Grid: grid, Slot: slot, Epoch: 1, Signer: keys[slot], RelayOnly: relayOnly,
			OnPacket: func(canon.Hash, []byte) {
				if got.Add(1)%(onTheWay/4) == 0 {
					select {
					case room <- struct{}{}:
					default:
					}
				}
			},
		})
	}
	to := canon.Sum([]byte("b"))
	sender, err := connect(canon.Sum([]byte("a")))
	if err != nil {
		return Rate{}, err
	}
	defer sender.Close()
	receiver, err := connect(to)
	if err != nil {
		return Rate{}, err
	}
	defer receiver.Close()

	// Warm up until the way is known: packets no longer come twice.
	packet := make([]byte, PacketSize)
	ready := func(c *rendezvous.Client) bool { l := c.Links()[0]; return l.Up && l.UDP != relayOnly }
	deadline := time.Now().Add(30 * time.Second)
	for got.Load() == 0 || !ready(sender) || !ready(receiver) {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return Rate{}, fmt.Errorf("measure the relay: its clients did not meet: %+v, %+v", sender.Links(), receiver.Links())
		}
		sender.Send(to, packet)
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return measure(ctx, d, func(end time.Time) (int64, int, error) {
		start, sent, lost := got.Load(), int64(0), 0
		for time.Now().Before(end) && ctx.Err() == nil {
			for sent-(got.Load()-start) < onTheWay {
				sender.Send(to, packet)
				sent++
			}
			select {
			case <-room:
			case <-time.After(time.Second):
				arrived := got.Load() - start
				lost += int(sent - arrived)
				sent = arrived
			}
		}
		return got.Load() - start, lost, ctx.Err()
	})
}

// PlainRate is what the relay is compared with: the same packets, each with its
// length, through a server that copies bytes from one TCP connection to another
// and does nothing else.
func PlainRate(ctx context.Context, d time.Duration) (Rate, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return Rate{}, err
	}
	defer ln.Close()
	var ends [4]net.Conn // sender, its server side, receiver, its server side
	defer func() {
		for _, c := range ends {
			if c != nil {
				c.Close()
			}
		}
	}()
	for i := 0; i < len(ends); i += 2 {
		if ends[i], err = net.Dial("tcp", ln.Addr().String()); err != nil {
			return Rate{}, err
		}
		if ends[i+1], err = ln.Accept(); err != nil {
			return Rate{}, err
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { ends[0].Close(); ends[2].Close() }() // ends the others in turn
	wg.Go(func() {
		defer ends[3].Close()
		io.CopyBuffer(struct{ io.Writer }{ends[3]}, struct{ io.Reader }{ends[1]}, make([]byte, 64<<10))
	})
	wg.Go(func() {
		packet := make([]byte, 2+PacketSize)
		binary.BigEndian.PutUint16(packet, PacketSize)
		w := bufio.NewWriterSize(ends[0], 16<<10)
		for {
			if _, err := w.Write(packet); err != nil {
				return
			}
		}
	})
	r := bufio.NewReaderSize(ends[2], 16<<10)
	packet := make([]byte, PacketSize)
	return measure(ctx, d, func(end time.Time) (n int64, _ int, _ error) {
		for ; n%64 != 0 || time.Now().Before(end); n++ {
			var head [2]byte
			if _, err := io.ReadFull(r, head[:]); err != nil {
				return n, 0, err
			}
			if _, err := io.ReadFull(r, packet[:binary.BigEndian.Uint16(head[:])]); err != nil {
				return n, 0, err
			}
		}
		return n, 0, ctx.Err()
	})
}

// measure runs fn for d; it returns how many packets passed and were lost.
func measure(ctx context.Context, d time.Duration, fn func(end time.Time) (int64, int, error)) (Rate, error) {
	if err := ctx.Err(); err != nil {
		return Rate{}, err
	}
	cpu, err := processorTime()
	if err != nil {
		return Rate{}, err
	}
	began := time.Now()
	n, lost, err := fn(began.Add(d))
	took := time.Since(began)
	if err != nil {
		return Rate{}, fmt.Errorf("measure a relay: %w", err)
	}
	after, err := processorTime()
	if err != nil {
		return Rate{}, err
	}
	bytes := float64(n) * PacketSize
	if bytes == 0 {
		return Rate{}, errors.New("measure a relay: nothing passed")
	}
	return Rate{bytes / took.Seconds(), (after - cpu).Seconds() / (bytes / 1e9), lost}, nil
}

func processorTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
