package bus

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSchemaNamesTheFieldsOfEveryMessage keeps bus.cddl and the structs the same:
// exactly their fields, in their order.
func TestSchemaNamesTheFieldsOfEveryMessage(t *testing.T) {
	text, err := os.ReadFile("../docs/reference/bus.cddl")
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string][]string{}
	rule := regexp.MustCompile(`(?m)^([a-z-]+) = [{(]\n((?:  .*\n)*)[})]$`)
	for _, m := range rule.FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(m[2]) {
			if strings.HasPrefix(line, "   ") || strings.HasPrefix(line, "  }") {
				continue // of a map inside
			}
			name, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			name, _, _ = strings.Cut(name, ",")
			rules[m[1]] = append(rules[m[1]], name)
		}
	}
	for name, v := range map[string]any{
		"call": call{}, "request": Request{}, "session": Session{}, "chunk": chunk{}, "reply": Reply{}, "renewal": Renewal{},
		"act": Act{}, "frame": frame{},
		"heartbeat": Heartbeat{}, "peer-call": peerCall{}, "peer-request": PeerRequest{}, "peer-answer": peerAnswer{},
		"peer-reply": PeerReply{}, "peer-hello": PeerHello{},
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
