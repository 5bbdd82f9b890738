package contract

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/spec/plan"
)

// fields returns the CBOR names of a struct's fields, embedded ones as the
// header that they are.
func fields(typ reflect.Type) []string {
	var names []string
	for f := range typ.Fields() {
		if f.Anonymous {
			names = append(names, "header")
		} else {
			names = append(names, f.Tag.Get("cbor"))
		}
	}
	return names
}

// rulesOf returns the field names of every map that a schema has, by rule.
func rulesOf(t *testing.T, file string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string][]string{}
	rule := regexp.MustCompile(`(?m)^([a-z-]+) = [{(]\n((?:  .*\n)*)[})]$`)
	for _, m := range rule.FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(m[2]) {
			name, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			name, _, _ = strings.Cut(name, ",")
			rules[m[1]] = append(rules[m[1]], name)
		}
	}
	return rules
}

// TestSchemaNamesTheFieldsOfPublicRecords keeps what ledger.cddl says of names and
// public addresses and the structs the same.
func TestSchemaNamesTheFieldsOfPublicRecords(t *testing.T) {
	rules := rulesOf(t, "../docs/reference/ledger.cddl")
	for name, v := range map[string]any{
		"features-record": FeaturesRecord{}, "pool-record": PoolRecord{}, "segment-record": SegmentRecord{}, "segment-range": SegmentRange{}, "zone-record": ZoneRecord{},
		"host-name-record": HostNameRecord{}, "host-names-record": HostNamesRecord{}, "lookalike-record": LookalikeRecord{},
		"lease-record": LeaseRecord{}, "holder-record": HolderRecord{},
		"challenge-record": ChallengeRecord{}, "challenges-record": ChallengesRecord{}, "open-challenge": OpenChallenge{},
	} {
		if want := fields(reflect.TypeOf(v)); !slices.Equal(rules[name], want) {
			t.Errorf("rule %s has %v, the struct %v", name, rules[name], want)
		}
	}
}

// TestSchemaNamesTheFieldsOfEveryStatement keeps statements.cddl and the structs
// the same: every struct has its rule, with exactly its fields in its order.
func TestSchemaNamesTheFieldsOfEveryStatement(t *testing.T) {
	rules := rulesOf(t, "../docs/reference/statements.cddl")
	for name, v := range map[string]any{
		"header": Header{}, "genesis": Genesis{}, "validator": Validator{}, "account": Account{}, "group": Group{}, "member": Member{},
		"farm": Farm{}, "slot": Slot{}, "capacity": Capacity{}, "delegation": Delegation{}, "consent": Consent{}, "node": Node{},
		"approval": Approval{}, "receipt": Receipt{}, "features": Features{}, "release": Release{}, "checkpoint": Checkpoint{}, "tag": Tag{},
		"signed": Signed{}, "signature": Signature{},
		"plan": plan.Plan{}, "workload": plan.Workload{}, "resources": plan.Resources{}, "container": plan.Container{},
		"network": plan.Network{}, "network-node": plan.NetworkNode{}, "network-config": plan.NetworkConfig{},
		"attachment": plan.Attachment{}, "rule": plan.Rule{}, "gateway": plan.Gateway{}, "route": plan.Route{}, "device": plan.Device{},
		"vm": plan.VM{}, "disk": plan.Disk{}, "life": plan.Life{}, "health": plan.Health{}, "access": plan.Access{}, "file": plan.File{}, "secret": plan.Secret{}, "update": plan.Update{},
		"pool": Pool{}, "range": Range{}, "zone": Zone{}, "challenge": Challenge{}, "name-plan": plan.Name{},
	} {
		if want := fields(reflect.TypeOf(v)); !slices.Equal(rules[name], want) {
			t.Errorf("rule %s has %v, the struct %v", name, rules[name], want)
		}
		delete(rules, name)
	}
	for name := range rules {
		t.Errorf("rule %s has no struct", name)
	}
}

// TestEveryCodeIsDocumented looks for codes in the sources of the packages that
// judge, and for their rows in errors.md.
func TestEveryCodeIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/reference/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`(?:problem\.New\(|l\.fresh\([a-zA-Z.]+, )"([a-z-]+)"`)
	found := 0
	for _, dir := range []string{".", "../sign", "../seal", "../secret", "../canon", "../spec/plan"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range code.FindAllStringSubmatch(string(src), -1) {
				found++
				if !strings.Contains(string(doc), "\n| `"+m[1]+"` |") {
					t.Errorf("%s: code %s has no row in docs/reference/errors.md", file, m[1])
				}
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d codes found: the search is broken", found)
	}
}
