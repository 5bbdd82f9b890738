package control

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSchemaNamesTheFieldsOfEveryMessage keeps gateway.cddl and the structs the
// same: exactly their fields, in their order.
func TestSchemaNamesTheFieldsOfEveryMessage(t *testing.T) {
	text, err := os.ReadFile("../../docs/reference/gateway.cddl")
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string][]string{}
	rule := regexp.MustCompile(`(?m)^([a-z-]+) = \{\n((?:  .*\n)*)\}$`)
	for _, m := range rule.FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(m[2]) {
			name, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			rules[m[1]] = append(rules[m[1]], name)
		}
	}
	for name, v := range map[string]any{
		"hello": Hello{}, "config": Config{}, "route": Route{}, "backend": Backend{}, "zone": Zone{}, "zone-name": ZoneName{}, "zone-record": ZoneRecord{},
		"applied": Applied{}, "status-request": StatusRequest{}, "status": Status{}, "route-status": RouteStatus{}, "backend-status": BackendStatus{},
		"certificate-status": CertificateStatus{}, "sockets-request": SocketsRequest{}, "failure": Failure{}, "sockets-reply": SocketsReply{},
		"log-batch": LogBatch{}, "log-line": LogLine{}, "note": Note{}, "store-request": StoreRequest{}, "store-reply": StoreReply{},
		"record-request": RecordRequest{}, "resolve-request": ResolveRequest{}, "resolve-reply": ResolveReply{},
	} {
		var want []string
		for f := range reflect.TypeOf(v).Fields() {
			want = append(want, f.Tag.Get("cbor"))
		}
		if !slices.Equal(rules[name], want) {
			t.Errorf("rule %s has %v, the struct %v", name, rules[name], want)
		}
	}
}
