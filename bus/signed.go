package bus

import (
	"context"
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// header begins a statement of this package.
func header(kind string, grid canon.Hash) contract.Header {
	return contract.Header{V: Version, Kind: kind, Grid: grid}
}

// openOne opens a statement that must have exactly one signature.
func openOne[T contract.Statement](s contract.Signed, kind string, grid canon.Hash) (T, canon.Hash, sign.PublicKey, error) {
	var zero T
	if len(s.Signatures) != 1 {
		return zero, canon.Hash{}, nil, problem.New("signature-invalid", "open %s: want one signature, have %d", kind, len(s.Signatures))
	}
	st, id, keys, err := contract.Open[T](s, kind, grid)
	if err != nil {
		return zero, canon.Hash{}, nil, err
	}
	return st, id, keys[0], nil
}

// wire signs a statement and encodes the envelope.
func wire(ctx context.Context, statement contract.Statement, kind string, s sign.Signer) ([]byte, error) {
	signed, err := contract.Sign(ctx, statement, kind, s)
	if err != nil {
		return nil, err
	}
	return signed.Encode()
}

// unwire is its counterpart, for envelopes of at most so many bytes. It returns
// who signed.
func unwire[T contract.Statement](data []byte, most int, kind string, grid canon.Hash) (T, sign.PublicKey, error) {
	var zero T
	if len(data) > most {
		return zero, nil, fmt.Errorf("%d bytes, at most %d are allowed", len(data), most)
	}
	signed, err := contract.DecodeSigned(data)
	if err != nil {
		return zero, nil, err
	}
	st, _, by, err := openOne[T](signed, kind, grid)
	return st, by, err
}
