package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

func (a *app) flistCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "flist", Short: "Images: file trees by content"}
	cmd.AddCommand(a.flistBuildCommand(), a.flistTagCommand(), a.flistListCommand())
	return cmd
}

// buildOptions are the flags of `zos flist build`.
type buildOptions struct {
	from, hub, tag string
	ref, platform  string
	rootOwned      bool
	clamp          int64
	config         flist.Config
	life           time.Duration
}

func (a *app) flistBuildCommand() *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build --from DIR|TAR|OCI-LAYOUT",
		Short: "Build a flist and publish it and its files into a hub's directory",
		Long: `Build a flist from a directory, a tar archive (plain, gzip or zstd; - is standard
input) or an OCI image layout, and publish it into a hub's directory. The same
input gives the same digest, which is printed.`,
		Example: `  zos flist build --from ./rootfs --root-owned --tag red/web:1
  docker export web | zos flist build --from - --entrypoint /bin/web
  zos flist build --from ./layout --ref latest --hub /srv/hub`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.buildFlist(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "directory, tar archive, or OCI image layout")
	f.StringVar(&o.hub, "hub", "", "directory of the hub (default: the context's)")
	f.StringVar(&o.tag, "tag", "", "also sign this name for it: publisher/name:tag")
	f.DurationVar(&o.life, "expiry", year, "how long the tag holds")
	f.StringVar(&o.ref, "ref", "", "which image of an OCI layout (default: the only one)")
	f.StringVar(&o.platform, "platform", "linux/amd64", "which platform of an OCI image")
	f.BoolVar(&o.rootOwned, "root-owned", false, "give every file to root, whoever owns it here")
	f.Int64Var(&o.clamp, "clamp-mtime", -1, "newest time that a file may have, Unix seconds (-1: as it is)")
	f.StringArrayVar(&o.config.Entrypoint, "entrypoint", nil, "program that runs, and its first arguments; repeat it")
	f.StringArrayVar(&o.config.Cmd, "cmd", nil, "default arguments; repeat it")
	f.StringArrayVar(&o.config.Env, "env", nil, "NAME=VALUE of the environment; repeat it")
	f.StringVar(&o.config.WorkDir, "workdir", "", "directory that it starts in")
	f.StringVar(&o.config.User, "user", "", "UID[:GID] that it runs as")
	_ = cmd.MarkFlagRequired("from")
	return cmd
}

func (a *app) buildFlist(ctx context.Context, o buildOptions) error {
	if o.tag != "" {
		if _, err := parseTag(o.tag); err != nil {
			return err
		}
	}
	dir, err := a.hubDir(o.hub)
	if err != nil {
		return err
	}
	w, err := hub.OpenWriter(dir, hub.WriterOptions{})
	if err != nil {
		return err
	}
	sink := &countingSink{to: w}
	stop := a.showCount(sink)
	digest, m, stats, err := build(ctx, o, sink)
	stop()
	if err == nil {
		_, err = w.PutFlist(ctx, m)
	}
	written := w.Stats()
	if err = errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("build a flist of %s: %w", o.from, err)
	}
	a.progress("%d entries, %s in %d files; %d new objects, %s written to %s",
		stats.Entries, mib(stats.Bytes), stats.Files, written.NewObjects, mib(written.NewBytes), dir)
	if o.tag != "" {
		if err := a.withClient(ctx, func(ctx context.Context, c *client.Client) error {
			return a.tagFlist(ctx, c, digest, o.tag, dir, o.life)
		}); err != nil {
			return err
		}
	}
	if a.format == "json" {
		return a.json(map[string]any{
			"digest": digest, "entries": stats.Entries, "files": stats.Files, "bytes": stats.Bytes, "unique_bytes": stats.UniqueBytes,
			"dropped_xattrs": stats.DroppedXattrs, "objects": written.Objects, "new_objects": written.NewObjects, "new_bytes": written.NewBytes,
			"tag": o.tag, "hub": dir,
		})
	}
	_, err = fmt.Fprintln(a.out, digest)
	return err
}

// build tells the three kinds of source apart.
func build(ctx context.Context, o buildOptions, sink flist.Sink) (canon.Hash, flist.Manifest, flist.Stats, error) {
	opts := flist.Options{RootOwned: o.rootOwned}
	if o.clamp >= 0 {
		ns := o.clamp * int64(time.Second)
		opts.ClampMTime = &ns
	}
	if c := o.config; len(c.Entrypoint)+len(c.Cmd)+len(c.Env) > 0 || c.WorkDir != "" || c.User != "" {
		opts.Config = &o.config
	}
	if o.from == "-" {
		return flist.BuildTar(ctx, os.Stdin, sink, opts)
	}
	st, err := os.Stat(o.from)
	switch {
	case err != nil:
		return canon.Hash{}, flist.Manifest{}, flist.Stats{}, problem.New("source-unreadable", "%w", err)
	case !st.IsDir():
		f, err := os.Open(o.from)
		if err != nil {
			return canon.Hash{}, flist.Manifest{}, flist.Stats{}, problem.New("source-unreadable", "%w", err)
		}
		defer f.Close()
		return flist.BuildTar(ctx, f, sink, opts)
	case exists(filepath.Join(o.from, "oci-layout")):
		return flist.BuildOCI(ctx, o.from, o.ref, o.platform, sink, opts)
	}
	return flist.BuildDir(ctx, o.from, sink, opts)
}

