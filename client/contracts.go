package client

import (
	"context"
	"fmt"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec"
	"github.com/zero-os/zos/spec/plan"
)

// Contract is a contract with its newest plan decoded.
type Contract struct {
	ID canon.Hash
	contract.ContractRecord
	Plan plan.Plan
}

// Active tells whether it stands.
func (k Contract) Active() bool { return k.State == contract.ContractActive }

// Contract reads a contract by its id.
func (c *Client) Contract(ctx context.Context, id canon.Hash) (Contract, error) {
	rec, ok, err := Get[contract.ContractRecord](ctx, c, contract.KeyContract(id))
	if err != nil {
		return Contract{}, err
	}
	if !ok {
		return Contract{}, problem.New("contract-unknown", "no contract %s", id.Short()).WithFix(listContracts)
	}
	return c.newest(id, rec)
}

func (c *Client) newest(id canon.Hash, rec contract.ContractRecord) (Contract, error) {
	out := Contract{ID: id, ContractRecord: rec}
	if len(rec.History) == 0 {
		return out, problem.New("proof-invalid", "contract %s has no approval", id.Short())
	}
	a, _, _, err := contract.Open[contract.Approval](rec.History[len(rec.History)-1], contract.KindApproval, c.Grid())
	if err != nil {
		return out, err
	}
	out.Plan, err = plan.Decode(a.Plan)
	return out, err
}

// contractNames is where the names of active contracts lie, below their groups' ids.
const contractNames = "name/contract/"

const listContracts = "list them with: zos contract ls"

// FindContract resolves group/deployment, or at least 8 hex digits of the id. For
// one that is not there, the error says where to look.
func (c *Client) FindContract(ctx context.Context, ref string) (Contract, error) {
	k, err := c.findContract(ctx, ref)
	if problem.Code(err) != "contract-unknown" || problem.Fix(err) == moreDigits {
		return k, err
	}
	names, errNames := c.Names(ctx)
	held, errHeld := List[contract.NameRecord](ctx, c, contractNames)
	open, errOpen := c.Proposals(ctx, false)
	if errNames != nil || errHeld != nil || errOpen != nil {
		return k, err // what was asked is answered; only the advice is missing
	}
	known := make([]string, 0, len(held))
	for _, r := range held {
		if group, name, ok := strings.Cut(r.Name, "/"); ok {
			if id, err := canon.ParseHash(group); err == nil {
				known = append(known, names.Of(id)+"/"+name)
			}
		}
	}
	return k, contractUnknown(ref, known, open, names)
}

// contractUnknown tells what may be meant by a contract that is not there: one that
// waits for approvals, or another name.
func contractUnknown(ref string, known []string, open []Proposal, names Names) error {
	for _, o := range open {
		full := names.Of(o.Record.Group) + "/" + o.Record.Name
		if o.Record.Action != contract.ActionDeploy {
			continue // the contract is there
		}
		if ref == full || ref == o.Record.Group.String()+"/"+o.Record.Name || ref == o.Record.Name || len(ref) >= minPrefix && strings.HasPrefix(o.ID.String(), ref) {
			return problem.New("contract-unknown", "no contract %q yet", ref).WithFix("it waits for approvals: zos approve %s", o.ID.Short())
		}
	}
	p := problem.New("contract-unknown", "no contract %q", ref)
	group, name, grouped := strings.Cut(ref, "/")
	if !grouped {
		name = ref
	}
	full, short := map[string]string{}, []string{}
	for _, k := range known {
		if of, n, _ := strings.Cut(k, "/"); !grouped || of == group {
			full[n], short = k, append(short, n)
		}
	}
	if near := spec.Nearest(name, short); len(near) > 0 {
		return p.WithFix("did you mean %s?", full[near[0]])
	}
	return p.WithFix(listContracts)
}

func (c *Client) findContract(ctx context.Context, ref string) (Contract, error) {
	if group, name, ok := strings.Cut(ref, "/"); ok {
		gid, err := c.GroupID(ctx, group)
		if err != nil {
			return Contract{}, err
		}
		id, err := c.resolve(ctx, "contract", contract.KeyContractName(gid, ""), name)
		if err != nil {
			return Contract{}, err
		}
		return c.Contract(ctx, id)
	}
	if id, err := canon.ParseHash(ref); err == nil {
		return c.Contract(ctx, id)
	}
	all, err := List[contract.ContractRecord](ctx, c, "contract/")
	if err != nil {
		return Contract{}, err
	}
	ids := map[string]canon.Hash{}
	for _, r := range all {
		if id, err := canon.ParseHash(r.Name); err == nil {
			ids[r.Name] = id
		}
	}
	id, err := find("contract", ref, ids)
	if err != nil {
		return Contract{}, err
	}
	return c.Contract(ctx, id)
}

