package main

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

func (a *app) doctorCommand() *cobra.Command {
	var port, network string
	cmd := &cobra.Command{
		Use:   "doctor CONTRACT FROM TO",
		Short: "Explain why one workload can't reach another",
		Long: `Explain why workload FROM can't reach workload TO of one deployment: contract, keys,
path, firewall and resolver, in that order, up to the first that does not hold.

It asks the ledger and the two nodes; nothing is changed, and no packet is sent between
the workloads. It ends with an error if something does not hold.`,
		Example:           "  zos doctor demo/shop web db\n  zos doctor demo/shop web db --port 5432/tcp -o json",
		Args:              cobra.ExactArgs(3),
		ValidArgsFunction: a.completeWorkloads,
		RunE: func(cmd *cobra.Command, args []string) error {
			var want client.Port
			if port != "" {
				var err error
				if want, err = client.ParsePort(port); err != nil {
					return err
				}
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				d, err := c.Diagnose(ctx, args[0], args[1], args[2], network, want, a.as)
				if err != nil {
					return err
				}
				return a.showDiagnosis(d)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&port, "port", "", "what FROM wants to reach at TO: 5432/tcp, 53/udp or icmp (default: any port)")
	f.StringVar(&network, "network", "", "the network to use (default: the first that both are in)")
	return cmd
}

// showDiagnosis prints what was found; what does not hold is the verb's error.
func (a *app) showDiagnosis(d client.Diagnosis) error {
	if a.format == "json" {
		if err := a.json(d); err != nil {
			return err
		}
	} else {
		for _, s := range d.Steps {
			mark := a.paint(a.out, good, "ok")
			if !s.OK {
				mark = a.paint(a.out, bad, "✗ ")
			}
			const indent = 14
			fmt.Fprintf(a.out, "%s  %-9s %s\n", mark, s.Name, wrapped(printable(s.Detail), 100-indent, strings.Repeat(" ", indent)))
		}
	}
	if d.OK {
		if a.format != "json" {
			fmt.Fprintf(a.out, "\n%s. If it fails all the same, look at the programs:\nzos logs %s/%s\n", d.Summary(), d.Contract, d.To)
		}
		return nil
	}
	last := d.Steps[len(d.Steps)-1]
	return problem.New("workloads-apart", "%s can't reach %s: %s", d.From, d.To, last.Name).WithFix("%s", last.Fix)
}

// wrapped breaks a line between words so that none is longer than width, as far as
// words allow, and indents all but the first.
func wrapped(s string, width int, indent string) string {
	var b strings.Builder
	have := 0
	for i, word := range strings.Fields(s) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case have+1+n > width:
			b.WriteString("\n" + indent)
			have = 0
		default:
			b.WriteByte(' ')
			have++
		}
		b.WriteString(word)
		have += n
	}
	return b.String()
}

// completeWorkloads completes a contract with networks and two of its workloads.
func (a *app) completeWorkloads(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeContract(cmd, args, func(p *plan.Plan) (out []string) {
		for _, w := range p.Workloads {
			if len(client.AttachmentsOf(w)) > 0 {
				out = append(out, w.Name)
			}
		}
		return out
	}, 2)
}
