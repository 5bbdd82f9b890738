package imagetest

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Sources are the programs and files that images get beside Debian's.
//
//go:embed all:testdata
var sources embed.FS

// epoch is the latest time that a file of an image may have: a tree made today is
// that made tomorrow, as long as Debian's packages are the same.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// makeTime bounds the making of one image, downloads included.
const makeTime = 15 * time.Minute

// recipe is how an image is made.
type recipe struct {
	Image `json:"-"`
	// Version changes when finish does something else, so that the image is made anew.
	Version int
	// Debootstrap makes a whole Debian, configured by its own scripts, with Packages
	// beside its smallest set. Otherwise Packages and what they depend on are
	// unpacked and nothing of theirs is run.
	Debootstrap bool
	Packages    []string
	// Without are dependencies that the software starts without, by the beginning of
	// their names; "" leaves out all of them.
	Without []string
	// Programs are Go programs, by where they go.
	Programs map[string]string
	// Files are copied from testdata, by where they go.
	Files map[string]string
	// finish does what the packages' scripts would, and runs last.
	finish func(b *builder) error
}

// builder makes one tree.
type builder struct {
	ctx  context.Context
	t    testing.TB
	tree string // the image's files
	work string // scratch, removed afterwards
	root string // of all images: packages are kept below it
}

// make returns the image's tree, which it makes unless it is there.
func (r recipe) make(t testing.TB) (string, error) {
	root := os.Getenv("ZOS_IMAGES")
	if root == "" {
		module, err := moduleRoot()
		if err != nil {
			return "", err
		}
		root = filepath.Join(module, "build", "images")
	}
	key, err := r.key()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(root, r.Name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := filepath.Join(root, r.Name+"-"+key)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if os.Geteuid() != 0 {
		return "", errors.New("it is not there, and only root can make it: its files have owners of their own")
	}
	started := time.Now()
	if err := r.makeAt(t, root, dir); err != nil {
		return "", err
	}
	t.Logf("image %s: made in %.1f s from Debian's packages, kept in %s", r.Name, time.Since(started).Seconds(), dir)
	return dir, r.forget(root, dir)
}

// makeAt makes the tree beside dir and gives it that name when it is whole.
func (r recipe) makeAt(t testing.TB, root, dir string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), makeTime)
	defer cancel()
	work, err := os.MkdirTemp(root, "."+r.Name+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeTree(work)) }()
	b := &builder{ctx: ctx, t: t, tree: filepath.Join(work, "tree"), work: work, root: root}
	if err := os.Mkdir(b.tree, 0o755); err != nil {
		return err
	}
	// mkdir heeds the umask; a root directory that others can't enter breaks every
	// program that is not root.
	if err := os.Chmod(b.tree, 0o755); err != nil {
		return err
	}
	if r.Debootstrap {
		err = b.debootstrap(r.Packages)
	} else {
		err = b.unpack(r.Packages, r.Without)
	}
	if err != nil {
		return err
	}
	for to, from := range r.Programs {
		if err := b.program(to, from); err != nil {
			return err
		}
	}
	for to, from := range r.Files {
		content, err := sources.ReadFile("testdata/" + from)
		if err != nil {
			return err
		}
		if err := b.write(to, 0o755, string(content)); err != nil {
			return err
		}
	}
	if r.finish != nil {
		if err := r.finish(b); err != nil {
			return err
		}
	}
	if err := b.tidy(); err != nil {
		return err
	}
	return os.Rename(b.tree, dir)
}

// key names what goes into the image, but for the versions of Debian's packages.
func (r recipe) key() (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(r); err != nil {
		return "", err
	}
	err := fs.WalkDir(sources, "testdata", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !r.uses(path) {
			return err
		}
		content, err := sources.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n%s", path, len(content), content)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)[:8]), err
}

func (r recipe) uses(path string) bool {
	for _, from := range r.Files {
		if path == "testdata/"+from {
			return true
		}
	}
	for _, from := range r.Programs {
		if strings.HasPrefix(path, strings.TrimPrefix(from, "./")+"/") {
			return true
		}
	}
	return false
}

// forget removes what earlier recipes of this image made.
func (r recipe) forget(root, keep string) error {
	old, err := filepath.Glob(filepath.Join(root, r.Name+"-????????????????"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		if dir != keep {
			err = errors.Join(err, removeTree(dir))
		}
	}
	return err
}

// removeTree removes a tree, and refuses if something is mounted in it.
func removeTree(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), " "+dir+"/") {
		return fmt.Errorf("something is mounted below %s: it stays", dir)
	}
	return os.RemoveAll(dir)
}

// lock waits for the file's lock.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("find the module: %w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