// Contracts lists all contracts, cancelled ones included.
func (c *Client) Contracts(ctx context.Context) ([]Contract, error) {
	records, err := List[contract.ContractRecord](ctx, c, "contract/")
	if err != nil {
		return nil, err
	}
	out := make([]Contract, 0, len(records))
	for _, r := range records {
		id, err := canon.ParseHash(r.Name)
		if err != nil {
			return nil, fmt.Errorf("read ledger record contract/%s: %w", r.Name, err)
		}
		k, err := c.newest(id, r.Value)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// Workload is one workload of a standing contract and the node's word on it.
type Workload struct {
	Contract   string     `json:"contract"` // group/deployment
	ContractID canon.Hash `json:"contract_id"`
	Version    uint64     `json:"version"`
	Runs       uint64     `json:"runs"` // version that State is of: a former one while an update goes on, and when it has failed; 0: none
	Name       string     `json:"workload"`
	Set        string     `json:"set"` // of replicas; else empty
	Kind       string     `json:"kind"`
	Node       string     `json:"node"`
	Slot       canon.Hash `json:"slot"`
	State      string     `json:"state"` // a contract.State… constant
	Reason     string     `json:"reason"`
	Detail     string     `json:"detail"`
	ExitCode   int64      `json:"exit_code"`
	Ready      bool       `json:"ready"`     // running and healthy, or exited with 0
	Isolation  string     `json:"isolation"` // "microvm", "namespace", "vm"; of what has not started, the plan's
	Restarts   uint64     `json:"restarts"`  // by the receipt: the node's own count may be ahead
	Verity     bool       `json:"verity"`
	Epoch      uint64     `json:"epoch"` // of the slot's key that signed the receipt; 0 without one
	Time       uint64     `json:"time"`  // of the receipt, Unix seconds
}

// active lists the contracts that stand, by the names that they hold: cancelled
// ones, and the histories of all others' versions, are not read.
func (c *Client) active(ctx context.Context) ([]Contract, error) {
	records, err := List[contract.NameRecord](ctx, c, contractNames)
	if err != nil {
		return nil, err
	}
	out := make([]Contract, 0, len(records))
	for _, r := range records {
		k, err := c.Contract(ctx, r.Value.ID)
		if err != nil {
			return nil, err
		}
		// Between two reads a contract may have been cancelled.
		if k.State == contract.ContractActive {
			out = append(out, k)
		}
	}
	return out, nil
}

// Workloads lists what active contracts run. A receipt counts if it is of the slot
// that the plan names; that the slot's own key signed it is what the ledger's rules
// made sure of. One of a former version says what still runs while an update goes on,
// and what runs again when the update has failed.
func (c *Client) Workloads(ctx context.Context) ([]Workload, error) {
	contracts, err := c.active(ctx)
	if err != nil {
		return nil, err
	}
	names, err := c.Names(ctx)
	if err != nil {
		return nil, err
	}
	out := []Workload{}
	for _, k := range contracts {
		id := k.ID
		receipts, err := c.receipts(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, w := range k.Plan.Workloads {
			row := Workload{
				Contract: names.Of(k.Group) + "/" + k.Name, ContractID: id, Version: k.Version,
				Name: w.Name, Set: w.Set, Kind: w.Kind, Node: names.Of(w.Slot), Slot: w.Slot, State: contract.StatePending, Isolation: isolationOf(w),
			}
			if rc, ok := receipts[w.Name]; ok && rc.Slot == w.Slot {
				row.take(rc)
			}
			out = append(out, row)
		}
	}
	return out, nil
}

// take puts a node's word on a workload into its row. A former version's counts while
// something of it runs, or has come back; that it has ended says nothing of this one.
func (w *Workload) take(rc contract.Receipt) {
	former := rc.Version < w.Version
	if former && rc.State != contract.StateRunning {
		return
	}
	w.Runs, w.State, w.Reason, w.Detail, w.ExitCode = rc.Version, rc.State, rc.Reason, rc.Detail, rc.ExitCode
	w.Restarts, w.Verity, w.Epoch, w.Time = rc.Restarts, rc.Verity, rc.Epoch, rc.Time
	if rc.Reason == updateReturned {
		w.Runs = 0 // the receipt is of the version that failed; its detail says what runs
	}
	w.Ready = rc.Ready && !former && rc.Reason != updateReturned // what was asked for is not there
	if rc.Isolation != "" {
		w.Isolation = rc.Isolation
	}
	if former {
		w.State = contract.StatePending
	}
}

// updateReturned is a receipt's reason when an update has failed and the node went
// back to the version before.
const updateReturned = "update-returned"

// isolationOf is the class that a plan gives a workload.
func isolationOf(w plan.Workload) string {
	switch w.Kind {
	case plan.KindVM:
		return plan.KindVM
	case plan.KindContainer:
		if c, err := plan.DecodeContainer(w.Config); err == nil {
			return c.Isolation
		}
	}
	return ""
}

// Gone tells whether every workload of a contract that ever had a receipt has
// one that says that nothing of it is left.
func (c *Client) Gone(ctx context.Context, id canon.Hash) (bool, error) {
	receipts, err := c.receipts(ctx, id)
	if err != nil {
		return false, err
	}
	for _, r := range receipts {
		if r.State != contract.StateGone {
			return false, nil
		}
	}
	return true, nil
}

// receipts reads the receipts of a contract by workload. Open checks that they
// are signed; whose key that was, the ledger's rules judged.
func (c *Client) receipts(ctx context.Context, id canon.Hash) (map[string]contract.Receipt, error) {
	records, err := List[contract.ReceiptRecord](ctx, c, contract.KeyReceiptPrefix(id))
	if err != nil {
		return nil, err
	}
	out := map[string]contract.Receipt{}
	for _, r := range records {
		rc, _, _, err := contract.Open[contract.Receipt](r.Value.Signed, contract.KindReceipt, c.Grid())
		if err != nil {
			return nil, err
		}
		out[rc.Workload] = rc
	}
	return out, nil
}

// MemberKeys lists the keys of a group's members.
func (c *Client) MemberKeys(ctx context.Context, group canon.Hash) ([]sign.PublicKey, error) {
	g, _, err := c.Group(ctx, group)
	if err != nil {
		return nil, err
	}
	keys := make([]sign.PublicKey, 0, len(g.Members))
	for _, m := range g.Members {
		account, err := c.Account(ctx, m.Account)
		if err != nil {
			return nil, err
		}
		keys = append(keys, sign.PublicKey(account.Key))
	}
	return keys, nil
}
