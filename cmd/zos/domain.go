package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/domain"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

func (a *app) domainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "domain",
		Short: "Domains of your own, proven by a text record that a group has signed",
	}
	cmd.AddCommand(a.domainProveCommand())
	return cmd
}

func (a *app) domainProveCommand() *cobra.Command {
	var group string
	var with []string
	cmd := &cobra.Command{
		Use:   "prove DOMAIN --group GROUP",
		Short: "Sign the text record that proves a domain, and all hosts below it, to be a group's",
		Long: `Print the TXT record with which a group proves that a domain is its own, with your
signature. Once enough members have signed, gateways publish the group's hosts at
and below the domain; they look it up again and again.

The next member adds a signature to the text: --with 'zos1 group=…'.`,
		Example: "  zos domain prove shop.example --group demo --as red",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				return a.proveDomain(ctx, c, strings.ToLower(strings.TrimSuffix(args[0], ".")), group, with)
			})
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "whose domain it is")
	cmd.Flags().StringArrayVar(&with, "with", nil, "text that others have signed; repeat it")
	_ = cmd.MarkFlagRequired("group")
	_ = cmd.RegisterFlagCompletionFunc("group", a.completeFirst(groupNamesOf))
	return cmd
}

// groupNamesOf completes groups.
func groupNamesOf(ctx context.Context, c *client.Client) ([]string, error) {
	groups, err := c.Groups(ctx)
	out := make([]string, len(groups))
	for i, g := range groups {
		out[i] = g.Is.Name
	}
	return out, err
}

// domainProof is the record, for machines.
type domainProof struct {
	Domain    string   `json:"domain"`
	Record    string   `json:"record"` // its name
	Text      string   `json:"text"`
	Signed    []string `json:"signed"` // members' accounts
	Weight    uint64   `json:"weight"`
	Threshold uint64   `json:"threshold"`
}

func (a *app) proveDomain(ctx context.Context, c *client.Client, name, group string, with []string) error {
	if !plan.ValidHost(name) {
		return problem.New("name-invalid", "%q is no domain", name).WithFix("write it like shop.example; an internationalised one in its ASCII form")
	}
	id, err := c.GroupID(ctx, group)
	if err != nil {
		return err
	}
	g, _, err := c.Group(ctx, id)
	if err != nil {
		return err
	}
	keys, err := c.KeysOf(ctx, g)
	if err != nil {
		return err
	}
	by, _, err := a.memberSigner(ctx, c, client.Contract{ContractRecord: contract.ContractRecord{Group: id}})
	if err != nil {
		return err
	}
	statement := domain.Statement{Grid: c.Grid(), Group: id, Domain: name}
	own, err := domain.Sign(ctx, statement, by)
	if err != nil {
		return err
	}
	proof, signers, err := mergeProofs(statement, keys, own, with)
	if err != nil {
		return err
	}
	text, err := domain.Make(proof)
	if err != nil {
		return err
	}
	names, err := c.Names(ctx)
	if err != nil {
		return err
	}
	out := domainProof{Domain: name, Record: domain.RecordName(name), Text: text, Signed: []string{}, Threshold: g.Threshold}
	for _, account := range signers {
		out.Signed, out.Weight = append(out.Signed, names.Of(account)), out.Weight+g.Weight(account)
	}
	return a.showProof(out, g.Name)
}

// unquoted is a text that was copied as it stands in a zone: in strings of 255
// characters.
func unquoted(text string) string {
	if i := strings.IndexByte(text, '"'); i >= 0 {
		text = text[i:]
	}
	return strings.Trim(strings.ReplaceAll(text, `" "`, ""), `"`)
}

// mergeProofs puts the valid signatures of members together, one of each, those of
// the earlier texts first. A signature that counts for nothing is refused by name of
// its text, rather than published.
func mergeProofs(s domain.Statement, keys map[canon.Hash]sign.PublicKey, own []byte, with []string) (domain.Proof, []canon.Hash, error) {
	message, err := s.Bytes()
	if err != nil {
		return domain.Proof{}, nil, err
	}
	proof := domain.Proof{Group: s.Group}
	var signers []canon.Hash
	add := func(signature []byte) bool {
		for account, key := range keys {
			if sign.Verify(key, domain.Namespace, message, signature) != nil {
				continue
			}
			if !slices.Contains(signers, account) {
				proof.Signatures, signers = append(proof.Signatures, signature), append(signers, account)
			}
			return true
		}
		return false
	}
	for _, text := range with {
		earlier, err := domain.Parse(unquoted(text))
		if err != nil {
			return proof, nil, err
		}
		for _, signature := range earlier.Signatures {
			if earlier.Group != s.Group || !add(signature) {
				return proof, nil, problem.New("domain-proof-invalid", "a signature in --with is not of a member of this group for %s on this grid", s.Domain).
					WithFix("take the text that zos domain prove %s printed for the same group", s.Domain)
			}
		}
	}
	add(own)
	return proof, signers, nil
}

func (a *app) showProof(p domainProof, group string) error {
	if a.format == "json" {
		return a.json(p)
	}
	a.progress("signed by %s: %d of %d of group %s", strings.Join(p.Signed, ", "), p.Weight, p.Threshold, group)
	if p.Weight < p.Threshold {
		a.progress("another member adds a signature: zos domain prove %s --group %s --with TEXT --as NAME", p.Domain, group)
	} else {
		a.progress("put it where the records of %s are; long texts are split into strings of 255 characters", p.Domain)
	}
	fmt.Fprintf(a.out, "%s. TXT \"%s\"\n", p.Record, strings.Join(chunks(p.Text, 255), `" "`))
	return nil
}

// chunks cuts a text into the strings that a TXT record holds.
func chunks(s string, n int) []string {
	var out []string
	for ; len(s) > n; s = s[n:] {
		out = append(out, s[:n])
	}
	return append(out, s)
}
