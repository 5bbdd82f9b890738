package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/node/protocol"
)

// programExit is a program in a workload that ended with another code than 0,
// which becomes ours. Nothing is said: the program has said what it had to.
type programExit int

func (e programExit) Error() string { return fmt.Sprintf("the program ended with %d", int(e)) }

func (a *app) execCommand() *cobra.Command {
	var p protocol.ExecParams
	var interactive bool
	var user string
	cmd := &cobra.Command{
		Use:   "exec CONTRACT[/WORKLOAD] -- PROGRAM [ARGUMENT…]",
		Short: "Run a program inside a workload; its exit code is this command's",
		Long: `Run a program inside a workload, by the own key of a member of the contract's group.
The workload's spec must say  access: {exec: members}.  It is recorded among the
workload's events. The exit code is the program's; 128 and a signal's number if one
ended it. When this command ends, the program does.

With -t the program gets a terminal: Ctrl-C goes into it, and Ctrl-P Ctrl-Q leaves.`,
		Example:           "  zos exec demo/hello -- ls -l /etc\n  zos exec -it demo/shop/web-1 -- /bin/sh\n  pg_dump shop | zos exec -i demo/shop/db -- psql shop",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeFirst(workloadNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, rest, err := splitCommand(cmd, args)
			if err != nil {
				return err
			}
			p.Args = rest
			if p.User, err = parseUser(user); err != nil {
				return err
			}
			if p.TTY && interactive && !term.IsTerminal(int(os.Stdin.Fd())) {
				return usageError{errors.New("-t: standard input is no terminal; leave -t out")}
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				r, err := a.running(ctx, c, ref)
				if err != nil {
					return err
				}
				with := client.Person{Out: a.out, Err: a.err}
				if interactive {
					with.In = os.Stdin
				}
				if p.TTY {
					t, err := openTerminal(interactive)
					if err != nil {
						return err
					}
					defer t.close()
					p.Rows, p.Cols = t.size()
					with.Control = t.control
					if interactive {
						with.In = t
					}
				}
				code, err := c.Exec(ctx, r, p, with)
				return a.ended(code, err)
			})
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows the workload is the program's
	f.BoolVarP(&interactive, "interactive", "i", false, "send this command's standard input")
	f.BoolVarP(&p.TTY, "tty", "t", false, "give the program a terminal")
	f.StringVarP(&user, "user", "u", "", "run as UID or UID:GID (default: the workload's own)")
	f.StringArrayVarP(&p.Env, "env", "e", nil, "set a variable, NAME=VALUE; may be given several times")
	f.StringVarP(&p.WorkDir, "workdir", "w", "", "directory to run in (default: the workload's own)")
	return cmd
}

// splitCommand takes the workload and the program apart. Flags may also stand
// between the workload and "--".
func splitCommand(cmd *cobra.Command, args []string) (ref string, rest []string, err error) {
	ref, rest = args[0], args[1:]
	for i, arg := range rest {
		if arg == "--" {
			if err := cmd.Flags().Parse(rest[:i]); err != nil {
				return "", nil, usageError{err}
			}
			if cmd.Flags().NArg() == 0 {
				rest = rest[i+1:]
			}
			break
		}
		if !strings.HasPrefix(rest[0], "-") {
			break // the program, without "--" before it
		}
	}
	if len(rest) == 0 || rest[0] == "" {
		return "", nil, usageError{errors.New("no program is named; see zos exec --help")}
	}
	return ref, rest, nil
}

func (a *app) consoleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "console CONTRACT[/WORKLOAD]",
		Short: "Attach to the serial console of a machine; Ctrl-P Ctrl-Q leaves",
		Long: `Attach to the serial console of a machine, by the own key of a member of the
contract's group. The workload's spec must say  access: {console: members}.  It is
recorded among the workload's events. Ctrl-P Ctrl-Q leaves; the machine runs on.`,
		Example:           "  zos console demo/box",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeFirst(workloadNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				r, err := a.running(ctx, c, args[0])
				if err != nil {
					return err
				}
				var p protocol.ConsoleParams
				with := client.Person{In: os.Stdin, Out: a.out, Err: a.err}
				if term.IsTerminal(int(os.Stdin.Fd())) {
					t, err := openTerminal(true)
					if err != nil {
						return err
					}
					defer t.close()
					p.Rows, p.Cols = t.size()
					with.In, with.Control = t, t.control
					a.progress("attached to %s; Ctrl-P Ctrl-Q leaves\r", r.Workload.Name)
				}
				return a.ended(0, c.Console(ctx, r, p, with))
			})
		},
	}
}

// ended judges how an attached program ended.
func (a *app) ended(code int, err error) error {
	switch {
	case errors.Is(err, client.Detached{}):
		a.progress("detached")
		return nil
	case err != nil:
		return err
	case code != 0:
		return programExit(code)
	}
	return nil
}

// running finds one workload and a key at hand that may act on it.
func (a *app) running(ctx context.Context, c *client.Client, ref string) (client.Running, error) {
	k, w, err := c.FindRunning(ctx, ref)
	if err != nil {
		return client.Running{}, err
	}
	by, err := a.memberOf(ctx, c, k)
	return client.Running{Contract: k, Workload: w, By: by}, err
}

// parseUser reads UID or UID:GID.
func parseUser(s string) (*protocol.User, error) {
	switch s {
	case "":
		return nil, nil
	case "root":
		return &protocol.User{}, nil
	}
	uid, gid, both := strings.Cut(s, ":")
	u, err := strconv.ParseUint(uid, 10, 32)
	g := u
	if err == nil && both {
		g, err = strconv.ParseUint(gid, 10, 32)
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("--user %s: want numbers, UID or UID:GID, or root; the names are in the workload's /etc/passwd", s)}
	}
	return &protocol.User{UID: uint32(u), GID: uint32(g)}, nil
}

// workloadNames completes what can be named: contracts, workloads, replica sets.
func workloadNames(ctx context.Context, c *client.Client) ([]string, error) {
	names, err := c.Names(ctx)
	if err != nil {
		return nil, err
	}
	contracts, err := c.Contracts(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, k := range contracts {
		base := names.Of(k.Group) + "/" + k.Name
		out = append(out, base)
		sets := map[string]bool{}
		for _, w := range k.Plan.Workloads {
			out = append(out, base+"/"+w.Name)
			if w.Set != "" && !sets[w.Set] {
				sets[w.Set] = true
				out = append(out, base+"/"+w.Set)
			}
		}
	}
	return out, nil
}
