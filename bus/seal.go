package bus

import (
	"encoding/binary"
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// requestInfo binds a sealed request of a person to what it is for.
func requestInfo(grid, slot canon.Hash, epoch uint64) []byte {
	return sealInfo("request\x00", grid, slot, epoch)
}

// sealInfo binds what is sealed to a node to its purpose, grid, slot and epoch:
// it opens nowhere else, and not after a re-key.
func sealInfo(purpose string, grid, slot canon.Hash, epoch uint64) []byte {
	b := append([]byte(purpose), grid[:]...)
	b = append(b, slot[:]...)
	return binary.BigEndian.AppendUint64(b, epoch)
}

// replyInfo binds a sealed reply to the request that it answers.
func replyInfo(request canon.Hash) []byte {
	return append([]byte("reply\x00"), request[:]...)
}

// sealCall seals a request, and the session if there is one, to the node.
func sealCall(to Binding, grid, slot canon.Hash, c call) ([]byte, error) {
	plain, err := canon.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	if len(plain)+seal.Overhead > maxRequest {
		return nil, problem.New("request-invalid", "encode request: %d bytes, at most %d fit", len(plain), maxRequest-seal.Overhead)
	}
	return seal.Seal(to.SealingKey, requestInfo(grid, slot, to.Epoch), plain)
}

// opened is a request whose signatures hold. Nothing else about it is judged.
type opened struct {
	Request
	hash    canon.Hash
	signer  sign.PublicKey // who signed the request: the account or the session
	session *Session       // nil when the account signed itself
	account sign.PublicKey // in whose name it is asked
}

// openCall opens a sealed request and verifies its signatures.
func openCall(key *seal.PrivateKey, grid, slot canon.Hash, epoch uint64, data []byte) (opened, error) {
	if len(data) > maxRequest {
		return opened{}, problem.New("request-invalid", "open request: %d bytes, at most %d are allowed", len(data), maxRequest)
	}
	plain, err := key.Open(requestInfo(grid, slot, epoch), data)
	if err != nil {
		return opened{}, fmt.Errorf("open request: %w", err)
	}
	return decodeCall(grid, plain)
}

// decodeCall verifies the signatures inside an opened request.
func decodeCall(grid canon.Hash, plain []byte) (opened, error) {
	var c call
	if err := canon.UnmarshalLimit(plain, maxRequest, &c); err != nil {
		return opened{}, problem.New("request-invalid", "decode request: %w", err)
	}
	if len(c.Session) > 1 {
		return opened{}, problem.New("request-invalid", "decode request: %d sessions, at most one is allowed", len(c.Session))
	}
	req, hash, signer, err := openOne[Request](c.Request, contract.KindRequest, grid)
	if err != nil {
		return opened{}, fmt.Errorf("open request: %w", err)
	}
	o := opened{Request: req, hash: hash, signer: signer, account: signer}
	if len(c.Session) == 1 {
		s, _, by, err := openOne[Session](c.Session[0], KindSession, grid)
		if err != nil {
			return opened{}, fmt.Errorf("open session: %w", err)
		}
		if !by.Equal(s.Account) {
			return opened{}, problem.New("session-invalid", "open session: signed by another key than its account's")
		}
		o.session, o.account = &s, by
	}
	return o, nil
}

// sealReply seals a signed reply to the asker.
func sealReply(to []byte, request canon.Hash, c chunk) ([]byte, error) {
	plain, err := canon.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode reply: %w", err)
	}
	return seal.Seal(to, replyInfo(request), plain)
}

// openReply opens one chunk and verifies that it is the bound node's and answers
// this request. Order is the caller's concern.
func openReply(key *seal.PrivateKey, grid, slot canon.Hash, from Binding, request canon.Hash, data []byte) (Reply, []byte, error) {
	if len(data) > maxReply {
		return Reply{}, nil, problem.New("reply-invalid", "open reply: %d bytes, at most %d are allowed", len(data), maxReply)
	}
	plain, err := key.Open(replyInfo(request), data)
	if err != nil {
		return Reply{}, nil, fmt.Errorf("open reply: %w", err)
	}
	return decodeReply(grid, slot, from, request, plain)
}

// decodeReply judges an opened chunk and returns it with its body.
func decodeReply(grid, slot canon.Hash, from Binding, request canon.Hash, plain []byte) (Reply, []byte, error) {
	var c chunk
	if err := canon.UnmarshalLimit(plain, maxReply, &c); err != nil {
		return Reply{}, nil, problem.New("reply-invalid", "decode reply: %w", err)
	}
	r, _, by, err := openOne[Reply](c.Reply, contract.KindReply, grid)
	if err != nil {
		return Reply{}, nil, fmt.Errorf("open reply: %w", err)
	}
	switch {
	case !by.Equal(from.SigningKey):
		err = problem.New("reply-invalid", "open reply: signed by another key than the node's")
	case r.Slot != slot || r.Epoch != from.Epoch:
		err = problem.New("reply-invalid", "open reply: it is of another slot or epoch")
	case r.Request != request:
		err = problem.New("reply-invalid", "open reply: it answers another request")
	case len(c.Body) > MaxChunk || len(r.Message) > MaxMessage || len(r.Code) > MaxCode:
		err = problem.New("reply-invalid", "open reply: a field is too long")
	case canon.Sum(c.Body) != r.Body:
		err = problem.New("reply-invalid", "open reply: the body is not the signed one")
	case r.Code != "" && !r.Last:
		err = problem.New("reply-invalid", "open reply: an error that is not the end")
	}
	if err != nil {
		return Reply{}, nil, err
	}
	return r, c.Body, nil
}