// countingSink counts what passes, for people who wait.
type countingSink struct {
	to      flist.Sink
	objects atomic.Uint64
	bytes   atomic.Uint64
}

// Put implements flist.Sink.
func (s *countingSink) Put(ctx context.Context, name canon.Hash, data []byte) error {
	err := s.to.Put(ctx, name, data)
	s.objects.Add(1)
	s.bytes.Add(uint64(len(data)))
	return err
}

// showCount tells every second how far the build is: on one line of a terminal,
// on lines of their own elsewhere, where long builds show every ten seconds.
func (a *app) showCount(s *countingSink) (stop func()) {
	f, ok := a.err.(*os.File)
	every, begin, end := 10*time.Second, "", "\n"
	if ok && term.IsTerminal(int(f.Fd())) {
		every, begin, end = time.Second/2, "\r\x1b[K", ""
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-done:
				if begin != "" {
					fmt.Fprint(a.err, begin)
				}
				return
			case <-t.C:
				fmt.Fprintf(a.err, "%s%d objects, %s%s", begin, s.objects.Load(), mib(s.bytes.Load()), end)
			}
		}
	}()
	return func() { close(done); <-ended }
}

func (a *app) flistTagCommand() *cobra.Command {
	var dir string
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "tag DIGEST PUBLISHER/NAME:TAG",
		Short: "Sign a name for a flist with its publisher's key, and publish it",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			digest, err := canon.ParseHash(args[0])
			if err != nil {
				return usageError{fmt.Errorf("%s is no digest of a flist: %w", args[0], err)}
			}
			to, err := a.hubDir(dir)
			if err != nil {
				return err
			}
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				return a.tagFlist(ctx, c, digest, args[1], to, life)
			})
		},
	}
	cmd.Flags().StringVar(&dir, "hub", "", "directory of the hub (default: the context's)")
	cmd.Flags().DurationVar(&life, "expiry", year, "how long the tag holds")
	return cmd
}

// tagName is publisher/name:tag.
type tagName struct{ publisher, name, tag string }

func parseTag(ref string) (tagName, error) {
	publisher, rest, ok := strings.Cut(ref, "/")
	name, tag, tagged := strings.Cut(rest, ":")
	if !ok || !tagged || publisher == "" || name == "" || tag == "" {
		return tagName{}, problem.New("tag-invalid", "%q is no name of an image", ref).WithFix("write publisher/name:tag")
	}
	return tagName{publisher, name, tag}, nil
}

// tagFlist signs a tag as its publisher, after the one that is there.
func (a *app) tagFlist(ctx context.Context, c *client.Client, digest canon.Hash, ref, dir string, life time.Duration) error {
	t, err := parseTag(ref)
	if err != nil {
		return err
	}
	id, err := c.AccountID(ctx, t.publisher)
	if err != nil {
		return err
	}
	account, err := c.Account(ctx, id)
	if err != nil {
		return err
	}
	path, err := hub.TagPath(c.Grid(), id, t.name, t.tag)
	if err != nil {
		return err
	}
	if !exists(filepath.Join(dir, hub.FlistPath(digest))) {
		return problem.New("flist-unknown", "the hub in %s has no flist %s", dir, digest.Short()).WithFix("build it there first: zos flist build --hub %s", dir)
	}
	by, err := c.SignerAmong(ctx, a.as, sign.PublicKey(account.Key).Equal)
	if err != nil {
		return fmt.Errorf("sign %s as its publisher: %w", ref, err)
	}
	sequence, err := nextTag(filepath.Join(dir, path), c.Grid())
	if err != nil {
		return err
	}
	s, err := contract.Sign(ctx, contract.NewTag(c.Grid(), id, t.name, t.tag, digest, sequence, until(life)), contract.KindTag, by)
	if err != nil {
		return err
	}
	w, err := hub.OpenWriter(dir, hub.WriterOptions{})
	if err != nil {
		return err
	}
	if err := errors.Join(w.PublishTag(ctx, s), w.Close()); err != nil {
		return fmt.Errorf("publish %s: %w", ref, err)
	}
	a.progress("%s is %s", ref, digest.Short())
	return nil
}

// nextTag is the sequence after the tag in a file: the time, unless that is not
// later.
func nextTag(path string, grid canon.Hash) (uint64, error) {
	now := uint64(time.Now().Unix())
	b, err := readBounded(path, contract.MaxSigned+1)
	if errors.Is(err, os.ErrNotExist) {
		return now, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the tag that is there: %w", err)
	}
	s, err := contract.DecodeSigned(b)
	if err != nil {
		return 0, fmt.Errorf("read the tag that is there: %w", err)
	}
	old, _, _, err := contract.Open[contract.Tag](s, contract.KindTag, grid)
	if err != nil {
		return 0, fmt.Errorf("read the tag that is there: %w", err)
	}
	return max(now, old.Sequence+1), nil
}
