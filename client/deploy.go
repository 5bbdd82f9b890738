package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec"
	"github.com/zero-os/zos/spec/plan"
)

// ProposalLife is how long a proposal made here can gather approvals.
const ProposalLife = 7 * 24 * time.Hour

// Planned is a resolved deployment, next to what stands.
type Planned struct {
	Plan     plan.Plan
	Bytes    []byte     // canonical: what the approval carries
	Hash     canon.Hash // of Bytes
	Contract canon.Hash // standing contract, zero for a new deployment
	Version  uint64     // that the plan would be
	Standing *plan.Plan // what runs now, nil for a new deployment
	Group    contract.Group
	Epoch    uint64
	// Read is where values of secrets were read from on this machine, each once, as the
	// spec says it: whoever plans a spec of somebody else's must see what leaves.
	Read []string
	// Life is how long the proposal can gather approvals; 0 means ProposalLife.
	Life time.Duration
}

// named gives a spec whose one mistake is an image the code of what is wrong
// with the image: a hub that can't be reached is no mistake in the spec.
func named(err error, images []error) error {
	var mistakes *spec.Error
	if len(images) == 0 || !errors.As(err, &mistakes) || len(mistakes.Mistakes) != 1 {
		return err
	}
	return &problem.Error{Code: problem.Code(images[0]), What: err.Error(), Err: err}
}

// Action is what approving the plan does.
func (p Planned) Action() string {
	if p.Contract.IsZero() {
		return contract.ActionDeploy
	}
	return contract.ActionUpdate
}

// Plan resolves a deployment against the grid as it is now.
func (c *Client) Plan(ctx context.Context, d *spec.Deployment) (Planned, error) {
	var p Planned
	group, err := c.GroupID(ctx, d.Group)
	if err != nil {
		return p, err
	}
	if p.Group, p.Epoch, err = c.Group(ctx, group); err != nil {
		return p, err
	}
	if err := c.standing(ctx, group, d.Name, &p); err != nil {
		return p, err
	}
	nodes, err := c.nodesFor(ctx, group, p.Standing, publishes(d), hasSecrets(d))
	if err != nil {
		return p, err
	}
	var images []error // what was wrong with images
	facts := spec.Facts{Grid: c.Grid(), Group: group, Nodes: nodes, Standing: p.Standing,
		File: func(name string, limit int) ([]byte, error) { return specFile(d.File(), name, limit) },
		Value: func(from string) ([]byte, bool, error) {
			b, there, err := specValue(d.File(), from)
			if there && !slices.Contains(p.Read, from) {
				p.Read = append(p.Read, from)
			}
			return b, there, err
		},
	}
	facts.Image = func(ctx context.Context, ref string) (spec.Image, error) {
		image, err := c.Image(ctx, ref)
		if err != nil {
			images = append(images, err)
		}
		return image, err
	}
	if err := c.publicFacts(ctx, d, &p, &facts); err != nil {
		return p, err
	}
	if p.Plan, err = spec.Resolve(ctx, d, facts); err != nil {
		return p, named(err, images)
	}
	if p.Bytes, err = canon.Marshal(p.Plan); err != nil {
		return p, fmt.Errorf("encode the plan: %w", err)
	}
	p.Hash = canon.Sum(p.Bytes)
	return p, nil
}

func hasSecrets(d *spec.Deployment) bool {
	return slices.ContainsFunc(d.Workloads, func(w spec.Workload) bool { return len(w.Secrets) > 0 })
}

// standing fills in the contract that has the deployment's name now.
func (c *Client) standing(ctx context.Context, group canon.Hash, name string, p *Planned) error {
	p.Version = 1
	rec, ok, err := Get[contract.NameRecord](ctx, c, contract.KeyContractName(group, name))
	if err != nil || !ok {
		return err
	}
	old, err := c.Contract(ctx, rec.ID)
	if err != nil {
		return err
	}
	p.Contract, p.Version, p.Standing = rec.ID, old.Version+1, &old.Plan
	return nil
}

