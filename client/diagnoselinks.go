package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
)

// keys: both nodes know each other's newest key, and agreed a post-quantum one.
func (d *diagnosis) keys() finding {
	slotA, slotB := d.a.Workload.Slot, d.b.Workload.Slot
	for _, end := range []struct {
		slot canon.Hash
		at   *protocol.Network
	}{{slotA, &d.atA}, {slotB, &d.atB}} {
		node := d.Names.Of(end.slot)
		v, asked := d.Views[end.slot]
		switch {
		case !asked:
			return broken("ask as a member of the contract's group: --as NAME", "node %s was not asked", node)
		case v.Err != nil:
			return broken(orElse(problem.Fix(v.Err), "see how it is: zos node show "+node), "node %s does not answer%s", node, silence(end.slot, v.Err))
		}
		at, ok := v.Network(d.network)
		if !ok || len(at.Keys) == 0 {
			return broken("wait a moment; if it stays so: zos node show "+node, "node %s has no device for network %s yet", node, d.network)
		}
		*end.at = at
	}
	if slotA == slotB {
		return good("both are on %s: their packets do not leave it, no key is needed", d.nameA)
	}
	if edges, err := network.EdgesOf(d.Plan, d.network); err == nil && !edges.Meet(slotA, slotB) {
		if unreached := d.unreached(); unreached.fix != "" {
			return unreached
		}
		return broken(d.publish(), "%s and %s do not know each other: one carries nothing but gateways, and none of their routes leads to the other", d.nameA, d.nameB)
	}
	for _, side := range []struct {
		self, other  string
		slot         canon.Hash // of the other
		mine, theirs protocol.Network
		peer         *protocol.NetworkPeer
	}{{d.nameA, d.nameB, slotB, d.atA, d.atB, &d.toB}, {d.nameB, d.nameA, slotA, d.atB, d.atA, &d.toA}} {
		peer, ok := peerOf(side.mine, side.slot)
		*side.peer = peer
		if fault := knows(side.self, side.other, peer, ok, side.theirs.Keys); fault.fix != "" {
			return fault
		}
	}
	quantum := "of an earlier run of the daemon"
	if d.toB.PSK != nil {
		quantum = "of " + span(d.toB.PSK) + " ago"
	}
	return good("each knows the other's: %s epoch %d, %s epoch %d; post-quantum key %s",
		d.nameA, newest(d.atA).Epoch, d.nameB, newest(d.atB).Epoch, quantum)
}

// silence is why a node does not answer, for behind just these words; nothing if all
// there is to say is that no answer came in time.
func silence(slot canon.Hash, err error) string {
	why := strings.TrimPrefix(err.Error(), "node "+slot.Short()+" does not answer: ")
	if problem.Code(err) == "node-silent" && errors.Is(err, context.DeadlineExceeded) && !strings.Contains(why, "last refused") {
		return ""
	}
	return ": " + why
}

func newest(n protocol.Network) protocol.NetworkKey { return n.Keys[len(n.Keys)-1] }

// maxPSKAge is past the time at which a node overwrites a key that it could not
// renew.
const maxPSKAge = 35 * time.Minute

// knows tells whether one node has a key that the other uses.
func knows(self, other string, peer protocol.NetworkPeer, ok bool, keys []protocol.NetworkKey) finding {
	why := ""
	if peer.Message != "" {
		why = ": " + peer.Message
	}
	const exchange = "keys are exchanged over the bus: check that both nodes reach it with zos node show"
	if peer.Code == "psk-expired" {
		return broken(exchange, "the post-quantum key of %s and %s could not be renewed and is void%s", self, other, why)
	}
	// A daemon that has just started again finds sessions in the kernel, and learns
	// their keys and ages a moment later.
	session := peer.State == protocol.PeerUp
	if session && peer.Epoch == 0 {
		return finding{}
	}
	if !ok || peer.Epoch == 0 {
		return broken(exchange, "%s has no key of %s yet%s", self, other, why)
	}
	used := slices.IndexFunc(keys, func(k protocol.NetworkKey) bool { return bytes.Equal(k.PublicKey, peer.PublicKey) })
	switch {
	case used < 0:
		return broken(exchange, "%s has a key of %s of epoch %d, and %s uses epoch %d%s", self, other, peer.Epoch, other, keys[len(keys)-1].Epoch, why)
	case keys[used].Epoch != peer.Epoch:
		return broken("report this: the two nodes disagree about one key", "%s takes the key of %s for epoch %d, and it is of epoch %d", self, other, peer.Epoch, keys[used].Epoch)
	case peer.PSK == nil && session:
		return finding{}
	case peer.PSK == nil:
		return broken(exchange, "%s and %s have not agreed a post-quantum key yet%s", self, other, why)
	case peer.PSK.Seconds > uint64(maxPSKAge/time.Second):
		return broken(exchange, "the post-quantum key of %s and %s is %s old, and none that old is used%s", self, other, span(peer.PSK), why)
	}
	return finding{}
}

// path: packets get through in both directions.
func (d *diagnosis) path() finding {
	if d.a.Workload.Slot == d.b.Workload.Slot {
		return good("both are on %s, behind one router", d.nameA)
	}
	for _, side := range []struct {
		self, other string
		peer        protocol.NetworkPeer
	}{{d.nameA, d.nameB, d.toB}, {d.nameB, d.nameA, d.toA}} {
		if side.peer.State == protocol.PeerUp && side.peer.Path != "" {
			continue
		}
		detail := fmt.Sprintf("%s has had no handshake with %s", side.self, side.other)
		if h := side.peer.Handshake; h != nil {
			detail += fmt.Sprintf(" for %s", span(h))
		}
		if side.peer.Path != "" {
			detail += ", path: " + side.peer.Path
		} else {
			detail += ", and no path to it: no relay on which both are"
		}
		if side.peer.Message != "" {
			detail += ": " + side.peer.Message
		}
		return finding{detail, fmt.Sprintf("check that both reach the rendezvous servers: zos node show %s, zos node show %s", d.nameA, d.nameB)}
	}
	return good("%s to %s: %s, handshake %s ago; back: %s", d.nameA, d.nameB, d.toB.Path, span(d.toB.Handshake), d.toA.Path)
}

// span shows an age for people.
func span(a *protocol.Age) string {
	if a == nil {
		return "an unknown time" // a node may say anything
	}
	return (time.Duration(min(a.Seconds, 1<<31)) * time.Second).String()
}
