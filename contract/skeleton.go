package contract

import "strings"

// Skeleton maps a label to what a person sees of it at a glance: labels that look
// alike have one skeleton. It is the idea of Unicode's UTS #39, section 4, for
// the letters that labels can have. It errs on the side of alike: "shop-1" and
// "shopl" are one, and so are "100" and "10".
//
// In this order: hyphens go; digits and letters that are drawn alike become one
// of them; pairs that are drawn like one letter become that letter, from left to
// right; what is doubled is there once. For w it is the pair that stays, and may
// be there: with one v more, which two of three are the w can't be seen.
func Skeleton(label string) string {
	alike := strings.NewReplacer("-", "", "0", "o", "1", "l", "i", "l", "5", "s", "2", "z", "8", "b", "9", "g", "q", "g")
	pairs := strings.NewReplacer("rn", "m", "w", "vv", "cl", "d")
	s := pairs.Replace(alike.Replace(label))
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		n, most := len(out), 1
		if s[i] == 'v' {
			most = 2
		}
		if n >= most && out[n-1] == s[i] && out[n-most] == s[i] {
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}
