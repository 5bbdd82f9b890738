package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// memberFlags are those of the verbs that make this machine a member.
type memberFlags struct {
	name        string
	yes, noWait bool
	endpoints   []string
}

func (f *memberFlags) define(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.name, "name", "", "name of this machine in the network (default: your account and its host name)")
	f.defineAsking(cmd)
	cmd.Flags().StringArrayVar(&f.endpoints, "endpoint", nil, "ADDRESS:PORT that leads to the gateway, instead of its public ones; may be repeated")
	cmd.Flags().BoolVar(&f.noWait, "no-wait", false, "propose, and end; run it again once others have approved")
}

func (f *memberFlags) defineAsking(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "sign without asking")
}

// member is this machine as a network's member, by a plan that stands.
type member struct {
	k       client.Contract
	n       plan.Network
	name    string
	account canon.Hash
	key     wireguard.Key
	slot    canon.Hash // by which it enters
	by      sign.Signer
	names   client.Names
	// endpoints are to be used instead of those that the node tells.
	endpoints []netip.AddrPort
}

// member makes this machine a member of a network, or finds that it is one. It is
// nil when that has been proposed and nobody waits for it.
func (a *app) member(ctx context.Context, c *client.Client, ref string, f memberFlags) (*member, error) {
	for {
		m, err := a.newMember(ctx, c, ref, f)
		if err != nil {
			return nil, err
		}
		p, err := c.PlanChange(ctx, m.k, m.join)
		if err != nil {
			return nil, err
		}
		if p.Bytes == nil {
			for _, w := range m.k.Plan.Workloads {
				if w.Name == m.name {
					m.slot = w.Slot
				}
			}
			return m, nil
		}
		id, err := a.proposeMember(ctx, c, m, p, f)
		if err != nil {
			return nil, err
		}
		if f.noWait {
			open, err := c.Proposal(ctx, id)
			if err != nil {
				return nil, err
			}
			if open.Record.State == contract.ProposalOpen {
				return nil, a.showProposal(ctx, c, id, p.Hash)
			}
		} else if err := a.awaitApproval(ctx, c, id); err != nil {
			return nil, err
		}
		f.yes = true // asked once is enough; if another update came first, it is proposed anew
	}
}

func (m *member) join(p plan.Plan) (plan.Plan, error) {
	return client.WithDevice(p, client.NewDevice{Name: m.name, Network: m.n.Name, Key: m.key.Public(), Account: m.account})
}

// newMember finds out who asks for which network.
func (a *app) newMember(ctx context.Context, c *client.Client, ref string, f memberFlags) (*member, error) {
	m := &member{}
	for _, text := range f.endpoints {
		e, err := netip.ParseAddrPort(text)
		if err != nil || e.Port() == 0 {
			return nil, usageError{fmt.Errorf("--endpoint %s: want an address and a port, like 198.51.100.10:7000 or [2001:db8::1]:7000", text)}
		}
		m.endpoints = append(m.endpoints, e)
	}
	var err error
	if m.k, m.n, err = c.NetworkOfMine(ctx, ref); err != nil {
		return nil, err
	}
	if m.names, err = c.Names(ctx); err != nil {
		return nil, err
	}
	if m.by, m.account, err = a.memberSigner(ctx, c, m.k); err != nil {
		return nil, err
	}
	if m.name = f.name; m.name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("find this machine's name: %w", err)
		}
		m.name = deviceName(m.names.Of(m.account), host)
	}
	if !plan.ValidName(m.name) {
		return nil, problem.New("name-invalid", "%q is no name of a device", m.name).WithFix("use 1 to 63 of a-z, 0-9 and - with --name")
	}
	// Before there is a key for it: nothing is left behind by a mistake.
	if _, err := client.WithDevice(m.k.Plan, client.NewDevice{Name: m.name, Network: m.n.Name, Key: [32]byte{1}, Account: m.account}); err != nil &&
		problem.Code(err) != "name-taken" {
		return nil, err
	}
	m.key, err = c.DeviceKey(m.k.ID, m.n.Name, m.name)
	return m, err
}

// memberSigner is who asks: the key named with --as, the context's default, or any
// key at hand, if it is of a member of the contract's group.
func (a *app) memberSigner(ctx context.Context, c *client.Client, k client.Contract) (sign.Signer, canon.Hash, error) {
	by, err := c.MemberSigner(ctx, k, a.as)
	if err == nil && a.as == "" && c.Context().Default != "" {
		if usual, err := c.MemberSigner(ctx, k, c.Context().Default); err == nil {
			by = usual
		}
	}
	if err != nil {
		return nil, canon.Hash{}, err
	}
	account, ok, err := c.AccountOf(ctx, by.Public())
	if err == nil && !ok {
		err = problem.New("account-unknown", "no account has the key %s", by.Public().Fingerprint())
	}
	return by, account, err
}

