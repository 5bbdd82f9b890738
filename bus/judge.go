package bus

import (
	"bytes"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
)

// self is what a request must name, and when it came.
type self struct {
	slot      canon.Hash
	epoch     uint64
	bootNonce [NonceSize]byte
	instance  [NonceSize]byte
	now       uint64 // Unix seconds, node's clock
}

// judge decides whether a request with good signatures was meant for this run of
// this node, now. Replay is not its concern.
func judge(o opened, me self) error {
	switch {
	case o.Slot != me.slot || o.Epoch != me.epoch:
		return problem.New("request-misdirected", "request: it names another slot or epoch")
	case len(o.BootNonce) != NonceSize || len(o.Instance) != NonceSize || len(o.ID) != NonceSize:
		return problem.New("request-invalid", "request: a nonce has the wrong length")
	case len(o.Method) > MaxMethod || len(o.Params) > MaxParams:
		return problem.New("request-invalid", "request: a field is too long")
	case !bytes.Equal(o.BootNonce, me.bootNonce[:]) || !bytes.Equal(o.Instance, me.instance[:]):
		return problem.New("request-stale", "request: it was made for an earlier boot or run of the node")
	case o.Expiry <= me.now:
		return problem.New("request-expired", "request: it came after its expiry")
	case o.Expiry > me.now+MaxAhead:
		return problem.New("request-invalid", "request: its expiry is more than %d s ahead", MaxAhead)
	}
	if err := seal.CheckPublic(o.ReplyTo); err != nil {
		return problem.New("request-invalid", "request: reply key: %w", err)
	}
	if o.session != nil {
		return judgeSession(*o.session, o.signer, me.now)
	}
	return nil
}

// sessionSkew is how far a person's clock may be ahead of the node's, seconds.
const sessionSkew = 120

// judgeSession decides whether a session, properly signed by its account, lets
// the key of a request read at this time.
func judgeSession(s Session, key []byte, now uint64) error {
	switch {
	case !bytes.Equal(s.Key, key):
		return problem.New("session-invalid", "session: the request is signed by another key")
	case s.Scope != ScopeRead:
		return problem.New("session-invalid", "session: scope %.20q is not known", s.Scope)
	case s.Expiry <= s.Issued || s.Expiry-s.Issued > MaxSession:
		return problem.New("session-invalid", "session: it lasts longer than %d s", MaxSession)
	case s.Issued > now+sessionSkew:
		return problem.New("session-invalid", "session: it begins in the future")
	case s.Expiry <= now:
		return problem.New("session-expired", "session: it has ended").WithFix("make a new session")
	}
	return nil
}

// reads tells whether a session may use the method.
func reads(method string) bool {
	switch method {
	case MethodStatus, MethodLogs, MethodNetwork, MethodGateway, MethodDevice, MethodNode, MethodResources, MethodEvents, MethodMetrics, MethodNodeMetrics, MethodRenew:
		return true
	}
	return false
}
