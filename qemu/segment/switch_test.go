package segment

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	nodeMAC    = MAC{0x52, 0x54, 0, 0, 0, 1}
	gatewayMAC = MAC{0x52, 0x55, 10, 0, 2, 2}
	peerMAC    = MAC{2, 0, 0, 0, 0, 9}
)

func frame(dst, src MAC, payload string) []byte {
	f := append(append(append([]byte{}, dst[:]...), src[:]...), 0x88, 0xb5)
	return append(f, payload...)
}

// end is one end of a port, as the machine or a peer holds it.
type end struct {
	t *testing.T
	net.Conn
}

func (e end) send(f []byte) {
	e.t.Helper()
	if _, err := e.Write(AppendFrame(nil, f)); err != nil {
		e.t.Fatal(err)
	}
}

func (e end) want(payload string) {
	e.t.Helper()
	_ = e.SetReadDeadline(time.Now().Add(5 * time.Second))
	f, err := ReadFrame(e)
	if err != nil {
		e.t.Fatalf("waiting for %q: %v", payload, err)
	}
	if got := string(f[headerSize:]); got != payload {
		e.t.Fatalf("got %q, want %q", got, payload)
	}
}

type lab struct {
	*Switch
	node, gateway end
	path          string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{Switch: New(), path: filepath.Join(t.TempDir(), strings.Repeat("long-directory-name-", 6))}
	if err := os.Mkdir(l.path, 0o700); err != nil {
		t.Fatal(err)
	}
	l.path += "/segment"
	for _, p := range []struct {
		e    *end
		kind Kind
	}{{&l.node, Node}, {&l.gateway, Gateway}} {
		a, b := net.Pipe()
		p.e.t, p.e.Conn = t, b
		if err := l.Attach(a, p.kind); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Listen(l.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(l.path); !os.IsNotExist(err) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	// Both become known, as they do when a machine asks for its address.
	l.node.send(frame(broadcast, nodeMAC, "who"))
	l.gateway.want("who")
	l.gateway.send(frame(nodeMAC, gatewayMAC, "me"))
	l.node.want("me")
	return l
}

func (l *lab) dial(t *testing.T) end {
	t.Helper()
	c, err := Dial(l.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return end{t, c}
}

func TestPeerIsANeighbour(t *testing.T) {
	l := newLab(t)
	p := l.dial(t)
	p.send(frame(broadcast, peerMAC, "hello all"))
	l.node.want("hello all")
	l.gateway.want("hello all")
	p.send(frame(nodeMAC, peerMAC, "hello node"))
	l.node.want("hello node")
	l.node.send(frame(peerMAC, nodeMAC, "hello peer"))
	p.want("hello peer")
	// The gateway got none of the last two: the next it sees is this.
	l.node.send(frame(gatewayMAC, nodeMAC, "hello gateway"))
	l.gateway.want("hello gateway")
}

func TestGatewayGetsNothingThatIsForNobody(t *testing.T) {
	l := newLab(t)
	p := l.dial(t)
	p.send(frame(MAC{2, 9, 9, 9, 9, 9}, peerMAC, "to an unknown"))
	l.node.want("to an unknown")
	p.send(frame(broadcast, peerMAC, "to all"))
	l.gateway.want("to all")
}

func TestPeersComeAndGo(t *testing.T) {
	l := newLab(t)
	for i := range 20 {
		p := l.dial(t)
		p.send(frame(nodeMAC, peerMAC, fmt.Sprint(i)))
		l.node.want(fmt.Sprint(i))
		// Answered to the peer that is there now, although its address was
		// learned on the one before.
		l.node.send(frame(peerMAC, nodeMAC, "re "+fmt.Sprint(i)))
		p.want("re " + fmt.Sprint(i))
		p.Close()
	}
	l.node.send(frame(gatewayMAC, nodeMAC, "after"))
	l.gateway.want("after")
}

func TestPeerThatDoesNotReadHoldsUpNobody(t *testing.T) {
	l := newLab(t)
	p := l.dial(t)
	p.send(frame(nodeMAC, peerMAC, "I am here"))
	l.node.want("I am here")
	big := strings.Repeat("x", 1400)
	for range 5000 { // far more than the socket and the queue hold
		l.node.send(frame(peerMAC, nodeMAC, big))
	}
	l.node.send(frame(gatewayMAC, nodeMAC, "still served"))
	l.gateway.want("still served")
}

func TestPeerCannotTakeTheNodesAddress(t *testing.T) {
	l := newLab(t)
	thief, honest := l.dial(t), l.dial(t)
	thief.send(frame(broadcast, nodeMAC, "I am the node"))
	l.gateway.want("I am the node")
	l.node.want("I am the node")
	honest.want("I am the node")
	honest.send(frame(nodeMAC, peerMAC, "for the node"))
	l.node.want("for the node")
}

func TestNonsenseEndsOnlyThePeerThatSendsIt(t *testing.T) {
	l := newLab(t)
	p := l.dial(t)
	if _, err := p.Write(bytes.Repeat([]byte{0xff}, 64)); err != nil {
		t.Fatal(err)
	}
	_ = p.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := p.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("a peer that sends no frames is kept: %v", err)
	}
	q := l.dial(t)
	q.send(frame(nodeMAC, peerMAC, "next"))
	l.node.want("next")
}

func TestPeersAreBounded(t *testing.T) {
	l := newLab(t)
	for range maxPeers {
		p := l.dial(t)
		p.send(frame(nodeMAC, peerMAC, "in"))
		l.node.want("in")
	}
	p := l.dial(t)
	_ = p.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := p.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("one peer too many is kept: %v", err)
	}
}

func TestLearnedAddressesAreBounded(t *testing.T) {
	l := newLab(t)
	p := l.dial(t)
	go func() {
		for i := range maxLearned * 2 {
			_, _ = p.Write(AppendFrame(nil, frame(nodeMAC, MAC{2, 1, 0, byte(i >> 16), byte(i >> 8), byte(i)}, "x")))
		}
		_, _ = p.Write(AppendFrame(nil, frame(nodeMAC, peerMAC, "end")))
	}()
	_ = l.node.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		f, err := ReadFrame(l.node)
		if err != nil {
			t.Fatal(err)
		}
		if string(f[headerSize:]) == "end" {
			break
		}
	}
	l.mu.Lock()
	n := len(l.learned)
	l.mu.Unlock()
	if n > maxLearned {
		t.Errorf("%d addresses are kept, at most %d", n, maxLearned)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(AppendFrame(nil, frame(nodeMAC, peerMAC, "x")))
	f.Add([]byte{0, 0, 0, 1, 9, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			f, err := ReadFrame(r)
			if err != nil {
				return
			}
			if len(f) < headerSize || len(f) > MaxFrame {
				t.Fatalf("frame of %d bytes", len(f))
			}
		}
	})
}
