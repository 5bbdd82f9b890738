package bus

import (
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
)

// Version is the format version of every statement in this package.
const Version = 1

// The kinds of statement that only the bus knows; contract holds the others.
const (
	KindSession = "zos-session-v1"
)

// Request asks one boot of one node for one thing. It is signed by an account's
// key, or by a session key together with the account's Session.
type Request struct {
	contract.Header
	Slot      canon.Hash `cbor:"slot"`
	Epoch     uint64     `cbor:"epoch"`
	BootNonce []byte     `cbor:"boot_nonce"` // 16 bytes, from a fresh Heartbeat
	Instance  []byte     `cbor:"instance"`   // 16 bytes, from the same Heartbeat
	ID        []byte     `cbor:"id"`         // 16 random bytes, never used again
	Method    string     `cbor:"method"`     // a Method… constant
	Contract  canon.Hash `cbor:"contract"`   // zero for methods about the node itself
	Params    []byte     `cbor:"params"`     // the method's own canonical CBOR, at most MaxParams
	ReplyTo   []byte     `cbor:"reply_to"`   // package seal's public key, made for this request
	Expiry    uint64     `cbor:"expiry"`     // Unix seconds of the node's clock, at most MaxAhead ahead
}

// Reply is one chunk of the answer to a Request, signed by the node's key.
type Reply struct {
	contract.Header
	Slot     canon.Hash `cbor:"slot"`
	Epoch    uint64     `cbor:"epoch"`
	Request  canon.Hash `cbor:"request"`  // hash of the Request statement
	Sequence uint64     `cbor:"sequence"` // 0, 1, 2 … without a gap
	Last     bool       `cbor:"last"`     // nothing follows
	Code     string     `cbor:"code"`     // "" or a problem code; only on the last chunk
	Message  string     `cbor:"message"`  // what went wrong, one line, at most MaxMessage bytes
	Body     canon.Hash `cbor:"body"`     // SHA-256 of the bytes that travel beside it
}

// Heartbeat says that a boot of a node is alive. It is broadcast every ten
// seconds and sent in answer to a hello, signed by the node's key.
type Heartbeat struct {
	contract.Header
	Slot      canon.Hash `cbor:"slot"`
	Epoch     uint64     `cbor:"epoch"`
	BootNonce []byte     `cbor:"boot_nonce"` // 16 random bytes of this boot
	Instance  []byte     `cbor:"instance"`   // 16 random bytes of this run of the daemon
	Sequence  uint64     `cbor:"sequence"`   // rising within a run
	Time      uint64     `cbor:"time"`       // node's clock, Unix seconds
	Release   uint64     `cbor:"release"`    // sequence of the OS release that runs
	Status    Status     `cbor:"status"`
	Challenge []byte     `cbor:"challenge"` // empty, or the 16 bytes of a hello
}

// Status is what a node tells the whole grid about itself. It is public.
type Status struct {
	Ready    bool     `cbor:"ready"`    // joined, ledger proven, reconciling
	Running  uint64   `cbor:"running"`  // workloads that run
	Head     uint64   `cbor:"head"`     // height of the last proven ledger header
	Problems []string `cbor:"problems"` // problem codes, at most MaxProblems
}

// Session lets another key read in the name of an account for a while, so that
// a hardware key is touched once and not for each request. It is signed by the
// account's key, and lets its holder read, nothing more.
type Session struct {
	contract.Header
	Account []byte `cbor:"account"` // the account's key, SSH wire format
	Key     []byte `cbor:"key"`     // the session's key, SSH wire format, ed25519
	Scope   string `cbor:"scope"`   // ScopeRead
	Issued  uint64 `cbor:"issued"`  // Unix seconds
	Expiry  uint64 `cbor:"expiry"`  // Unix seconds, at most MaxSession after Issued
}

// ScopeRead is the only scope of a Session.
const ScopeRead = "read"

// Limits of the statements; sizes in bytes, times in seconds.
const (
	MaxParams   = 8 << 10
	MaxChunk    = 256 << 10 // bytes that travel with one reply
	MaxMessage  = 512       // of a Reply
	MaxMethod   = 64
	MaxCode     = 64
	MaxProblems = 16
	MaxAhead    = 120      // a request's expiry, ahead of the node's clock
	MaxSession  = 8 * 3600 // a session's life
	NonceSize   = 16       // of a boot nonce, a request id, a challenge

	maxRequest   = MaxParams + 16<<10 // a sealed request on the wire
	maxReply     = MaxChunk + 16<<10
	maxHeartbeat = 16 << 10
)

// Renewal is the parameters of MethodRenew: it keeps a stream alive, gives the
// node room to send more, or ends it.
type Renewal struct {
	Stream   canon.Hash `cbor:"stream"`   // hash of the Request that opened it
	Received uint64     `cbor:"received"` // chunks received in order
	End      bool       `cbor:"end"`      // the client wants no more
}

// call is what travels inside the seal: a request, and the session when a
// session key signed it.
type call struct {
	Request contract.Signed   `cbor:"request"`
	Session []contract.Signed `cbor:"session"` // none or one
}

// chunk is what travels inside the seal of a reply. The body is beside the
// statement, which names its hash, so that statements stay small.
type chunk struct {
	Reply contract.Signed `cbor:"reply"`
	Body  []byte          `cbor:"body"`
}
