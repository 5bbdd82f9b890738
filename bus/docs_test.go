package bus

import (
	"testing"

	"github.com/zero-os/zos/canon/schematest"
)

// TestSchemaNamesTheFieldsOfEveryMessage keeps bus.cddl and the structs the same:
// exactly their fields, in their order.
func TestSchemaNamesTheFieldsOfEveryMessage(t *testing.T) {
	schematest.Compare(t, "..", "bus.cddl", map[string]any{
		"call": call{}, "request": Request{}, "session": Session{}, "chunk": chunk{}, "reply": Reply{}, "renewal": Renewal{},
		"act": Act{}, "frame": frame{},
		"heartbeat": Heartbeat{}, "peer-call": peerCall{}, "peer-request": PeerRequest{}, "peer-answer": peerAnswer{},
		"peer-reply": PeerReply{}, "peer-hello": PeerHello{},
	})
}
