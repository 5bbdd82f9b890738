package exchange

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSchemaNamesTheFieldsOfEveryMessage keeps network.cddl and the structs the
// same: exactly their fields, in their order.
func TestSchemaNamesTheFieldsOfEveryMessage(t *testing.T) {
	text, err := os.ReadFile("../../docs/reference/network.cddl")
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string][]string{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+) = {\n((?:  .*\n)*)}$`).FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(m[2]) {
			name, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			name, _, _ = strings.Cut(name, ",")
			rules[m[1]] = append(rules[m[1]], name)
		}
	}
	for name, v := range map[string]any{
		"binding": Binding{}, "exchange-request": Request{}, "exchange-answer": Answer{}, "exchange-bound": bound{}, "exchange-party": party{},
	} {
		var want []string
		for f := range reflect.TypeOf(v).Fields() {
			if f.Anonymous {
				want = append(want, "header")
			} else {
				want = append(want, f.Tag.Get("cbor"))
			}
		}
		if !slices.Equal(rules[name], want) {
			t.Errorf("rule %s has %v, the struct %v", name, rules[name], want)
		}
	}
}
