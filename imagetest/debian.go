package imagetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// suite is the Debian release whose packages images are made of, mirror where
// debootstrap finds them unless apt's own sources say otherwise.
const (
	suite  = "bookworm"
	mirror = "http://deb.debian.org/debian"
)

// run runs a program to its end; what it says is in the error.
func (b *builder) run(name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(b.ctx, name, args...)
	cmd.Dir = b.work
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/", "DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true",
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch.Unix()),
	}
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, tail(append(out.Bytes(), said.Bytes()...)))
	}
	return out.Bytes(), nil
}

func tail(b []byte) []byte { return b[max(0, len(b)-2000):] }

// chroot runs a program of the image as the user, "0:0" for root, in namespaces of
// its own, so that nothing it mounts or starts outlives it.
func (b *builder) chroot(user string, args ...string) error {
	_, err := b.run("unshare", append([]string{
		"--mount", "--pid", "--fork", "--kill-child", "--ipc", "--net", "--uts", "--",
		"sh", "-c", `mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && user=$1 && shift && exec chroot --userspec="$user" "$0" "$@"`, b.tree, user,
	}, args...)...)
	return err
}

// apt runs apt-get with a state of our own: nothing is taken for installed, and
// this machine's apt is left alone but for its sources and settings.
func (b *builder) apt(args ...string) ([]byte, error) {
	state := filepath.Join(b.root, "apt")
	for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(state, dir), 0o755); err != nil {
			return nil, err
		}
	}
	status := filepath.Join(b.work, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	list := "/etc/apt/sources.list.d/debian.sources"
	if _, err := os.Stat(list); err != nil {
		list = "/etc/apt/sources.list"
	}
	options := []string{
		"Dir::State=" + state, "Dir::State::lists=" + state + "/lists", "Dir::State::status=" + status, "Dir::Cache=" + state + "/cache",
		"Dir::Etc::sourcelist=" + list, "Dir::Etc::sourceparts=/dev/null", "APT::Install-Recommends=false", "APT::Sandbox::User=root",
		"Acquire::Languages=none", "Acquire::Retries=3", "Acquire::http::Timeout=60",
	}
	var all []string
	for _, o := range options {
		all = append(all, "-o", o)
	}
	return b.run("apt-get", append(all, args...)...)
}

