package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// nvSize is the size of our NV indices in bytes. It holds every blob and stays
// the same, so that a new blob replaces the old one in a single write: an index
// that had to be deleted first could lose the key to a power cut.
const nvSize = 512

// blob is what lies in the NV index of a secret: both halves of a sealed object
// in the TPM's own encoding, each after its length as two bytes, big endian.
type blob struct {
	public, private []byte
}

var errBlob = errors.New("the NV index does not hold a sealed object of ours")

func encodeBlob(b blob) []byte {
	out := binary.BigEndian.AppendUint16(nil, uint16(len(b.public)))
	out = append(out, b.public...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(b.private)))
	return append(out, b.private...)
}

// decodeBlob reads what encodeBlob wrote; bytes after it are ignored, as the NV
// index is larger.
func decodeBlob(raw []byte) (blob, error) {
	var b blob
	for _, part := range []*[]byte{&b.public, &b.private} {
		if len(raw) < 2 {
			return blob{}, errBlob
		}
		n := int(binary.BigEndian.Uint16(raw))
		if n == 0 || n > len(raw)-2 {
			return blob{}, errBlob
		}
		*part, raw = raw[2:2+n], raw[2+n:]
	}
	return b, nil
}

func decodeObject(raw []byte) (tpm2.TPM2BPublic, tpm2.TPM2BPrivate, error) {
	b, err := decodeBlob(raw)
	if err != nil {
		return tpm2.TPM2BPublic{}, tpm2.TPM2BPrivate{}, err
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](b.public)
	if err != nil {
		return tpm2.TPM2BPublic{}, tpm2.TPM2BPrivate{}, fmt.Errorf("%w: %w", errBlob, err)
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](b.private)
	if err != nil {
		return tpm2.TPM2BPublic{}, tpm2.TPM2BPrivate{}, fmt.Errorf("%w: %w", errBlob, err)
	}
	return *public, *private, nil
}
