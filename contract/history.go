package contract

import "github.com/zero-os/zos/canon"

// JudgeHistory checks the kept approvals of a contract for people who want to
// see that its group decided it, without a node or a farm in sight: the group
// and its members' accounts are those that the group's id names, versions rise,
// and a quorum signed every one of them. It returns them in order. It is the
// part of Judge that concerns nobody but the group; its codes are Judge's.
func JudgeHistory(grid canon.Hash, group Signed, members, history []Signed) ([]Approval, error) {
	j := &judge{Evidence: Evidence{Grid: grid, Group: group, Members: members, History: history}}
	if len(history) > 0 {
		j.Entry.Contract = history[0].ID()
	}
	if err := j.people(); err != nil {
		return nil, err
	}
	if err := j.approvals(); err != nil {
		return nil, err
	}
	out := make([]Approval, 0, len(history))
	for _, s := range history {
		a, _, _, err := Open[Approval](s, KindApproval, grid)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}