// deviceName is a machine's name by who uses it and its host's name.
func deviceName(account, host string) string {
	host, _, _ = strings.Cut(host, ".")
	host = strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r == '_' || r == ' ':
			return '-'
		}
		return -1
	}, host), "-")
	if host == "" {
		host = "machine"
	}
	name := account + "-" + host
	return strings.TrimRight(name[:min(63, len(name))], "-")
}

// proposeMember goes on with what is proposed already, or proposes it.
func (a *app) proposeMember(ctx context.Context, c *client.Client, m *member, p client.Planned, f memberFlags) (canon.Hash, error) {
	public := m.key.Public()
	open, found, err := c.OpenProposal(ctx, m.k, func(p plan.Plan) bool {
		d, ok := client.Devices(&p)[m.name]
		return ok && [32]byte(d.Key) == public && d.Account == m.account && d.Network.Network == m.n.Name
	})
	if err != nil {
		return canon.Hash{}, err
	}
	if found {
		err := c.MayApprove(ctx, open, m.by.Public())
		if problem.Code(err) == "already-approved" {
			return open.ID, nil
		}
		if err != nil {
			return canon.Hash{}, err
		}
		if !f.yes { // others proposed it, perhaps with more than this machine
			if err := a.showStatement(ctx, c, open); err != nil {
				return canon.Hash{}, err
			}
			if err := a.asked(ctx, m.by); err != nil {
				return canon.Hash{}, err
			}
			return open.ID, c.Approve(ctx, open, m.by)
		}
	}
	return a.proposeChange(ctx, c, p, m.by, m.names, f.yes)
}

// proposeChange shows what an update of a standing contract changes, asks, and
// proposes it.
func (a *app) proposeChange(ctx context.Context, c *client.Client, p client.Planned, by sign.Signer, names client.Names, yes bool) (canon.Hash, error) {
	a.progress("%s %s/%s version %d", p.Action(), names.Of(p.Plan.Group), p.Plan.Name, p.Version)
	for _, l := range diff(p.Standing, &p.Plan, names) {
		color := quiet
		switch l[0] {
		case '+':
			color = good
		case '-':
			color = bad
		}
		a.progress("  %s", a.paint(a.err, color, printable(l)))
	}
	a.progress("plan hash  %s", a.paint(a.err, loud, p.Hash.String()))
	a.progress("decided by %d of the group's votes", p.Group.Threshold)
	if !yes {
		if err := a.asked(ctx, by); err != nil {
			return canon.Hash{}, err
		}
	}
	id, err := c.Propose(ctx, p, by)
	if err != nil {
		return id, fmt.Errorf("propose the update of %s: %w", p.Plan.Name, err)
	}
	return id, nil
}

// asked asks a person for a signature; in a script it says what to add.
func (a *app) asked(ctx context.Context, by sign.Signer) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return usageError{errors.New("there is nobody to ask: repeat with --yes")}
	}
	return a.confirm(ctx, fmt.Sprintf("Sign this as %s?", by.Public().Fingerprint()))
}

// awaitApproval waits until a proposal is decided, and says who decides.
func (a *app) awaitApproval(ctx context.Context, c *client.Client, id canon.Hash) error {
	names, err := c.Names(ctx)
	if err != nil {
		return err
	}
	said := ""
	err = client.Poll(ctx, func(ctx context.Context) (bool, error) {
		p, err := c.Proposal(ctx, id)
		if err != nil || p.Record.State != contract.ProposalOpen {
			return err == nil, err
		}
		if r := rowOf(p, names); r.State == "expired" {
			return false, problem.New("proposal-expired", "proposal %s expired before enough members approved it", id.Short()).WithFix("run this again: it proposes anew")
		}
		who, err := c.WhoMustApprove(ctx, p)
		if err != nil {
			return false, err
		}
		if line := waitingLine(p, who, names); line != said {
			a.progress("%s", line)
			said = line
		}
		return false, nil
	})
	if ctx.Err() != nil {
		a.progress("the proposal stays: run this again to go on")
		return ctx.Err()
	}
	return err
}

// waitingLine says who can still approve a proposal, and how.
func waitingLine(p client.Proposal, who []canon.Hash, names client.Names) string {
	list := make([]string, len(who))
	for i, id := range who {
		list[i] = names.Of(id)
	}
	return fmt.Sprintf("%d of %d have approved; waiting for %s: zos approve %s", p.Record.Weight, p.Record.Threshold, strings.Join(list, " or "), p.ID.Short())
}
