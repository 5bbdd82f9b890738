package canon

import (
	"bytes"
	"fmt"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Limits that hold for every value, whatever its size.
const (
	// MaxSize is Unmarshal's limit in bytes. UnmarshalLimit takes another one.
	MaxSize = 16 << 20
	// MaxDepth is how deeply arrays and maps may nest.
	MaxDepth = 16
	// MaxArray is how many elements an array may have.
	MaxArray = 1 << 20
	// MaxPairs is how many keys a map may have. Maps are structs here.
	MaxPairs = 256
)

// The two modes are built once and never change.
var (
	encoder = sync.OnceValues(func() (cbor.EncMode, error) {
		o := cbor.CoreDetEncOptions()
		o.NilContainers = cbor.NilContainerAsEmpty
		o.TagsMd = cbor.TagsForbidden
		o.IndefLength = cbor.IndefLengthForbidden
		o.BinaryMarshaler = cbor.BinaryMarshalerNone
		return o.EncMode()
	})
	decoder = sync.OnceValues(func() (cbor.DecMode, error) {
		return cbor.DecOptions{
			DupMapKey:         cbor.DupMapKeyEnforcedAPF,
			IndefLength:       cbor.IndefLengthForbidden,
			TagsMd:            cbor.TagsForbidden,
			ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
			FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
			UTF8:              cbor.UTF8RejectInvalid,
			BinaryUnmarshaler: cbor.BinaryUnmarshalerNone,
			MaxNestedLevels:   MaxDepth,
			MaxArrayElements:  MaxArray,
			MaxMapPairs:       MaxPairs,
			DefaultMapType:    reflect.TypeFor[map[string]any](), // maps inside an any
		}.DecMode()
	})
)

// Marshal returns the canonical bytes of v. It refuses what Unmarshal would
// refuse: floats, text that is not UTF-8, map keys that are not text.
func Marshal(v any) ([]byte, error) {
	enc, err := encoder()
	if err != nil {
		return nil, fmt.Errorf("set up canonical encoder: %w", err)
	}
	b, err := enc.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	if err := check(b); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

// Unmarshal decodes the canonical bytes b, at most MaxSize of them, into v, a
// non-nil pointer. Bytes that are not exactly what Marshal gives for the
// decoded value are refused. On error v's content is undefined.
func Unmarshal(b []byte, v any) error { return UnmarshalLimit(b, MaxSize, v) }

// UnmarshalLimit is Unmarshal with another limit on the size, in bytes.
func UnmarshalLimit(b []byte, limit int, v any) error {
	if len(b) > limit {
		return fmt.Errorf("decode %T: %d bytes, at most %d are allowed", v, len(b), limit)
	}
	// The syntax is checked before anything is allocated for v.
	if err := check(b); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	dec, err := decoder()
	if err != nil {
		return fmt.Errorf("set up canonical decoder: %w", err)
	}
	if err := dec.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	// The library's strict options still let a null stand for a number, a short
	// byte string for an array, and fields be missing. What was meant by such
	// bytes encodes differently, so comparing closes all of these at once.
	again, err := Marshal(v)
	if err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	if !bytes.Equal(b, again) {
		return fmt.Errorf("decode %T: bytes are not canonical: a field is missing, null or of another form", v)
	}
	return nil
}
