package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/client"
)

func (a *app) cpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cp CONTRACT[/WORKLOAD]:PATH LOCAL|-  |  zos cp LOCAL|- CONTRACT[/WORKLOAD]:PATH",
		Short: "Copy files into a workload or out of it",
		Long: `Copy files or directories between this machine and a workload, by the own key of a
member of the contract's group. The workload's spec must say  access: {files: members}.
It is recorded among the workload's events.

  zos cp demo/web:/etc/app .      makes ./app, if . is a directory
  zos cp demo/web:/etc/app new    makes new, if there is none
  zos cp demo/web:/etc/app/. dir  copies what is in app
  zos cp page.html demo/web:/srv/ makes /srv/page.html; /srv must be there
  zos cp page.html demo/web:/srv/index.html   gives it that name

A - instead of a local path is a tar stream: on standard output, or to be unpacked in
the directory PATH. What comes from a workload never leaves the directory that is
named; links that lead out of it are left out.`,
		Example:           "  zos cp demo/shop/web-1:/var/log/app.log .\n  zos cp site demo/shop/web-1:/srv/\n  zos cp demo/shop/db:/etc - | tar tv",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeRemote,
		RunE: func(cmd *cobra.Command, args []string) error {
			from, fromPath, fromRemote := remote(args[0])
			to, toPath, toRemote := remote(args[1])
			if fromRemote == toRemote {
				return usageError{errors.New("one of the two must be CONTRACT[/WORKLOAD]:PATH, the other one a local path or -")}
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				ref := from
				if toRemote {
					ref = to
				}
				r, err := a.running(ctx, c, ref)
				if err != nil {
					return err
				}
				if toRemote {
					return copyIn(ctx, c, r, args[0], toPath)
				}
				return a.copyOut(ctx, c, r, fromPath, args[1])
			})
		},
	}
}

// remote tells a path in a workload from a local one, which may be written with ./
// before it.
func remote(arg string) (ref, p string, ok bool) {
	ref, p, ok = strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(ref, ".") || strings.HasPrefix(ref, "/") || !strings.Contains(ref, "/") {
		return "", arg, false
	}
	if p == "" {
		p = "/"
	}
	return ref, p, true
}

// copyOut brings a file or tree out of a workload.
func (a *app) copyOut(ctx context.Context, c *client.Client, r client.Running, from, to string) error {
	if to == "-" {
		return c.Get(ctx, r, from, a.out)
	}
	content := from == "." || strings.HasSuffix(from, "/.")
	name := path.Base(path.Clean(from))
	dir := to
	switch info, err := os.Stat(to); {
	case err == nil && info.IsDir():
		if content || name == "/" {
			name = ""
		}
	case err == nil && content:
		return usageError{fmt.Errorf("%s is no directory", to)}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil && content:
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		name = ""
	default: // a new name, or a file that is replaced
		if strings.HasSuffix(to, "/") {
			return usageError{fmt.Errorf("%s: there is no such directory", to)}
		}
		dir, name = filepath.Split(filepath.Clean(to))
		if dir == "" {
			dir = "."
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	in, out := io.Pipe()
	var skipped []string
	unpacked := make(chan error, 1)
	go func() {
		var err error
		skipped, err = client.Unpack(in, root, name)
		if err == nil { // what pads the archive
			_, err = io.Copy(io.Discard, in)
		}
		in.CloseWithError(err)
		unpacked <- err
	}()
	err = c.Get(ctx, r, from, out)
	out.CloseWithError(err) // nil is the end
	if local := <-unpacked; local != nil && !errors.Is(err, context.Canceled) && (err == nil || errors.Is(err, local)) {
		err = local
	}
	for _, s := range skipped {
		a.progress("left out: %s (a link that leads out of what is copied, or no file)", printable(s))
	}
	return err
}

// copyIn brings a file or tree into a workload.
func copyIn(ctx context.Context, c *client.Client, r client.Running, from, to string) error {
	if from == "-" {
		return c.Put(ctx, r, to, struct{ io.Reader }{os.Stdin})
	}
	info, err := os.Stat(from)
	if err != nil {
		return usageError{err}
	}
	dir, name := path.Split(to)
	switch {
	case strings.HasSuffix(from, "/.") || from == ".":
		dir, name = to, "."
	case name == "" || name == ".":
		abs, err := filepath.Abs(from)
		if err != nil {
			return err
		}
		name = filepath.Base(abs)
	}
	if name == "." && !info.IsDir() {
		return usageError{fmt.Errorf("%s is no directory", from)}
	}
	in, out := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		out.CloseWithError(client.Pack(out, from, name))
	}()
	err = c.Put(ctx, r, path.Clean("/"+dir), in)
	in.Close() // ends the packing, if it is not over
	<-packed
	return err
}

// completeRemote completes a workload, with the colon behind it, or local files.
func (a *app) completeRemote(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 || strings.HasPrefix(typed, ".") || strings.HasPrefix(typed, "/") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, _ := a.completeFirst(workloadNames)(cmd, nil, typed)
	for i := range names {
		names[i] += ":"
	}
	return names, cobra.ShellCompDirectiveNoSpace
}
