package container

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload"
)

// Files and secrets of a plan lie in the workload's run directory, which is in
// memory, and are mounted over their paths one by one, read-only. Nothing of them
// reaches the writable layer, where only their empty mount points remain.

// given is what a container gets beside its image.
type given struct {
	env   []string // NAME=value
	files []givenFile
}

type givenFile struct {
	path    string // inside the container
	mode    os.FileMode
	content []byte
	exec    bool // it may be a program
}

// give opens the secrets of a workload and lists what it is given.
func (k *Kind) give(ctx context.Context, d workload.Desired, c Parts) (given, error) {
	var g given
	for _, f := range c.Files {
		g.files = append(g.files, givenFile{path: f.Path, mode: os.FileMode(f.Mode & 0o777), content: f.Content, exec: true})
	}
	for _, s := range c.Secrets {
		if k.cfg.Secrets == nil {
			return given{}, problem.New(CodeSecret, "secret %s: this node opens none", s.Name)
		}
		value, err := k.cfg.Secrets(ctx, d, s)
		if err != nil {
			return given{}, fmt.Errorf("secret %s: %w", s.Name, err)
		}
		if s.Path != "" {
			g.files = append(g.files, givenFile{path: s.Path, mode: os.FileMode(s.Mode & 0o777), content: value})
			continue
		}
		if bytes.IndexByte(value, 0) >= 0 || !utf8.Valid(value) {
			return given{}, problem.New(CodeInvalid, "secret %s is not text, so it can't be variable %s", s.Name, s.Env).WithFix("give it a path instead of a variable")
		}
		g.env = append(g.env, s.Env+"="+string(value))
	}
	return g, nil
}

// put writes the files below dir and returns their mounts.
func (g given) put(dir string, uid, gid uint32) ([]specs.Mount, error) {
	if len(g.files) == 0 {
		return nil, nil
	}
	if err := os.Mkdir(dir, runMode); err != nil {
		return nil, fmt.Errorf("put files into the workload: %w", err)
	}
	var mounts []specs.Mount
	for i, f := range g.files {
		source := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(source, f.content, 0o600); err != nil {
			return nil, fmt.Errorf("put %s into the workload: %w", f.path, err)
		}
		// The program's own user reads it, whatever its mode lets others do.
		if err := os.Chown(source, int(uid), int(gid)); err != nil {
			return nil, fmt.Errorf("put %s into the workload: %w", f.path, err)
		}
		if err := os.Chmod(source, f.mode); err != nil {
			return nil, fmt.Errorf("put %s into the workload: %w", f.path, err)
		}
		options := []string{"bind", "ro", "nosuid", "nodev"}
		if !f.exec {
			options = append(options, "noexec")
		}
		mounts = append(mounts, specs.Mount{Destination: f.path, Type: "bind", Source: source, Options: options})
	}
	slices.SortFunc(mounts, func(a, b specs.Mount) int { return strings.Compare(a.Destination, b.Destination) })
	return mounts, nil
}

// environment is env with the variables of more, which come before those of the
// same name.
func environment(env, more []string) []string {
	if len(more) == 0 {
		return env
	}
	set := map[string]bool{}
	for _, v := range more {
		name, _, _ := strings.Cut(v, "=")
		set[name] = true
	}
	var out []string
	for _, v := range env {
		if name, _, _ := strings.Cut(v, "="); !set[name] {
			out = append(out, v)
		}
	}
	return append(out, more...)
}

// placeable refuses paths at which a file would hide the kernel's own.
func placeable(path string) error {
	for _, kernel := range []string{"/proc", "/sys", "/dev"} {
		if path == kernel || strings.HasPrefix(path, kernel+"/") && !strings.HasPrefix(path, "/dev/shm/") {
			return fmt.Errorf("file %.80s: nothing can be put below %s", path, kernel)
		}
	}
	return nil
}
