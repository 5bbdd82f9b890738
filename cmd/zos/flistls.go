package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/problem"
)

func (a *app) flistListCommand() *cobra.Command {
	var dir string
	var audit bool
	cmd := &cobra.Command{
		Use:   "ls REF",
		Short: "List what is in a flist: publisher/name:tag, a digest, or OS",
		Long: `List what is in a flist: publisher/name:tag, a digest, or the word OS for the
system that the grid's newest release boots. --audit fails if it holds anything
that a node's system must not: setuid files, interpreters, foreign programs.`,
		Example: "  zos flist ls red/hello:1\n  zos flist ls OS --audit -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			digest, m, err := a.manifest(cmd.Context(), args[0], dir)
			if err != nil {
				return err
			}
			if err := a.showFlist(args[0], digest, m); err != nil || !audit {
				return err
			}
			return boot.AuditOS(m)
		},
	}
	cmd.Flags().StringVar(&dir, "hub", "", "read a digest from this hub's directory, without a grid")
	cmd.Flags().BoolVar(&audit, "audit", false, "fail unless it keeps the promises of a node's system")
	return cmd
}

// manifest finds a flist and checks it against its digest.
func (a *app) manifest(ctx context.Context, ref, dir string) (canon.Hash, flist.Manifest, error) {
	if dir != "" {
		digest, err := canon.ParseHash(ref)
		if err != nil {
			return digest, flist.Manifest{}, usageError{fmt.Errorf("--hub reads a digest: %w", err)}
		}
		m, err := readFlist(dir, digest)
		return digest, m, err
	}
	var digest canon.Hash
	var m flist.Manifest
	err := a.withClient(ctx, func(ctx context.Context, c *client.Client) (err error) {
		if ref == "OS" {
			var r, e = c.NewestRelease(ctx, uint64(time.Now().Unix()))
			digest, err = r.OS, e
		} else {
			digest, err = c.ImageDigest(ctx, ref)
		}
		if err == nil {
			m, err = c.Manifest(ctx, digest)
		}
		return err
	})
	return digest, m, err
}

// readFlist reads a manifest from a hub's directory.
func readFlist(dir string, digest canon.Hash) (flist.Manifest, error) {
	z, err := readBounded(filepath.Join(dir, hub.FlistPath(digest)), flist.MaxManifest)
	if err != nil {
		return flist.Manifest{}, problem.New("flist-unknown", "the hub in %s has no flist %s: %w", dir, digest.Short(), err)
	}
	b, err := flist.Decompress(z, 0)
	if err != nil {
		return flist.Manifest{}, problem.New("manifest-invalid", "flist %s: %w", digest.Short(), err)
	}
	if got := canon.Sum(b); got != digest {
		return flist.Manifest{}, problem.New("digest-mismatch", "flist %s: its bytes have the digest %s", digest.Short(), got)
	}
	return flist.Decode(b)
}

// entryJSON is an entry of a flist for machines: what flist.Listing says, and
// what makes it easy to look for dangers.
type entryJSON struct {
	Path   string `json:"path"`
	Raw    string `json:"raw,omitempty"` // the path's bytes in hex, when it is not UTF-8
	Type   string `json:"type"`
	Mode   string `json:"mode"` // four octal digits
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
	Size   uint64 `json:"size"`
	Link   string `json:"link,omitempty"`
	Digest string `json:"digest,omitempty"`
	Verity string `json:"verity,omitempty"`
	Chunks int    `json:"chunks"`
	Xattrs int    `json:"xattrs"`
	// What a person looks for. An interpreter is told by its name.
	Setuid      bool `json:"setuid"`
	Setgid      bool `json:"setgid"`
	Executable  bool `json:"executable"`
	Interpreter bool `json:"interpreter"`
}

// totalsJSON sums a flist up.
type totalsJSON struct {
	Entries      int    `json:"entries"`
	Files        uint64 `json:"files"`
	Bytes        uint64 `json:"bytes"`
	UniqueBytes  uint64 `json:"unique_bytes"`
	Setuid       int    `json:"setuid"` // setuid or setgid files
	Executables  int    `json:"executables"`
	Interpreters int    `json:"interpreters"`
}

func (a *app) showFlist(ref string, digest canon.Hash, m flist.Manifest) error {
	entries := make([]entryJSON, 0, len(m.Entries))
	t := totalsJSON{Entries: len(m.Entries)}
	t.Bytes, t.UniqueBytes, t.Files = m.Bytes()
	for i, l := range m.List() {
		e := entryJSON{Path: l.Path, Type: l.Type, Mode: l.Mode, UID: l.UID, GID: l.GID, Size: l.Size, Link: l.Link,
			Digest: l.Digest, Verity: l.Verity, Chunks: l.Chunks, Xattrs: l.Xattrs}
		if len(l.Raw) > 0 {
			e.Raw = hex.EncodeToString(l.Raw)
		}
		file := l.Type == "file" || l.Type == "hardlink"
		mode := m.Entries[i].Mode
		e.Setuid, e.Setgid = file && mode&0o4000 != 0, file && mode&0o2000 != 0
		e.Executable = file && mode&0o111 != 0
		e.Interpreter = (file || l.Type == "symlink") && boot.IsInterpreter(l.Path)
		t.Setuid += count(e.Setuid || e.Setgid)
		t.Executables += count(e.Executable)
		t.Interpreters += count(e.Interpreter)
		entries = append(entries, e)
	}
	if a.format == "json" {
		return a.json(map[string]any{"ref": ref, "digest": digest, "config": configJSON(m.Config), "entries": entries, "totals": t})
	}
	rows := make([][]string, 0, len(entries))
	for _, e := range entries {
		path := "/" + e.Path
		if e.Link != "" {
			path += " -> " + e.Link
		}
		rows = append(rows, []string{e.Mode, e.Type, fmt.Sprintf("%d:%d", e.UID, e.GID), fmt.Sprint(e.Size), short(e.Digest), path})
	}
	if err := a.table(nil, []string{"MODE", "TYPE", "OWNER", "SIZE", "DIGEST", "PATH"}, rows); err != nil {
		return err
	}
	a.progress("%s: %d entries, %s in %d files (%s distinct); %d setuid, %d executable, %d interpreters",
		digest, t.Entries, mib(t.Bytes), t.Files, mib(t.UniqueBytes), t.Setuid, t.Executables, t.Interpreters)
	return nil
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func short(digest string) string {
	if len(digest) < 8 {
		return "-"
	}
	return digest[:8]
}

// configJSON is how an image wants to be run, for machines.
func configJSON(c flist.Config) map[string]any {
	return map[string]any{"entrypoint": list(c.Entrypoint), "cmd": list(c.Cmd), "env": list(c.Env), "workdir": c.WorkDir, "user": c.User}
}

// list is never null in JSON.
func list(l []string) []string {
	if l == nil {
		return []string{}
	}
	return l
}
