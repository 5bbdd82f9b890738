package mount

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// EROFS mounts the image file read-only on target, without a loop device
// (needs CONFIG_EROFS_FS_BACKED_BY_FILE). ENOTBLK means that the file system
// that holds the image can't back a mount: tmpfs and the initial root can't.
func EROFS(image, target string) error {
	if err := unix.Mount(image, target, "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount EROFS image %s on %s: %w", image, target, err)
	}
	return nil
}

// Bind makes the tree at source visible at target too; submounts only if
// recursive.
func Bind(source, target string, recursive bool) error {
	flags := uintptr(unix.MS_BIND)
	if recursive {
		flags |= unix.MS_REC
	}
	if err := unix.Mount(source, target, "", flags, ""); err != nil {
		return fmt.Errorf("bind %s on %s: %w", source, target, err)
	}
	return nil
}

// Move moves the mount at source to target.
func Move(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move mount %s to %s: %w", source, target, err)
	}
	return nil
}

// Unmount removes the topmost mount at target; EBUSY while something in it is in use.
func Unmount(target string) error {
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// Detach removes the topmost mount at target from the tree at once; what is
// still open in it stays usable until it is closed.
func Detach(target string) error {
	if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("detach mount %s: %w", target, err)
	}
	return nil
}

// OverlaySpec describes an overlay.
type OverlaySpec struct {
	Source string   // shown as the mount's source by the kernel
	Lower  []string // topmost first
	Data   []string // data-only layers below Lower, topmost first
	Upper  string   // empty: read-only
	Work   string
	Params [][2]string // further parameters, as in {"metacopy", "on"}
	NoDev  bool
	NoSUID bool
}

// maxParam is the longest value that fsconfig(2) takes, maxPage what mount(2)
// takes for all options together; both with the closing zero byte.
const (
	maxParam = 256
	maxPage  = 4096
)

// Overlay mounts an overlay on target. It uses fsconfig(2), whose errors say
// what the kernel didn't like and which has no limit for all layers together;
// where one path is too long for that, mount(2).
func Overlay(spec OverlaySpec, target string) error {
	for _, p := range spec.paths() {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("mount overlay on %s: layer %q is not an absolute path", target, p)
		}
		if len(escapeColon(p)) >= maxParam {
			return overlayClassic(spec, target)
		}
	}
	return overlayNew(spec, target)
}

func (s OverlaySpec) paths() []string {
	all := append(append([]string{}, s.Lower...), s.Data...)
	if s.Upper != "" {
		all = append(all, s.Upper, s.Work)
	}
	return all
}

func overlayNew(spec OverlaySpec, target string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open overlay context: %w", err)
	}
	defer unix.Close(fs)
	set := func(key, value string) {
		if err != nil {
			return
		}
		if e := unix.FsconfigSetString(fs, key, value); e != nil {
			err = fmt.Errorf("mount overlay on %s: %s=%s: %w%s", target, key, value, e, complaint(fs))
		}
	}
	if spec.Source != "" {
		set("source", spec.Source)
	}
	for _, p := range spec.Params {
		set(p[0], p[1])
	}
	for _, l := range spec.Lower {
		set("lowerdir+", l)
	}
	for _, d := range spec.Data {
		set("datadir+", d)
	}
	if spec.Upper != "" {
		// Unlike the layers, these two are unescaped by the kernel.
		set("upperdir", escapeBackslash(spec.Upper))
		set("workdir", escapeBackslash(spec.Work))
	}
	if err != nil {
		return err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("mount overlay on %s: %w%s", target, err, complaint(fs))
	}
	attr := 0
	if spec.NoDev {
		attr |= unix.MOUNT_ATTR_NODEV
	}
	if spec.NoSUID {
		attr |= unix.MOUNT_ATTR_NOSUID
	}
	if spec.Upper == "" {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return fmt.Errorf("mount overlay on %s: %w%s", target, err, complaint(fs))
	}
	defer unix.Close(m)
	if err := unix.MoveMount(m, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach overlay to %s: %w", target, err)
	}
	return nil
}

// complaint reads the kernel's own words about a failed call on a file system context.
func complaint(fs int) string {
	var out strings.Builder
	buf := make([]byte, 1024)
	for range 8 {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			break
		}
		fmt.Fprintf(&out, " (kernel: %s)", strings.TrimSpace(string(buf[:n])))
	}
	return out.String()
}

func overlayClassic(spec OverlaySpec, target string) error {
	var lower strings.Builder
	for i, l := range spec.Lower {
		if i > 0 {
			lower.WriteByte(':')
		}
		lower.WriteString(escapeColon(l))
	}
	for _, d := range spec.Data {
		lower.WriteString("::" + escapeColon(d))
	}
	opts := make([]string, 0, len(spec.Params)+3)
	for _, p := range spec.Params {
		opts = append(opts, p[0]+"="+p[1])
	}
	opts = append(opts, "lowerdir="+escapeComma(lower.String()))
	var flags uintptr
	if spec.Upper != "" {
		opts = append(opts, "upperdir="+escapeComma(escapeBackslash(spec.Upper)), "workdir="+escapeComma(escapeBackslash(spec.Work)))
	} else {
		flags |= unix.MS_RDONLY
	}
	if spec.NoDev {
		flags |= unix.MS_NODEV
	}
	if spec.NoSUID {
		flags |= unix.MS_NOSUID
	}
	data := strings.Join(opts, ",")
	if len(data) >= maxPage {
		return fmt.Errorf("mount overlay on %s: the options take %d bytes, mount(2) takes %d: %w", target, len(data), maxPage-1, unix.ENAMETOOLONG)
	}
	source := spec.Source
	if source == "" {
		source = "overlay"
	}
	if err := unix.Mount(source, target, "overlay", flags, data); err != nil {
		return fmt.Errorf("mount overlay on %s: %w", target, err)
	}
	return nil
}

func escapeBackslash(p string) string { return strings.ReplaceAll(p, `\`, `\\`) }

func escapeColon(p string) string {
	return strings.ReplaceAll(escapeBackslash(p), ":", `\:`)
}

func escapeComma(p string) string {
	return strings.ReplaceAll(p, ",", `\,`)
}

// IsBusy tells whether err says that the mount is in use.
func IsBusy(err error) bool { return errors.Is(err, unix.EBUSY) }

// IsNotMounted tells whether err says that there is no mount.
func IsNotMounted(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT)
}