// debs downloads the packages and what they depend on, unless they are here already,
// and returns their files.
func (b *builder) debs(packages, without []string) ([]string, error) {
	unlock, err := lock(filepath.Join(b.root, "apt.lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	stamp := filepath.Join(b.root, "apt", "updated")
	if info, err := os.Stat(stamp); err != nil || time.Since(info.ModTime()) > 24*time.Hour {
		if _, err := b.apt("update", "--error-on=any"); err != nil {
			return nil, err
		}
		if err := os.WriteFile(stamp, nil, 0o644); err != nil {
			return nil, err
		}
	}
	plan, err := b.apt(append([]string{"install", "-s"}, packages...)...)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.root, "debs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var files, missing []string
	for _, m := range instRE.FindAllSubmatch(plan, -1) {
		name, version, arch := string(m[1]), string(m[2]), string(m[3])
		if leftOut(name, packages, without) {
			continue
		}
		file := filepath.Join(dir, fmt.Sprintf("%s_%s_%s.deb", name, strings.ReplaceAll(version, ":", "%3a"), arch))
		files = append(files, file)
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			missing = append(missing, name+"="+version)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("apt plans nothing: %s", tail(plan))
	}
	if len(missing) > 0 {
		// Downloaded aside, so that half a file never has the name of a whole one.
		aside, err := os.MkdirTemp(b.work, "debs")
		if err != nil {
			return nil, err
		}
		old := b.work
		b.work = aside // apt-get download writes to its working directory
		_, err = b.apt(append([]string{"download"}, missing...)...)
		b.work = old
		if err != nil {
			return nil, err
		}
		got, err := filepath.Glob(filepath.Join(aside, "*.deb"))
		if err != nil {
			return nil, err
		}
		for _, f := range got {
			if err := os.Rename(f, filepath.Join(dir, filepath.Base(f))); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

// instRE finds the packages in what `apt-get install -s` says it would do.
var instRE = regexp.MustCompile(`(?m)^Inst (\S+) \((\S+) .*\[(\w+)\]\)`)

func leftOut(name string, packages, without []string) bool {
	for _, p := range packages {
		if p == name {
			return false
		}
	}
	for _, w := range without {
		if strings.HasPrefix(name, w) {
			return true
		}
	}
	return false
}

// unpack fills the tree with the packages' files. None of their scripts runs.
func (b *builder) unpack(packages, without []string) error {
	// Debian 12 is merged: /bin is /usr/bin, though packages still name both.
	for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "proc", "sys", "dev", "etc", "run", "var/lib", "var/log", "var/cache", "root", "home"} {
		if err := b.dir("/"+dir, 0o755, 0, 0); err != nil {
			return err
		}
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+dir, filepath.Join(b.tree, dir)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/tmp", "/var/tmp"} {
		if err := b.dir(dir, 0o777|os.ModeSticky, 0, 0); err != nil {
			return err
		}
	}
	if len(packages) == 0 {
		return nil
	}
	debs, err := b.debs(packages, without)
	if err != nil {
		return err
	}
	for _, deb := range debs {
		_, err := b.run("sh", "-c", `dpkg-deb --fsys-tarfile "$0" | tar -x --keep-directory-symlink --numeric-owner -p -C "$1"`, deb, b.tree)
		if err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}
	return nil
}

// debootstrap fills the tree with the smallest Debian and the packages, configured.
func (b *builder) debootstrap(packages []string) error {
	cache := filepath.Join(b.root, "debs")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	args := []string{"--variant=minbase", "--cache-dir=" + cache}
	if len(packages) > 0 {
		args = append(args, "--include="+strings.Join(packages, ","))
	}
	// In namespaces of its own: it mounts, and packages' scripts may try to start
	// something.
	_, err := b.run("unshare", append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--", "debootstrap"}, append(args, suite, b.tree, mirror)...)...)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(b.tree, "debootstrap/debootstrap.log"))
		return fmt.Errorf("%w: %s", err, tail(log))
	}
	return nil
}

// tidy removes what no program reads and what differs from one making to the next,
// and sets later times to the epoch.
func (b *builder) tidy() error {
	for _, path := range []string{
		"usr/share/doc", "usr/share/doc-base", "usr/share/man", "usr/share/info", "usr/share/lintian", "usr/share/bug", "usr/share/locale",
		"usr/share/i18n", "var/cache/apt", "var/cache/debconf", "var/cache/ldconfig", "var/lib/apt/lists", "var/log", "debootstrap",
		"etc/hostname", "etc/.pwd.lock", "var/lib/dbus/machine-id",
	} {
		if err := os.RemoveAll(filepath.Join(b.tree, path)); err != nil {
			return err
		}
	}
	// Empty: systemd then makes one, and does not take it for the first boot ever.
	if _, err := os.Stat(filepath.Join(b.tree, "etc/machine-id")); err == nil {
		if err := b.write("/etc/machine-id", 0o644, ""); err != nil {
			return err
		}
	}
	if info, err := os.Lstat(filepath.Join(b.tree, "etc/resolv.conf")); err == nil && info.Mode().IsRegular() {
		if err := os.Remove(filepath.Join(b.tree, "etc/resolv.conf")); err != nil {
			return err
		}
	}
	empty := []string{"/var/log", "/var/cache/apt", "/var/cache/apt/archives", "/var/cache/apt/archives/partial"}
	if _, err := os.Lstat(filepath.Join(b.tree, "var")); err != nil {
		empty = nil // a tree of one disk is no system
	}
	for _, dir := range empty {
		if err := b.dir(dir, 0o755, 0, 0); err != nil {
			return err
		}
	}
	if backups, err := filepath.Glob(filepath.Join(b.tree, "etc", "*-")); err == nil {
		for _, f := range backups { // passwd-, group-: what was there before the last user
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	return filepath.Walk(b.tree, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.ModTime().After(epoch) {
			return err
		}
		ts := unix.NsecToTimespec(epoch.UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// dir makes a directory of the image, with all above it.
func (b *builder) dir(path string, mode os.FileMode, uid, gid int) error {
	at := filepath.Join(b.tree, path)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	return errors.Join(os.Chown(at, uid, gid), os.Chmod(at, mode))
}

// write makes a file of the image, owned by root.
func (b *builder) write(path string, mode os.FileMode, content string) error {
	at := filepath.Join(b.tree, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(at, []byte(content), mode); err != nil {
		return err
	}
	return os.Chmod(at, mode)
}

// user adds a user, and a group of the same number.
func (b *builder) users(users ...string) error {
	passwd, group := "root:x:0:0:root:/root:/bin/sh\n", "root:x:0:\n"
	for _, u := range append(users, "nobody:65534:/nonexistent") {
		f := strings.Split(u, ":")
		passwd += fmt.Sprintf("%s:x:%s:%s::%s:/usr/sbin/nologin\n", f[0], f[1], f[1], f[2])
		group += fmt.Sprintf("%s:x:%s:\n", f[0], f[1])
	}
	return errors.Join(b.write("/etc/passwd", 0o644, passwd), b.write("/etc/group", 0o644, group))
}

// program builds a Go program, static and reproducible.
func (b *builder) program(to, pkg string) error {
	module, err := moduleRoot()
	if err != nil {
		return err
	}
	if strings.HasPrefix(pkg, "./") {
		pkg = "github.com/zero-os/zos/imagetest/" + strings.TrimPrefix(pkg, "./")
	}
	at := filepath.Join(b.tree, to)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", at, pkg}
	cgo := "0"
	if pkg == runc { // with seccomp, which needs cgo, as releases have it
		args = []string{"build", "-trimpath", "-buildvcs=false", "-tags", "seccomp osusergo netgo", "-ldflags=-s -w -buildid= -extldflags=-static", "-o", at, pkg}
		cgo = "1"
	}
	cmd := exec.CommandContext(b.ctx, "go", args...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	return nil
}

const runc = "github.com/opencontainers/runc"

// append adds to a file of the image, which stays whose it is.
func (b *builder) append(path, content string) error {
	f, err := os.OpenFile(filepath.Join(b.tree, path), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

func splitLines(b []byte) []string { return strings.Fields(string(b)) }

// compilePython compiles Python's library, checked by nobody: by default bytecode is
// valid only for the source's time, which tidy sets.
func (b *builder) compilePython() error {
	return b.chroot("0:0", "python3", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", "/usr/lib/python3.11", "/usr/lib/python3/dist-packages")
}