// nodesFor lists the joined nodes of the farms that admitted a group, with their
// public addresses, and with the keys that secrets are sealed to, if these are asked
// for.
func (c *Client) nodesFor(ctx context.Context, group canon.Hash, standing *plan.Plan, public, secrets bool) ([]spec.Node, error) {
	now := uint64(time.Now().Unix())
	all, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	consents := map[canon.Hash]bool{}
	var nodes []spec.Node
	for _, n := range all {
		ok, seen := consents[n.Farm]
		if !seen {
			rec, found, err := Get[contract.ConsentRecord](ctx, c, contract.KeyConsent(n.Farm, group))
			if err != nil {
				return nil, err
			}
			if found {
				consent, _, _, err := contract.Open[contract.Consent](rec.Signed, contract.KindConsent, c.Grid())
				if err != nil {
					return nil, err
				}
				ok = consent.Expiry > now && !consent.Capacity.IsZero()
			}
			consents[n.Farm] = ok
		}
		if !ok || n.Epoch == 0 {
			continue
		}
		node := spec.Node{Slot: n.Slot, Name: n.Name, Farm: n.Farm, Free: n.Free()}
		if f := n.Features; f != nil {
			node.Isolation, node.Lacks = append([]string{}, f.Isolation...), f.Detail
		}
		if secrets {
			// The farm's own signatures, not the ledger, say whose keys these are.
			b, err := c.bound(ctx, n.Slot)
			if err != nil {
				return nil, err
			}
			node.Epoch, node.SealingKey = b.Epoch, b.SealingKey
		}
		if standing != nil {
			for _, w := range standing.Workloads {
				if w.Slot == n.Slot {
					node.Own.CPU += w.Resources.CPU
					node.Own.Memory += w.Resources.Memory
					node.Own.Disk += w.Resources.Disk
				}
			}
		}
		if public {
			pool, err := c.Pool(ctx, n)
			if err != nil {
				return nil, err
			}
			if pool.Live() {
				node.Pool = &pool
			}
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// Propose sends a plan with the proposer's own approval and returns the
// proposal's id.
func (c *Client) Propose(ctx context.Context, p Planned, by sign.Signer) (canon.Hash, error) {
	return c.propose(ctx, contract.Approval{
		Group: p.Plan.Group, GroupEpoch: p.Epoch, Class: contract.ClassWorkload, Action: p.Action(), Contract: p.Contract,
		Name: p.Plan.Name, Version: p.Version, Plan: p.Bytes,
	}, p.Life, by)
}

// ProposeCancel proposes the end of a contract.
func (c *Client) ProposeCancel(ctx context.Context, id canon.Hash, by sign.Signer) (canon.Hash, error) {
	old, err := c.Contract(ctx, id)
	if err != nil {
		return canon.Hash{}, err
	}
	if old.State != contract.ContractActive {
		return canon.Hash{}, problem.New("contract-cancelled", "contract %s is cancelled already", old.Name).
			WithFix("nothing is left to do")
	}
	empty, err := canon.Marshal(plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: old.Group, Name: old.Name})
	if err != nil {
		return canon.Hash{}, fmt.Errorf("encode the empty plan: %w", err)
	}
	_, epoch, err := c.Group(ctx, old.Group)
	if err != nil {
		return canon.Hash{}, err
	}
	return c.propose(ctx, contract.Approval{
		Group: old.Group, GroupEpoch: epoch, Class: contract.ClassWorkload, Action: contract.ActionCancel, Contract: id,
		Name: old.Name, Version: old.Version + 1, Plan: empty,
	}, 0, by)
}

// propose completes an approval statement, signs and sends it. The expiry is
// counted from the ledger's time, which is what judges it.
func (c *Client) propose(ctx context.Context, a contract.Approval, life time.Duration, by sign.Signer) (canon.Hash, error) {
	if life == 0 {
		life = ProposalLife
	}
	l, err := c.Ledger(ctx)
	if err != nil {
		return canon.Hash{}, err
	}
	head, err := l.Head(ctx)
	if err != nil {
		return canon.Hash{}, err
	}
	a.Header, a.Nonce = c.header(contract.KindApproval), nonce()
	a.Expiry = uint64(head.Time.Add(life).Unix())
	return c.submit(ctx, a, contract.KindApproval, by)
}

// Proposal is a proposal with its decoded statement.
type Proposal struct {
	ID     canon.Hash
	Record contract.ProposalRecord
	// Statement holds the very bytes that are signed; empty once decided.
	Statement []byte
	Approval  contract.Approval
	Plan      plan.Plan // of a contract
	Name      plan.Name // of an approval of class "name"
	PlanHash  canon.Hash
}

// Proposal reads a proposal by its id.
func (c *Client) Proposal(ctx context.Context, id canon.Hash) (Proposal, error) {
	rec, ok, err := Get[contract.ProposalRecord](ctx, c, contract.KeyProposal(id))
	if err != nil {
		return Proposal{}, err
	}
	if !ok {
		return Proposal{}, problem.New("proposal-unknown", "no proposal %s", id.Short()).WithFix("list them with: zos proposals")
	}
	return c.decode(id, rec)
}

func (c *Client) decode(id canon.Hash, rec contract.ProposalRecord) (Proposal, error) {
	p := Proposal{ID: id, Record: rec, Statement: rec.Signed.Statement}
	if len(p.Statement) == 0 {
		return p, nil
	}
	a, got, _, err := contract.Open[contract.Approval](rec.Signed, contract.KindApproval, c.Grid())
	if err != nil {
		return p, err
	}
	if got != id {
		return p, problem.New("proof-invalid", "proposal %s holds the statement %s", id.Short(), got.Short())
	}
	p.Approval, p.PlanHash = a, canon.Sum(a.Plan)
	if a.Class == contract.ClassName {
		p.Name, err = a.ValidateName()
	} else {
		p.Plan, err = plan.Decode(a.Plan)
	}
	return p, err
}

// Proposals lists proposals: open ones, or all that the ledger still knows.
func (c *Client) Proposals(ctx context.Context, all bool) ([]Proposal, error) {
	records, err := List[contract.ProposalRecord](ctx, c, "proposal/")
	if err != nil {
		return nil, err
	}
	now := uint64(time.Now().Unix())
	out := []Proposal{}
	for _, r := range records {
		if !all && (r.Value.State != contract.ProposalOpen || r.Value.Expiry <= now) {
			continue
		}
		id, err := canon.ParseHash(r.Name)
		if err != nil {
			return nil, err
		}
		p, err := c.decode(id, r.Value)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	slices.SortStableFunc(out, func(a, b Proposal) int { return cmp.Compare(a.Record.Time, b.Record.Time) })
	return out, nil
}

// FindProposal resolves a proposal by 64 or at least 8 hex digits.
func (c *Client) FindProposal(ctx context.Context, ref string) (Proposal, error) {
	if id, err := canon.ParseHash(ref); err == nil {
		return c.Proposal(ctx, id)
	}
	all, err := c.Proposals(ctx, true)
	if err != nil {
		return Proposal{}, err
	}
	ids := map[string]canon.Hash{}
	for _, p := range all {
		ids[p.ID.String()] = p.ID
	}
	id, err := find("proposal", ref, ids)
	if err != nil {
		return Proposal{}, err
	}
	return c.Proposal(ctx, id)
}

// MayApprove tells whether an approval by a key would count now, so that nobody
// is asked to sign in vain. The ledger judges again; the codes are the same:
// "not-a-member", "already-approved", "proposal-closed", "proposal-expired".
//
// It is also what answers a second approval with the same bytes: the ledger
// knows that transaction and would return its first result.
func (c *Client) MayApprove(ctx context.Context, p Proposal, key sign.PublicKey) error {
	group, _, err := c.Group(ctx, p.Record.Group)
	if err != nil {
		return err
	}
	account, ok, err := c.AccountOf(ctx, key)
	if err != nil {
		return err
	}
	if !ok || group.Weight(account) == 0 {
		return problem.New("not-a-member", "%s does not speak for a member of group %s", key.Fingerprint(), group.Name).
			WithFix("let a member approve; who is one: zos group show %s", group.Name)
	}
	if slices.Contains(p.Record.Approvers, account) {
		return problem.New("already-approved", "this account has approved proposal %s already; it counts once", p.ID.Short()).
			WithFix("let another member approve")
	}
	if p.Record.State != contract.ProposalOpen {
		return problem.New("proposal-closed", "proposal %s is %s already", p.ID.Short(), p.Record.State).
			WithFix("look at: zos proposals --all")
	}
	l, err := c.Ledger(ctx)
	if err != nil {
		return err
	}
	head, err := l.Head(ctx)
	if err != nil {
		return err
	}
	// Block time stands still while the ledger is idle, this clock does not.
	if now := max(head.Time.Unix(), time.Now().Unix()); p.Record.Expiry <= uint64(now) {
		return problem.New("proposal-expired", "proposal %s expired at %s", p.ID.Short(), time.Unix(int64(p.Record.Expiry), 0).UTC().Format(time.RFC3339)).
			WithFix("propose it again")
	}
	return nil
}

// Approve signs the very bytes of a proposal and sends the approval.
func (c *Client) Approve(ctx context.Context, p Proposal, by sign.Signer) error {
	if err := c.MayApprove(ctx, p, by.Public()); err != nil {
		return err
	}
	if len(p.Statement) == 0 {
		return problem.New("proposal-closed", "proposal %s holds no statement to sign", p.ID.Short())
	}
	s, err := contract.Countersign(ctx, contract.Signed{Statement: p.Statement}, contract.KindApproval, by)
	if err != nil {
		return err
	}
	return c.Submit(ctx, s)
}

func unknownKey(key sign.PublicKey) error {
	return problem.New("account-unknown", "no account has the key %s", key.Fingerprint()).
		WithFix("found one: zos account create NAME --as KEY")
}
