package bus

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/zero-os/zos/canon"
)

// Subjects of the bus. An id in a subject is 64 hex digits.
//
//	request.<slot>      people → node     sealed Request
//	hello.<slot>        people → node     16 random bytes
//	heartbeat.<slot>    node → everybody  signed Heartbeat
//	join.<farm>         node → agent      signed join request (package farm)
//	peer.<slot>         node → node       sealed PeerRequest, or 16 random bytes
//	inbox.<token>.<n>   → whoever asked   answers
const (
	subjectRequest   = "request."
	subjectHello     = "hello."
	subjectHeartbeat = "heartbeat."
	subjectJoin      = "join."
	subjectPeer      = "peer."
	subjectInbox     = "inbox."
)

// RequestSubject is where the node of a slot takes sealed requests.
func RequestSubject(slot canon.Hash) string { return subjectRequest + slot.String() }

// HelloSubject is where the node of a slot answers challenges.
func HelloSubject(slot canon.Hash) string { return subjectHello + slot.String() }

// HeartbeatSubject is where the node of a slot broadcasts its heartbeats.
func HeartbeatSubject(slot canon.Hash) string { return subjectHeartbeat + slot.String() }

// JoinSubject is where the agent of a farm takes join requests.
func JoinSubject(farm canon.Hash) string { return subjectJoin + farm.String() }

// PeerSubject is where the node of a slot takes what other nodes ask.
func PeerSubject(slot canon.Hash) string { return subjectPeer + slot.String() }

// Role is what a connection says it is, which decides the subjects that a bus
// server lets it use. It is not an identity and proves nothing: whoever claims
// a wrong role sees sealed bytes and can publish what nobody believes.
type Role struct {
	kind string
	id   canon.Hash
}

// AsPeople is the role of those who ask nodes.
func AsPeople() Role { return Role{kind: "people"} }

// AsNode is the role of the node in a slot.
func AsNode(slot canon.Hash) Role { return Role{kind: "node", id: slot} }

// AsAgent is the role of a farm's agent.
func AsAgent(farm canon.Hash) Role { return Role{kind: "agent", id: farm} }

// String returns the user name of the role on the wire.
func (r Role) String() string {
	if r.kind == "people" {
		return r.kind
	}
	return r.kind + "." + r.id.String()
}

// ParseRole reads a user name made by String.
func ParseRole(s string) (Role, error) {
	if s == "people" {
		return AsPeople(), nil
	}
	kind, rest, ok := strings.Cut(s, ".")
	if !ok || kind != "node" && kind != "agent" {
		return Role{}, fmt.Errorf("bus role %.80q: want people, node.<slot> or agent.<farm>", s)
	}
	id, err := canon.ParseHash(rest)
	if err != nil {
		return Role{}, fmt.Errorf("bus role %s: %w", kind, err)
	}
	if id.String() != rest {
		return Role{}, fmt.Errorf("bus role %s: digits must be lower case", kind)
	}
	return Role{kind: kind, id: id}, nil
}

// Subjects returns what the role may publish to and subscribe to, as patterns of
// the bus, when its inbox has the given token.
func (r Role) Subjects(token string) (publish, subscribe []string) {
	inbox := subjectInbox + token + ".>"
	switch r.kind {
	case "people":
		return []string{subjectRequest + "*", subjectHello + "*"},
			[]string{subjectHeartbeat + "*", inbox}
	case "node":
		return []string{HeartbeatSubject(r.id), subjectJoin + "*", subjectPeer + "*", subjectInbox + ">"},
			[]string{RequestSubject(r.id), HelloSubject(r.id), PeerSubject(r.id), inbox}
	case "agent":
		return []string{subjectHello + "*", subjectInbox + ">"},
			[]string{JoinSubject(r.id), subjectHeartbeat + "*", inbox}
	}
	return nil, nil
}

// tokenSize is the number of random bytes in an inbox token.
const tokenSize = 16

// CheckToken refuses what isn't an inbox token: 32 lower-case hex digits.
func CheckToken(s string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != tokenSize || hex.EncodeToString(b) != s {
		return fmt.Errorf("bus inbox token: want %d lower-case hex digits", 2*tokenSize)
	}
	return nil
}
