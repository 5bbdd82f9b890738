package canon

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

type header struct {
	V    uint64 `cbor:"v"`
	Kind string `cbor:"kind"`
}

type row struct {
	_     struct{} `cbor:",toarray"`
	Path  []byte
	Child *header
}

type sample struct {
	header
	Grid  Hash     `cbor:"grid"`
	Names []string `cbor:"names"`
	Blob  []byte   `cbor:"blob"`
	Delta int64    `cbor:"delta"`
	On    bool     `cbor:"on"`
	Rows  []row    `cbor:"rows"`
}

func full() sample {
	return sample{
		header: header{V: 1, Kind: "zos-sample-v1"}, Grid: Sum([]byte("grid")),
		Names: []string{"a", "ü"}, Blob: []byte{1, 2}, Delta: -300, On: true,
		Rows: []row{{Path: []byte{0xff}, Child: &header{V: 2, Kind: "x"}}, {Path: []byte{}}},
	}
}

func mustMarshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestValueComesBackEqual(t *testing.T) {
	want := full()
	var got sample
	if err := Unmarshal(mustMarshal(t, want), &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestBytesAreThoseOfTheStandard(t *testing.T) {
	// Written down by hand from RFC 8949, so that a change of library that
	// changes the bytes of signed statements can't go unnoticed.
	type two struct {
		header
		B []byte `cbor:"b"`
	}
	want := unhex(t, "a3 61 62 41 07 61 76 19 0100 64 6b696e64 61 78")
	if got := mustMarshal(t, two{header{V: 256, Kind: "x"}, []byte{7}}); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if got, want := mustMarshal(t, row{Path: []byte{1}}), unhex(t, "82 41 01 f6"); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestNilAndEmptyAreTheSameBytes(t *testing.T) {
	empty := sample{Names: []string{}, Blob: []byte{}, Rows: []row{}}
	a, b := mustMarshal(t, sample{}), mustMarshal(t, empty)
	if !bytes.Equal(a, b) {
		t.Fatalf("nil encodes as %x, empty as %x", a, b)
	}
	var got sample
	if err := Unmarshal(a, &got); err != nil {
		t.Fatal(err)
	}
	if again := mustMarshal(t, got); !bytes.Equal(a, again) {
		t.Errorf("decoded value encodes as %x, want %x", again, a)
	}
}

// The traps: each is accepted, or was, by the library's strictest options.
func TestNonCanonicalBytesAreRefused(t *testing.T) {
	type ab struct {
		A uint64 `cbor:"a"`
		B uint64 `cbor:"b"`
	}
	type bs struct {
		A []byte `cbor:"a"`
	}
	type hs struct {
		A Hash `cbor:"a"`
	}
	type ss struct {
		A []string `cbor:"a"`
	}
	type st struct {
		A string `cbor:"a"`
	}
	type anys struct {
		A any `cbor:"a"`
	}
	for _, c := range []struct {
		name, hex, want string
		into            any
	}{
		{"unsorted keys", "a2 61 62 01 61 61 02", "not sorted", &ab{}},
		{"key twice", "a2 61 61 01 61 61 01", "occur twice", &ab{}},
		{"long-form integer", "a2 61 61 18 01 61 62 02", "shortest", &ab{}},
		{"long-form integer of two bytes", "a2 61 61 19 0018 61 62 02", "shortest", &ab{}},
		{"long-form integer of four bytes", "a2 61 61 1a 0000ffff 61 62 02", "shortest", &ab{}},
		{"long-form integer of eight bytes", "a2 61 61 1b 00000000ffffffff 61 62 02", "shortest", &ab{}},
		{"long-form length", "a1 61 61 58 01 ff", "shortest", &bs{}},
		{"null for an int", "a2 61 61 f6 61 62 02", "not canonical", &ab{}},
		{"null for a list", "a1 61 61 f6", "not canonical", &ss{}},
		{"null for a byte string", "a1 61 61 f6", "not canonical", &bs{}},
		{"null for text", "a1 61 61 f6", "not canonical", &st{}},
		{"undefined", "a1 61 61 f7", "simple", &bs{}},
		{"missing field", "a1 61 61 01", "not canonical", &ab{}},
		{"no fields", "a0", "not canonical", &ab{}},
		{"unknown field", "a3 61 61 01 61 62 02 61 63 03", "unknown", &ab{}},
		{"field in another case", "a2 61 41 01 61 62 02", "unknown", &ab{}},
		{"integer key", "a1 01 02", "not text", &ab{}},
		{"byte-string key", "a2 41 61 01 41 62 02", "not text", &ab{}},
		{"short hash", "a1 61 61 42 0101", "not canonical", &hs{}},
		{"hash as a list", "a1 61 61 82 01 02", "not canonical", &hs{}},
		{"bytes as a list", "a1 61 61 82 01 02", "not canonical", &bs{}},
		{"text for bytes", "a1 61 61 61 78", "cannot unmarshal", &bs{}},
		{"bytes for text", "a1 61 61 41 78", "cannot unmarshal", &st{}},
		{"invalid UTF-8", "a1 61 61 61 ff", "UTF-8", &st{}},
		{"float", "a2 61 61 f93c00 61 62 02", "floats", &ab{}},
		{"float in any", "a1 61 61 fb3ff0000000000000", "floats", &anys{}},
		{"tag", "a1 61 61 c0 61 78", "tags", &st{}},
		{"big number tag", "a2 61 61 c2 41 01 61 62 02", "tags", &ab{}},
		{"self-described", "d9d9f7 a2 61 61 01 61 62 02", "tags", &ab{}},
		{"indefinite map", "bf 61 61 01 61 62 02 ff", "indefinite", &ab{}},
		{"indefinite list", "a1 61 61 9f 61 78 ff", "indefinite", &ss{}},
		{"indefinite text", "a1 61 61 7f 61 78 ff", "indefinite", &st{}},
		{"reserved length", "a1 61 61 1c", "indefinite", &ab{}},
		{"cut", "a2 61 61 01 61", "end inside", &ab{}},
		{"nothing", "", "end inside", &ab{}},
		{"length beyond the end", "a1 61 61 5b ffffffffffffffff", "end inside", &bs{}},
		{"list bomb", "a1 61 61 9b 00000000ffffffff", "shortest", &ss{}},
		{"list bomb in shortest form", "a1 61 61 9a 7fffffff", "at most", &ss{}},
		{"map bomb", "ba 7fffffff", "at most", &ab{}},
		{"trailing byte", "a2 61 61 01 61 62 02 00", "follow", &ab{}},
		{"two values", "a2 61 61 01 61 62 02 a2 61 61 01 61 62 02", "follow", &ab{}},
		{"too deep", "a1 61 61" + strings.Repeat("81", MaxDepth) + "01", "deeper", &anys{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Unmarshal(unhex(t, c.hex), c.into)
			if err == nil {
				t.Fatalf("accepted as %+v", c.into)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("refused with %q, want it to say %q", err, c.want)
			}
		})
	}
}

func TestDeepestAllowedNestingIsAccepted(t *testing.T) {
	var v any
	if err := Unmarshal(unhex(t, strings.Repeat("81", MaxDepth)+"01"), &v); err != nil {
		t.Error(err)
	}
}

func TestSizeLimitHolds(t *testing.T) {
	b := mustMarshal(t, make([]byte, 100))
	var v []byte
	if err := UnmarshalLimit(b, len(b), &v); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if err := UnmarshalLimit(b, len(b)-1, &v); err == nil {
		t.Error("one byte above the limit was accepted")
	}
	if err := Unmarshal(mustMarshal(t, make([]byte, MaxSize)), &v); err == nil {
		t.Error("more than MaxSize was accepted")
	}
}

func TestMarshalRefusesWhatCannotBeReadBack(t *testing.T) {
	for name, v := range map[string]any{
		"float":         1.5,
		"invalid UTF-8": "\xff",
		"integer keys":  map[int]int{1: 1},
		"channel":       make(chan int),
	} {
		if b, err := Marshal(v); err == nil {
			t.Errorf("%s: encoded as %x", name, b)
		}
	}
}

func TestHashText(t *testing.T) {
	h := Sum([]byte("x"))
	if p, err := ParseHash(h.String()); err != nil || p != h {
		t.Errorf("ParseHash(%s) = %s, %v", h, p, err)
	}
	for _, bad := range []string{"", "ab", strings.Repeat("g", 64), h.String() + "0"} {
		if _, err := ParseHash(bad); err == nil {
			t.Errorf("ParseHash(%q) accepted", bad)
		}
	}
	if upper, err := ParseHash(strings.ToUpper(h.String())); err == nil && upper != h {
		t.Error("upper case reads as another digest")
	}
}

// FuzzUnmarshal: whatever is accepted is exactly what Marshal gives, into a
// struct and into any; nothing panics.
func FuzzUnmarshal(f *testing.F) {
	f.Add(mustMarshal(f, full()))
	f.Add(mustMarshal(f, sample{}))
	for _, s := range []string{"", "a0", "f6", "80", "a1616101", "bf6161ff", "9b00000000ffffffff", "5bffffffffffffffff", "d9d9f700", "fb3ff0000000000000", "a2616201616102", "1800"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s sample
		if err := Unmarshal(b, &s); err == nil {
			if again := mustMarshal(t, s); !bytes.Equal(b, again) {
				t.Errorf("accepted %x, which encodes as %x", b, again)
			}
		}
		var v any
		if err := Unmarshal(b, &v); err == nil {
			if again := mustMarshal(t, v); !bytes.Equal(b, again) {
				t.Errorf("accepted %x, which encodes as %x", b, again)
			}
		}
	})
}
