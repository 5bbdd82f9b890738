package bus

import (
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/seal"
)

// What the tests in package bus_test need of the inside: shorter times, and the
// tools of an attacker who knows the formats.

func (n *Node) SetLease(d time.Duration) { n.lease = d }

func (c *Client) SetLease(d time.Duration) { c.lease = d }

// Forget makes the client say hello again.
func (c *Client) Forget(slot canon.Hash) { c.forget(slot) }

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
