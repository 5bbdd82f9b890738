package exchange

import (
	"testing"

	"github.com/zero-os/zos/canon/schematest"
)

// TestSchemaNamesTheFieldsOfEveryMessage keeps network.cddl and the structs the
// same: exactly their fields, in their order.
func TestSchemaNamesTheFieldsOfEveryMessage(t *testing.T) {
	schematest.Compare(t, "../..", "network.cddl", map[string]any{
		"binding": Binding{}, "exchange-request": Request{}, "exchange-answer": Answer{}, "exchange-bound": bound{}, "exchange-party": party{},
	})
}
