package bus

import (
	"context"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/seal"
)

// What the tests in package bus_test need of the inside: shorter times, and the
// tools of an attacker who knows the formats.

func (n *Node) SetLease(d time.Duration) { n.lease = d }

func (c *Client) SetLease(d time.Duration) { c.lease = d }

// WithPing makes a Conn look after its links more often.
func WithPing(cfg ConnConfig, d time.Duration) ConnConfig {
	cfg.ping = d
	return cfg
}

// Forget makes the client say hello again.
func (c *Client) Forget(slot canon.Hash) { c.forget(slot) }

// PeerPerCaller is how many calls of one node are answered at once.
const PeerPerCaller = peerPerCaller

// Sweep forgets at once what has expired.
func (p *Peers) Sweep() { p.sweep() }

type (
	PeerOpened = peerOpened
	PeerCall   = peerCall
)

func (o peerOpened) Hash() canon.Hash { return o.hash }

func OpenPeerCall(key *seal.PrivateKey, grid, slot canon.Hash, epoch uint64, data []byte) (PeerOpened, error) {
	return openPeerCall(key, grid, slot, epoch, data)
}

// InnerPeerCall returns what is inside a sealed request.
func InnerPeerCall(key *seal.PrivateKey, grid, slot canon.Hash, epoch uint64, data []byte) (c PeerCall, err error) {
	plain, err := key.Open(peerInfo(grid, slot, epoch), data)
	if err == nil {
		err = canon.Unmarshal(plain, &c)
	}
	return c, err
}

func SealPeerCall(to Binding, grid, slot canon.Hash, c PeerCall) ([]byte, error) {
	return sealPeerCall(to, grid, slot, c)
}

// SealPeerReply seals a reply to an opened request.
func SealPeerReply(grid canon.Hash, o PeerOpened, r contract.Signed, body []byte) ([]byte, error) {
	return sealPeerReply(peerAsked{grid: grid, self: o.From, slot: o.To, request: o.hash, replyKey: o.ReplyKey}, peerAnswer{r, body})
}

// Opened is what the intended receiver of a request learns.
type Opened = opened

func OpenCall(key *seal.PrivateKey, grid, slot canon.Hash, epoch uint64, data []byte) (Opened, error) {
	return openCall(key, grid, slot, epoch, data)
}

func SealCall(to Binding, grid, slot canon.Hash, request contract.Signed) ([]byte, error) {
	return sealCall(to, grid, slot, call{Request: request})
}

// InnerCall returns the signed request inside a sealed one.
func InnerCall(key *seal.PrivateKey, grid, slot canon.Hash, epoch uint64, data []byte) (contract.Signed, error) {
	plain, err := key.Open(requestInfo(grid, slot, epoch), data)
	if err != nil {
		return contract.Signed{}, err
	}
	var c call
	err = canon.Unmarshal(plain, &c)
	return c.Request, err
}

func (o Opened) Hash() canon.Hash { return o.hash }

func SealReply(to []byte, request canon.Hash, r contract.Signed, body []byte) ([]byte, error) {
	return sealReply(to, request, chunk{r, body})
}

func SealSessionCall(to Binding, grid, slot canon.Hash, request, session contract.Signed) ([]byte, error) {
	return sealCall(to, grid, slot, call{Request: request, Session: []contract.Signed{session}})
}

// DuplexBySession is Duplex of a client that ignores what a session may.
func (c *Client) DuplexBySession(ctx context.Context, a Ask) (*Dialog, error) {
	a, err := act(a, make([]byte, secretSize))
	if err != nil {
		return nil, err
	}
	s, err := c.send(ctx, a)
	if err != nil {
		return nil, err
	}
	defer s.shut()
	_, err = s.until(ctx, func(Reply, []byte) (bool, error) { return true, nil })
	return nil, err
}
