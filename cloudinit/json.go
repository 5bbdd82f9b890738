package cloudinit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// encode writes v as JSON that every YAML reader takes for the same. Beyond JSON that
// means: no character that YAML wants escaped (DEL, C1 controls, the byte order mark,
// noncharacters), and no surrogate pairs, which YAML 1.1 reads as two characters. So
// what is not ASCII and has four digits is escaped, and what has more stands as it is.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and lists of a validated seed
	}
	var out bytes.Buffer
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r >= 0x7f && r <= 0xffff {
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			out.Write(b[:n])
		}
		b = b[n:]
	}
	out.WriteByte('\n')
	return out.Bytes()
}
