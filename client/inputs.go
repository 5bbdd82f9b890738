package client

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/secret"
)

// specFile reads a file that a spec names, one byte more than limit at most. It lies
// beside the spec file or in a folder below it, and no link leads out of there: a
// plan is public, and whoever plans a spec of someone else's must not publish a
// private key of his own by it.
func specFile(specPath, name string, limit int) ([]byte, error) {
	wrong := func(format string, args ...any) error {
		return problem.New("source-unreadable", format, args...).WithFix("name a file beside the spec file, or in a folder below it")
	}
	if filepath.IsAbs(name) || !filepath.IsLocal(name) {
		return nil, wrong("the file %s is not below the spec's folder", name)
	}
	root, err := os.OpenRoot(folderOf(specPath))
	if err != nil {
		return nil, wrong("the spec's folder can't be read: %w", err)
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, wrong("the file %s can't be read: %w", name, errors.Unwrap(err))
	}
	defer f.Close()
	b, err := readRegular(f, limit)
	if err != nil {
		return nil, wrong("the file %s can't be read: %w", name, err)
	}
	return b, nil
}

// specValue reads a secret from "env:NAME" or "file:PATH", relative to the spec file;
// false says that nothing is there. The file may be anywhere: what it holds is sealed.
func specValue(specPath, from string) ([]byte, bool, error) {
	kind, where, _ := strings.Cut(from, ":")
	if kind == "env" {
		v, ok := os.LookupEnv(where)
		return []byte(v), ok, nil
	}
	if !filepath.IsAbs(where) {
		where = filepath.Join(folderOf(specPath), where)
	}
	f, err := os.OpenFile(where, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err == nil {
		defer f.Close()
		var b []byte
		if b, err = readRegular(f, secret.MaxValue); err == nil {
			return b, true, nil
		}
	}
	return nil, false, problem.New("source-unreadable", "%s can't be read: %w", from, err).WithFix("name a file that you may read")
}

// folderOf is the folder of a spec file; of standard input, the one we are in.
func folderOf(specPath string) string {
	if specPath == "-" {
		return "."
	}
	return filepath.Dir(specPath)
}

// readRegular reads limit bytes and one more of a file, if it is one: a pipe could
// make us wait for ever.
func readRegular(f fs.File, limit int) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no file")
	}
	return io.ReadAll(io.LimitReader(f, int64(limit)+1))
}
