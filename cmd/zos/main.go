// Command zos is what people run: deployments and approvals, nodes, images,
// releases, and the services of a grid.
//
// Standard output is data, standard error is progress and problems.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	a := &app{out: os.Stdout, err: os.Stderr}
	cmd := a.root()
	cmd.SetArgs(os.Args[1:])
	err := cmd.ExecuteContext(ctx)
	stop()
	var program programExit
	if errors.As(err, &program) {
		os.Exit(int(program) & 0xff)
	}
	if err != nil {
		a.fail(err)
		os.Exit(exitCode(err))
	}
}

// usageError is a command line that can't be understood.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// root assembles the command line. Every verb is in a file of its own name.
func (a *app) root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "zos",
		Short: "Run what groups of people have agreed to run",
		Long:  "zos starts grids, deploys to them by consensus, and shows what runs.",
		Example: `  zos up                                      # a grid to try
  zos deploy examples/hello.yaml --as red     # a first deployment
  zos approve PROPOSAL --as green`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := cmd.PersistentFlags()
	f.StringVarP(&a.format, "output", "o", "table", "format of the output: table or json")
	f.StringVar(&a.as, "as", "", "key that signs (default: the context's, or one that has the right)")
	f.StringVar(&a.contextName, "context", "", "grid to talk to (default: the current one)")
	f.BoolVar(&a.noColor, "no-color", false, "no colours, as with NO_COLOR set")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "say on standard error what is done")
	cmd.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		// Cobra checks these later once more, and its own errors have no type.
		if err := errors.Join(c.ValidateRequiredFlags(), c.ValidateFlagGroups()); err != nil {
			return usageError{fmt.Errorf("%w; see %s --help", err, c.CommandPath())}
		}
		if a.format != "table" && a.format != "json" {
			return usageError{fmt.Errorf("-o %s: the formats are table and json", a.format)}
		}
		return nil
	}
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("as", a.completeKeys)
	_ = cmd.RegisterFlagCompletionFunc("context", completeContexts)
	for _, g := range groups {
		cmd.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
	}
	cmd.SetHelpCommandGroupID(groupMachine)
	cmd.SetCompletionCommandGroupID(groupMachine)
	cmd.AddCommand(a.commands()...)
	wrapArgs(cmd)
	// A verb that only holds others can't be used without one of them.
	cmd.SetUsageTemplate(strings.Replace(cmd.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}", 1))
	return cmd
}

// wrapArgs makes every complaint about arguments a usageError.
func wrapArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{fmt.Errorf("%w; see %s --help", err, c.CommandPath())}
			}
			return nil
		}
	}
	cmd.SuggestionsMinimumDistance = 2
	if cmd.HasSubCommands() && cmd.RunE == nil {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				msg := fmt.Sprintf("unknown command %q for %q", args[0], c.CommandPath())
				if near := c.SuggestionsFor(args[0]); len(near) > 0 {
					msg += fmt.Sprintf("; did you mean %q?", near[0])
				}
				return usageError{errors.New(msg)}
			}
			return c.Help()
		}
		cmd.Args = cobra.ArbitraryArgs
	}
	for _, c := range cmd.Commands() {
		wrapArgs(c)
	}
}
