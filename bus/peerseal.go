package bus

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// peerInfo binds a sealed request of a node to what it is for. The caller stands
// in the signed bytes: who opens cannot know him before.
func peerInfo(grid, to canon.Hash, epoch uint64) []byte {
	return sealInfo("peer-request\x00", grid, to, epoch)
}

// peerOpened is a request whose one signature holds. Nothing else is judged.
type peerOpened struct {
	PeerRequest
	hash   canon.Hash
	signer sign.PublicKey
	body   []byte
}

// sealPeerCall seals a signed request to the callee.
func sealPeerCall(to Binding, grid, slot canon.Hash, c peerCall) ([]byte, error) {
	plain, err := canon.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode peer request: %w", err)
	}
	return seal.Seal(to.SealingKey, peerInfo(grid, slot, to.Epoch), plain)
}

func openPeerCall(key *seal.PrivateKey, grid, slot canon.Hash, epoch uint64, data []byte) (peerOpened, error) {
	if len(data) > maxPeer {
		return peerOpened{}, problem.New("request-invalid", "open peer request: %d bytes, at most %d are allowed", len(data), maxPeer)
	}
	plain, err := key.Open(peerInfo(grid, slot, epoch), data)
	if err != nil {
		return peerOpened{}, fmt.Errorf("open peer request: %w", err)
	}
	return decodePeerCall(grid, plain)
}

// decodePeerCall verifies the signature inside an opened request, and that the
// body is the signed one.
func decodePeerCall(grid canon.Hash, plain []byte) (peerOpened, error) {
	var c peerCall
	if err := canon.UnmarshalLimit(plain, maxPeer, &c); err != nil {
		return peerOpened{}, problem.New("request-invalid", "decode peer request: %w", err)
	}
	if len(c.Body) > MaxPeerBody {
		return peerOpened{}, problem.New("request-invalid", "decode peer request: a body of %d bytes, at most %d are allowed", len(c.Body), MaxPeerBody)
	}
	r, hash, by, err := openOne[PeerRequest](c.Request, KindPeerRequest, grid)
	if err != nil {
		return peerOpened{}, fmt.Errorf("open peer request: %w", err)
	}
	if canon.Sum(c.Body) != r.Body {
		return peerOpened{}, problem.New("request-invalid", "open peer request: the body is not the signed one")
	}
	return peerOpened{PeerRequest: r, hash: hash, signer: by, body: c.Body}, nil
}

// replyVersion begins all sealed replies: HKDF-SHA256, AES-256-GCM.
const replyVersion = 1

// replyCipher encrypts the replies to one request. A reply needs no seal of its
// own: the request brought a key under the seal to the callee, so that a reply
// costs a thousandth, and stays as closed to a quantum computer as the request.
func replyCipher(replyKey []byte, grid, from, to, request canon.Hash) (cipher.AEAD, error) {
	info := "peer-reply\x00" + string(grid[:]) + string(from[:]) + string(to[:]) + string(request[:])
	key, err := hkdf.Key(sha256.New, replyKey, nil, info, 32)
	if err != nil {
		return nil, fmt.Errorf("derive reply key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive reply key: %w", err)
	}
	// A nonce of its own for each: an earlier and a later run may both answer.
	return cipher.NewGCMWithRandomNonce(block)
}

// peerAsked is what a reply must answer: the request, and who was called.
type peerAsked struct {
	grid     canon.Hash
	self     canon.Hash // who called
	slot     canon.Hash // who was called
	to       Binding    // by which keys
	request  canon.Hash
	replyKey []byte
}

func sealPeerReply(a peerAsked, answer peerAnswer) ([]byte, error) {
	plain, err := canon.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("encode peer reply: %w", err)
	}
	aead, err := replyCipher(a.replyKey, a.grid, a.slot, a.self, a.request)
	if err != nil {
		return nil, err
	}
	return aead.Seal([]byte{replyVersion}, nil, plain, nil), nil
}

func openPeerReply(a peerAsked, data []byte) (PeerReply, []byte, error) {
	if len(data) > maxPeer || len(data) == 0 || data[0] != replyVersion {
		return PeerReply{}, nil, problem.New("reply-invalid", "open peer reply: %d bytes in no known format", len(data))
	}
	aead, err := replyCipher(a.replyKey, a.grid, a.slot, a.self, a.request)
	if err != nil {
		return PeerReply{}, nil, err
	}
	plain, err := aead.Open(nil, nil, data[1:], nil)
	if err != nil {
		return PeerReply{}, nil, problem.New("unsealable", "open peer reply: it answers another request, or was altered")
	}
	return decodePeerReply(a, plain)
}

// decodePeerReply judges an opened reply: that the node in the slot that was
// called answers this request.
func decodePeerReply(a peerAsked, plain []byte) (PeerReply, []byte, error) {
	var c peerAnswer
	if err := canon.UnmarshalLimit(plain, maxPeer, &c); err != nil {
		return PeerReply{}, nil, problem.New("reply-invalid", "decode peer reply: %w", err)
	}
	r, _, by, err := openOne[PeerReply](c.Reply, KindPeerReply, a.grid)
	if err != nil {
		return PeerReply{}, nil, fmt.Errorf("open peer reply: %w", err)
	}
	switch {
	case !by.Equal(a.to.SigningKey):
		err = problem.New("reply-invalid", "open peer reply: signed by another key than the node's")
	case r.From != a.slot || r.Epoch != a.to.Epoch || r.To != a.self:
		err = problem.New("reply-invalid", "open peer reply: it is of another slot or epoch, or to another")
	case r.Request != a.request:
		err = problem.New("reply-invalid", "open peer reply: it answers another request")
	case len(r.Run) != NonceSize || r.Time > maxPeerTime:
		err = problem.New("reply-invalid", "open peer reply: its run or time is malformed")
	case len(c.Body) > MaxPeerBody || len(r.Message) > MaxMessage || len(r.Code) > MaxCode:
		err = problem.New("reply-invalid", "open peer reply: a field is too long")
	case canon.Sum(c.Body) != r.Body:
		err = problem.New("reply-invalid", "open peer reply: the body is not the signed one")
	case r.Code != "" && len(c.Body) > 0:
		err = problem.New("reply-invalid", "open peer reply: an error with a body")
	}
	if err != nil {
		return PeerReply{}, nil, err
	}
	return r, c.Body, nil
}

// openPeerHello verifies the answer to a challenge against the slot's binding.
func openPeerHello(grid, slot canon.Hash, from Binding, challenge, data []byte) (PeerHello, error) {
	h, by, err := unwire[PeerHello](data, maxPeerHello, KindPeerHello, grid)
	if err != nil {
		return PeerHello{}, problem.New("reply-invalid", "peer hello: %w", err)
	}
	switch {
	case h.Slot != slot:
		err = problem.New("reply-invalid", "peer hello: it is of another slot")
	case string(h.Challenge) != string(challenge):
		err = problem.New("reply-invalid", "peer hello: it answers another challenge")
	case len(h.Run) != NonceSize || h.Time > maxPeerTime:
		err = problem.New("reply-invalid", "peer hello: its run or time is malformed")
	case h.Epoch != from.Epoch || !by.Equal(from.SigningKey):
		err = problem.New("node-rekeyed", "peer hello of node %s: it has another key or epoch than the ledger says", slot.Short())
	}
	if err != nil {
		return PeerHello{}, err
	}
	return h, nil
}
