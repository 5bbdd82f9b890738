package client

import (
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

func TestAContractThatIsNotThereSaysWhereToLook(t *testing.T) {
	demo := canon.Sum([]byte("demo"))
	names := Names{demo: "demo"}
	proposal := func(name, action string) Proposal {
		return Proposal{ID: canon.Sum([]byte(name)), Record: contract.ProposalRecord{Group: demo, Name: name, Action: action}}
	}
	open := []Proposal{proposal("shop", contract.ActionCancel), proposal("duo", contract.ActionDeploy)}
	waits := canon.Sum([]byte("duo"))
	for ref, fix := range map[string]string{
		"demo/duo":                 "it waits for approvals: zos approve " + waits.Short(),
		"duo":                      "it waits for approvals: zos approve " + waits.Short(),
		waits.Short():              "it waits for approvals: zos approve " + waits.Short(),
		waits.String():             "it waits for approvals: zos approve " + waits.Short(),
		demo.String() + "/duo":     "it waits for approvals: zos approve " + waits.Short(),
		"other/duo":                listContracts,
		"shop":                     "did you mean demo/shop?",
		"shpo":                     "did you mean demo/shop?",
		"demo/shpo":                "did you mean demo/shop?",
		"demo/site":                listContracts,
		"site":                     "did you mean work/site?",
		"":                         listContracts,
		"demo/":                    listContracts,
		strings.Repeat("0", 64):    listContracts,
		canon.Sum(nil).Short():     listContracts,
		waits.Short()[:4]:          listContracts,
		"demo/something-else":      listContracts,
		"demo/shop/web":            listContracts,
		"demo/" + waits.String():   listContracts,
		"nobody/" + waits.String(): listContracts,
	} {
		err := contractUnknown(ref, []string{"demo/shop", "work/site"}, open, names)
		if problem.Code(err) != "contract-unknown" || problem.Fix(err) != fix {
			t.Errorf("%q: %v, fix %q, want %q", ref, err, problem.Fix(err), fix)
		}
	}
}
