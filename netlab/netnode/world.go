package netnode

import (
	"fmt"
	"os"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/network/agent"
)

// World is a laboratory with an internet, and rendezvous servers on it.
type World struct {
	TB       netlab.TB
	Lab      *netlab.Lab
	Internet *netlab.Segment
	Servers  []*Server
}

// NewWorld starts the laboratory and a cluster of so many servers.
func NewWorld(tb netlab.TB, servers int) *World {
	tb.Helper()
	w := &World{TB: tb, Lab: netlab.New(tb)}
	w.Internet = w.Lab.Segment("internet", "198.18.0.0/16", "2001:db8::/64")
	for i := range servers {
		w.Servers = append(w.Servers, w.Server(fmt.Sprintf("rendezvous%d", i+1), w.Internet))
	}
	if servers > 1 {
		Join(tb, w.Servers...)
	}
	return w
}

// Server starts one more server, on a host of its own, that no other knows.
func (w *World) Server(name string, s *netlab.Segment) *Server {
	w.TB.Helper()
	h := w.Lab.Host(name, s)
	return StartServer(w.TB, h, ServerConfig{Listen: h.AddrPort(443).String(), CertDir: w.Dir()})
}

// Restart starts a server that has ended, with the address and key it had.
func (w *World) Restart(s *Server) *Server {
	w.TB.Helper()
	again := StartServer(w.TB, s.Host, s.Config)
	if again.URL != s.URL {
		w.TB.Fatalf("netnode: a server came back as %s, was %s", again.URL, s.URL)
	}
	for _, o := range w.Servers {
		if o != s {
			again.must("route", o.URL, nil)
		}
	}
	return again
}

// Dir is a directory that goes with the world.
func (w *World) Dir() string {
	w.TB.Helper()
	dir, err := os.MkdirTemp("", "netnode-")
	if err != nil {
		w.TB.Fatalf("netnode: %v", err)
	}
	w.TB.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			w.TB.Errorf("netnode: %v", err)
		}
	})
	return dir
}

// URLs are those of the world's servers.
func (w *World) URLs() []string {
	var all []string
	for _, s := range w.Servers {
		all = append(all, s.URL)
	}
	return all
}

// Node starts node number i on a host, of all servers unless changed.
func (w *World) Node(i int, h *netlab.Host, change ...func(*Config)) *Node {
	w.TB.Helper()
	c := Config{Number: i, Servers: w.URLs()}
	for _, f := range change {
		f(&c)
	}
	return StartNode(w.TB, h, c)
}

// Peer is how node n sees the node of another number in a network.
func (n *Node) Peer(id canon.Hash, number int) agent.PeerStatus {
	n.tb.Helper()
	for _, s := range n.Status(id).Networks {
		for _, p := range s.Peers {
			if p.Slot == Slot(number) {
				return p
			}
		}
	}
	return agent.PeerStatus{}
}
