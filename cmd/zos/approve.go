package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

func (a *app) approveCommand() *cobra.Command {
	var yes bool
	var planHash string
	cmd := &cobra.Command{
		Use:   "approve PROPOSAL",
		Short: "Show what a proposal says and changes, and sign it",
		Long: `Show the statement decoded from the very bytes that are signed, the hash of its
plan, and what it changes; then sign it with your key.

In scripts, --plan-hash says which plan you mean and --yes skips the question.`,
		Example:           "  zos approve 1a2b3c4d --as green\n  zos approve 1a2b3c4d --as green --plan-hash HASH --yes",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(proposalNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				return a.approve(ctx, c, args[0], planHash, yes)
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask; needs --plan-hash")
	cmd.Flags().StringVar(&planHash, "plan-hash", "", "sign only if the plan has this hash (64 hex digits)")
	return cmd
}

func (a *app) approve(ctx context.Context, c *client.Client, ref, planHash string, yes bool) error {
	if yes && planHash == "" {
		return usageError{errors.New("--yes needs --plan-hash: say which plan you approve without looking")}
	}
	by, err := c.DefaultSigner(ctx, a.as)
	if err != nil {
		return err
	}
	p, err := c.FindProposal(ctx, ref)
	if err != nil {
		return err
	}
	if planHash != "" {
		want, err := canon.ParseHash(planHash)
		if err != nil {
			return usageError{fmt.Errorf("--plan-hash: %w", err)}
		}
		if len(p.Statement) > 0 && want != p.PlanHash {
			return problem.New("plan-hash-mismatch", "proposal %s carries the plan %s, not %s", p.ID.Short(), p.PlanHash, want).
				WithFix("look at what it says: zos approve %s", p.ID.Short())
		}
	}
	if err := c.MayApprove(ctx, p, by.Public()); err != nil {
		return fmt.Errorf("approve %s: %w", p.ID.Short(), err)
	}
	if !yes {
		if err := a.showStatement(ctx, c, p); err != nil {
			return err
		}
		if err := a.confirm(ctx, fmt.Sprintf("Sign this as %s?", by.Public().Fingerprint())); err != nil {
			return err
		}
	}
	if err := c.Approve(ctx, p, by); err != nil {
		return fmt.Errorf("approve %s: %w", p.ID.Short(), err)
	}
	if p.Approval.Action == contract.ActionCancel {
		if err := a.awaitEnd(ctx, c, p); err != nil {
			return err
		}
	}
	return a.showProposal(ctx, c, p.ID, p.PlanHash)
}

// endTime is how long an approval that ends a contract waits for its nodes.
const endTime = 30 * time.Second

// awaitEnd waits until the nodes' receipts say that nothing of a cancelled
// contract is left. A node that is away removes it when it returns.
func (a *app) awaitEnd(ctx context.Context, c *client.Client, p client.Proposal) error {
	now, err := c.Proposal(ctx, p.ID)
	if err != nil || now.Record.State != contract.ProposalAccepted {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	err = client.Poll(wait, func(ctx context.Context) (bool, error) { return c.Gone(ctx, p.Approval.Contract) })
	if err != nil && ctx.Err() == nil {
		a.progress("not every node has confirmed yet that it removed its workloads; they do when they are back")
		return nil
	}
	return err
}

// showStatement shows on standard error what is about to be signed.
func (a *app) showStatement(ctx context.Context, c *client.Client, p client.Proposal) error {
	lines, err := contract.Describe(p.Statement)
	if err != nil {
		return err
	}
	for _, l := range lines {
		a.progress("  %s", printable(l))
	}
	names, err := c.Names(ctx)
	if err != nil {
		return err
	}
	changes, err := changesOf(ctx, c, p, names)
	if err != nil {
		return err
	}
	a.progress("\nwhat changes in %s/%s:", names.Of(p.Approval.Group), p.Approval.Name)
	for _, l := range changes {
		color := quiet
		switch l[0] {
		case '+':
			color = good
		case '-':
			color = bad
		case '!':
			color = care
		}
		a.progress("  %s", a.paint(a.err, color, printable(l)))
	}
	a.progress("\nplan hash  %s", a.paint(a.err, loud, p.PlanHash.String()))
	a.progress("approved   %d of %d\n", p.Record.Weight, p.Record.Threshold)
	return nil
}

// changesOf says what a proposal changes of what stands.
func changesOf(ctx context.Context, c *client.Client, p client.Proposal, names client.Names) ([]string, error) {
	if p.Approval.Class == contract.ClassName {
		zone, err := c.Zone(ctx)
		if err != nil {
			return nil, err
		}
		name, err := c.HostName(ctx, p.Name.Label)
		if problem.Code(err) == "name-unreserved" {
			return nameChange(p, nil, zone, names), nil
		}
		return nameChange(p, &name, zone, names), err
	}
	var standing *plan.Plan
	if !p.Approval.Contract.IsZero() {
		old, err := c.Contract(ctx, p.Approval.Contract)
		if err != nil {
			return nil, err
		}
		standing = &old.Plan
	}
	changes := diff(standing, &p.Plan, names)
	for _, l := range attention(standing, &p.Plan) {
		changes = append(changes, "! "+l)
	}
	return changes, nil
}

// confirm asks a person; without one it refuses.
func (a *app) confirm(ctx context.Context, question string) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return usageError{errors.New("there is nobody to ask: repeat with --plan-hash HASH --yes")}
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case s := <-answer:
		if s == "y" || s == "yes" {
			return nil
		}
	}
	return problem.New("not-signed", "nothing was signed")
}
