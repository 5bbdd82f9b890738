package server_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/rendezvoustest"
	"github.com/zero-os/zos/rendezvous/wire"
)

// bareUDP is a client's datagrams, made by hand.
type bareUDP struct {
	t      testing.TB
	slot   canon.Hash
	conn   *net.UDPConn
	sealer *wire.Sealer
	opener *wire.Opener
}

// udp logs in as m, and tells the server that datagrams pass.
func (b *bare) udp(w *rendezvoustest.World, m rendezvoustest.Member, url string) *bareUDP {
	b.t.Helper()
	ty, session := b.login(b.statement(w, m), m.Signer)
	if ty != wire.Welcome {
		b.t.Fatalf("login: %d %q", ty, session)
	}
	ours, theirs, err := wire.DatagramKeys(b.conn)
	must(b.t, err)
	u := &bareUDP{t: b.t, slot: m.Slot}
	u.sealer, err = wire.NewSealer([wire.SessionSize]byte(session), ours)
	must(b.t, err)
	u.opener, err = wire.NewOpener(theirs)
	must(b.t, err)
	a, err := rendezvous.ParseURL(url)
	must(b.t, err)
	u.conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(a.Host)))
	must(b.t, err)
	b.t.Cleanup(func() { u.conn.Close() })
	must(b.t, u.conn.SetDeadline(time.Now().Add(30*time.Second)))
	ping := make([]byte, 10)
	binary.BigEndian.PutUint16(ping[8:], wire.MaxDatagram)
	_, err = u.conn.Write(u.seal(wire.Ping, ping))
	must(b.t, err)
	if ty, _ := u.next(); ty != wire.Pong {
		b.t.Fatalf("the answer to a ping is of type %d", ty)
	}
	return u
}

func (u *bareUDP) seal(ty wire.Type, body []byte) []byte {
	d := make([]byte, wire.Overhead+len(body))
	u.sealer.Seal(d, new(wire.Nonce), ty, body, nil)
	return d
}

func (u *bareUDP) next() (wire.Type, []byte) {
	u.t.Helper()
	d := make([]byte, wire.MaxDatagram)
	n, err := u.conn.Read(d)
	must(u.t, err)
	ty, body, _, err := u.opener.Open(d[:n])
	must(u.t, err)
	return ty, body
}

// TestBatchIsForManyAndLosesOnlyWhatIsBad: a client's datagrams that arrive at
// once go to more clients than the server gathers for at once; those that are
// altered, doubled or for nobody harm no other.
func TestBatchIsForManyAndLosesOnlyWhatIsBad(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(t)
	join := func(name string) *bareUDP {
		return dial(t, s.URL()).udp(w, w.Join(t, name), s.URL())
	}
	a := join("a")
	var others []*bareUDP
	for i := range 10 {
		others = append(others, join(fmt.Sprint("other", i)))
	}
	want := make([][]string, len(others))
	var batch wire.Gather
	var buffers wire.Buffers
	add := func(d []byte) {
		t.Helper()
		if copy(batch.Add(&buffers, len(d)), d) != len(d) {
			t.Fatal("the batch is too small for this test")
		}
	}
	for round := range 3 {
		for i, o := range others {
			text := fmt.Sprintf("packet %d to %d", round, i)
			d := a.seal(wire.Send, append(bytes.Clone(o.slot[:]), text...))
			switch {
			case round == 1 && i == 3: // altered
				d[len(d)-1] ^= 1
				add(d)
			case round == 1 && i == 5: // doubled
				add(d)
				add(d)
				want[i] = append(want[i], text)
			default:
				add(d)
				want[i] = append(want[i], text)
			}
		}
		add(a.seal(wire.Send, append(bytes.Clone(nobody[:]), "a packet to nobody"...)))
	}
	batch.Write(a.conn, netip.AddrPort{}, new(wire.Segmenter), &buffers)
	for i, o := range others {
		for _, text := range want[i] {
			ty, body := o.next()
			from, packet, err := wire.Packet(body)
			if ty != wire.Recv || err != nil || from != a.slot || string(packet) != text {
				t.Fatalf("client %d: have type %d from %s, %q, %v; want %q", i, ty, from.Short(), packet, err, text)
			}
		}
	}
	// A last one to each shows that nothing more came before it.
	for i, o := range others {
		_, err := a.conn.Write(a.seal(wire.Send, append(bytes.Clone(o.slot[:]), "the last"...)))
		must(t, err)
		if _, body := o.next(); !bytes.HasSuffix(body, []byte("the last")) {
			t.Errorf("client %d got more: %q", i, body)
		}
	}
}
