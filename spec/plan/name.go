package plan

import (
	"fmt"

	"github.com/zero-os/zos/canon"
)

// maxNamePlan bounds the bytes of an encoded Name.
const maxNamePlan = 256

// Name is what a group approves about one label directly under the grid's
// domain: the Plan of an approval of class "name".
type Name struct {
	V     uint64 `cbor:"v"`
	Label string `cbor:"label"` // ValidLabel; the approval's name
	// To is the group that receives the name, for a transfer; zero otherwise.
	To canon.Hash `cbor:"to"`
	// Until is when the reservation ends, Unix seconds of block time. Reserving and
	// renewing choose it; transferring and releasing repeat what it is, so that
	// their approvals are for this reservation as it stands.
	Until uint64 `cbor:"until"`
}

// ValidLabel tells whether s can be reserved under a grid's domain: a name that
// begins and ends with a letter or digit, and that is not of the form "??--*",
// which internationalised names have (RFC 5890): what it shows is something else
// than its letters.
func ValidLabel(s string) bool {
	return ValidName(s) && s[0] != '-' && s[len(s)-1] != '-' && (len(s) < 4 || s[2:4] != "--")
}

// Validate checks n by itself.
func (n Name) Validate() error {
	switch {
	case n.V != Version:
		return invalid("name of version %d, this software knows %d", n.V, Version)
	case !ValidLabel(n.Label):
		return invalid("name %.80q: want [a-z0-9-], 1 to 63 characters, no hyphen at its ends, not of the form xn--", n.Label)
	case n.Until == 0:
		return invalid("name %s: it says no end", n.Label)
	}
	return nil
}

// EncodeName validates n and returns its canonical bytes.
func EncodeName(n Name) ([]byte, error) {
	if err := n.Validate(); err != nil {
		return nil, err
	}
	b, err := canon.Marshal(n)
	if err != nil {
		return nil, fmt.Errorf("encode name %s: %w", n.Label, err)
	}
	return b, nil
}

// DecodeName reads what EncodeName gave and validates it. Its errors have the
// code "plan-invalid".
func DecodeName(encoded []byte) (Name, error) {
	var n Name
	if err := canon.UnmarshalLimit(encoded, maxNamePlan, &n); err != nil {
		return Name{}, invalid("read name: %w", err)
	}
	if err := n.Validate(); err != nil {
		return Name{}, err
	}
	return n, nil
}
