package contract

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon/schematest"
	"github.com/zero-os/zos/spec/plan"
)

// TestSchemaNamesTheFieldsOfPublicRecords keeps what ledger.cddl says of names and
// public addresses and the structs the same.
func TestSchemaNamesTheFieldsOfPublicRecords(t *testing.T) {
	schematest.Compare(t, "..", "ledger.cddl", map[string]any{
		"features-record": FeaturesRecord{}, "pool-record": PoolRecord{}, "segment-record": SegmentRecord{}, "segment-range": SegmentRange{}, "zone-record": ZoneRecord{},
		"host-name-record": HostNameRecord{}, "host-names-record": HostNamesRecord{}, "lookalike-record": LookalikeRecord{},
		"lease-record": LeaseRecord{}, "holder-record": HolderRecord{},
		"challenge-record": ChallengeRecord{}, "challenges-record": ChallengesRecord{}, "open-challenge": OpenChallenge{},
	})
}

// TestSchemaNamesTheFieldsOfEveryStatement keeps statements.cddl and the structs
// the same: every struct has its rule, with exactly its fields in its order.
func TestSchemaNamesTheFieldsOfEveryStatement(t *testing.T) {
	rest := schematest.Compare(t, "..", "statements.cddl", map[string]any{
		"header": Header{}, "genesis": Genesis{}, "validator": Validator{}, "account": Account{}, "group": Group{}, "member": Member{},
		"farm": Farm{}, "slot": Slot{}, "capacity": Capacity{}, "delegation": Delegation{}, "consent": Consent{}, "node": Node{},
		"approval": Approval{}, "receipt": Receipt{}, "features": Features{}, "release": Release{}, "checkpoint": Checkpoint{}, "tag": Tag{},
		"signed": Signed{}, "signature": Signature{},
		"plan": plan.Plan{}, "workload": plan.Workload{}, "resources": plan.Resources{}, "container": plan.Container{},
		"network": plan.Network{}, "network-node": plan.NetworkNode{}, "network-config": plan.NetworkConfig{},
		"attachment": plan.Attachment{}, "rule": plan.Rule{}, "gateway": plan.Gateway{}, "route": plan.Route{}, "device": plan.Device{},
		"vm": plan.VM{}, "disk": plan.Disk{}, "life": plan.Life{}, "health": plan.Health{}, "access": plan.Access{}, "file": plan.File{}, "secret": plan.Secret{}, "update": plan.Update{},
		"pool": Pool{}, "range": Range{}, "zone": Zone{}, "challenge": Challenge{}, "name-plan": plan.Name{},
	})
	for _, name := range rest {
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
