package merkle

import "math/bits"

// A key is read as a string of bits in which every byte is preceded by a 1 and
// whose end is a 0. So no key is a prefix of another ("a" and "ab" differ at
// bit 9, where one ends and the other goes on), and the order of the bit
// strings is the order of the keys.
const bitsPerByte = 9

// bitAt returns bit i of key, 0 past its end.
func bitAt(key []byte, i uint32) int {
	at, r := int(i/bitsPerByte), i%bitsPerByte
	if at >= len(key) {
		return 0
	}
	if r == 0 {
		return 1
	}
	return int(key[at]>>(8-r)) & 1
}

// prefixBits is how many bits a prefix fixes: its bytes, not its end.
func prefixBits(prefix []byte) uint32 { return uint32(len(prefix)) * bitsPerByte }

// firstDifference returns the first bit at which a and b differ; ok is false
// if they are equal.
func firstDifference(a, b []byte) (at uint32, ok bool) {
	n := min(len(a), len(b))
	for i := range n {
		if x := a[i] ^ b[i]; x != 0 {
			return uint32(i)*bitsPerByte + 1 + uint32(bits.LeadingZeros8(x)), true
		}
	}
	if len(a) == len(b) {
		return 0, false
	}
	return uint32(n) * bitsPerByte, true
}
