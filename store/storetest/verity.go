package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/linux/verity"
	"github.com/zero-os/zos/store"
)

// CheckVerity tries, on a kernel and file system with fs-verity, that nothing
// that was changed below the store is ever served: a byte flipped on the raw
// device in an object and in a metadata image, an object without fs-verity and one with
// another content. dir is an empty directory on a file system on a block device
// (not zram: that has no place for a byte), work one on any writable file system. say
// is told each step that held. It writes to the raw device and drops the machine's
// caches: run it in a machine made for it.
func CheckVerity(ctx context.Context, dir, work string, say func(string)) error {
	s, err := store.Open(dir, store.Options{RequireVerity: true})
	if err != nil {
		return err
	}
	defer s.Close()
	c := &verityCheck{ctx: ctx, s: s, work: work, say: say}
	if c.tree, err = NewTree(map[string]string{
		"flipped": Noise(1, 64<<10), "flipped-large": Noise(2, 3<<20), "plain": "no fs-verity", "other": "as published", "good": Noise(3, 10_000),
	}); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		run  func() error
	}{
		{"what is whole is served, verified by the kernel", c.whole},
		{"the digests computed in Go are the kernel's", c.digests},
		{"a byte flipped on the disk is EIO, on its page alone", c.flipObjects},
		{"an object without fs-verity is EIO", c.plainObject},
		{"an object with another content is EIO", c.otherObject},
		{"a byte flipped in the metadata image is never served", c.flipImage},
		{"owners can be shifted on a writable verified mount", c.shifted},
	} {
		if err := step.run(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		say(step.name)
	}
	return nil
}

type verityCheck struct {
	ctx  context.Context
	s    *store.Store
	tree Tree
	work string
	say  func(string)
}

// mounted runs f on the mounted tree.
func (c *verityCheck) mounted(f func(at string) error) error {
	at := filepath.Join(c.work, "at")
	info, err := store.MountFlist(c.ctx, store.MountSpec{Store: c.s, Flist: c.tree.Flist, Target: at, Complete: true})
	if err != nil {
		return err
	}
	if !info.Verity {
		err = errors.New("the mount does not require fs-verity")
	} else {
		err = f(at)
	}
	return errors.Join(err, store.UnmountFlist(c.ctx, at))
}

func (c *verityCheck) put() error {
	if err := c.s.PutManifest(c.tree.Flist, c.tree.Bytes); err != nil {
		return err
	}
	for _, b := range c.tree.Content {
		if err := c.s.Put(c.ctx, Describe(b), bytes.NewReader(b)); err != nil {
			return err
		}
	}
	return nil
}

func (c *verityCheck) content(name string) []byte { return c.tree.Content[c.tree.File(name).Digest] }

func (c *verityCheck) whole() error {
	if err := c.put(); err != nil {
		return err
	}
	return c.mounted(func(at string) error {
		for _, e := range c.tree.Manifest.Entries {
			if e.File == nil {
				continue
			}
			got, err := os.ReadFile(filepath.Join(at, string(e.Path)))
			if err != nil {
				return err
			}
			if !bytes.Equal(got, c.content(string(e.Path))) {
				return fmt.Errorf("%s has wrong content", e.Path)
			}
		}
		return nil
	})
}

func (c *verityCheck) digests() error {
	for _, size := range []int{1, 4095, 4096, 4097, 128 * 4096, 128*4096 + 1, 129 * 4096} {
		path := filepath.Join(c.s.Dir(), "digest")
		if err := os.WriteFile(path, []byte(Noise(9, size)), 0o600); err != nil {
			return err
		}
		if err := verity.Enable(path); err != nil {
			return err
		}
		got, err := verity.Measure(path)
		if err != nil {
			return err
		}
		if want := Describe([]byte(Noise(9, size))).Verity; got != want {
			return fmt.Errorf("%d bytes: the kernel says %s, Go %s", size, got, want)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

func (c *verityCheck) flipObjects() error {
	const page = 5
	for _, name := range []string{"flipped", "flipped-large"} {
		if err := c.flip(c.s.ObjectPath(c.tree.File(name).Digest), page*verity.BlockSize+77); err != nil {
			return err
		}
	}
	return c.mounted(func(at string) error {
		for _, name := range []string{"flipped", "flipped-large"} {
			if err := c.onlyPageFails(filepath.Join(at, name), c.content(name), page); err != nil {
				return err
			}
		}
		return nil
	})
}

// onlyPageFails reads the file page by page: one gives EIO, all others are right.
func (c *verityCheck) onlyPageFails(path string, want []byte, bad int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	// No reading ahead, or the pages beside the bad one would fail the first time.
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		return err
	}
	buf := make([]byte, verity.BlockSize)
	for i := 0; i*verity.BlockSize < len(want); i++ {
		off := i * verity.BlockSize
		n, err := f.ReadAt(buf[:min(verity.BlockSize, len(want)-off)], int64(off))
		switch {
		case i == bad && !errors.Is(err, unix.EIO):
			return fmt.Errorf("%s: the changed page gives %d bytes, %v", path, n, err)
		case i != bad && err != nil:
			return fmt.Errorf("%s: page %d: %w", path, i, err)
		case i != bad && !bytes.Equal(buf[:n], want[off:off+n]):
			return fmt.Errorf("%s: page %d has wrong content", path, i)
		}
	}
	return nil
}

// replace puts a file of its own in the place of an object that the mount has
// not opened yet.
func (c *verityCheck) replace(name, content string, enable bool) error {
	return c.mounted(func(at string) error {
		path := c.s.ObjectPath(c.tree.File(name).Digest)
		err := errors.Join(os.Remove(path), os.WriteFile(path, []byte(content), 0o444))
		if err == nil && enable {
			err = verity.Enable(path)
		}
		if err != nil {
			return err
		}
		if got, err := os.ReadFile(filepath.Join(at, name)); !errors.Is(err, unix.EIO) {
			return fmt.Errorf("reading gives %q, %v", got, err)
		}
		if err := c.s.Complete(c.ctx, c.tree.Flist); err == nil {
			return errors.New("the store takes the flist for complete")
		}
		// Putting the right one replaces it.
		return c.put()
	})
}

func (c *verityCheck) plainObject() error {
	return c.replace("plain", string(c.content("plain")), false)
}

func (c *verityCheck) otherObject() error { return c.replace("other", "not what was", true) }

func (c *verityCheck) flipImage() error {
	image := filepath.Join(c.s.Dir(), "images", c.tree.Flist.String()+".erofs")
	good, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	// Somewhere in a name: a plain reader of the image would just show another one.
	at := bytes.Index(good, []byte("flipped-large"))
	if at < 0 {
		return errors.New("the image does not hold its names in plain")
	}
	if err := c.flip(image, int64(at)); err != nil {
		return err
	}
	err = c.mounted(func(at string) error {
		entries, err := os.ReadDir(at)
		if err != nil {
			return nil
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return fmt.Errorf("the mount shows %s", strings.Join(names, ", "))
	})
	if err != nil && strings.Contains(err.Error(), "the mount shows") {
		return err
	}
	if err := os.Remove(image); err != nil {
		return err
	}
	return c.mounted(func(at string) error { _, err := os.ReadDir(at); return err })
}

func (c *verityCheck) shifted() error {
	at := filepath.Join(c.work, "shifted")
	// The upper needs a disk too; the store's is one.
	spec := store.MountSpec{
		Store: c.s, Flist: c.tree.Flist, Target: at, Complete: true, IDBase: 100_000,
		Upper: filepath.Join(c.s.Dir(), "upper"), Work: filepath.Join(c.s.Dir(), "work"),
	}
	// The flipped objects are damaged below what can be measured; bring good ones.
	for _, name := range []string{"flipped", "flipped-large"} {
		if err := c.s.Remove(c.tree.File(name).Digest); err != nil {
			return err
		}
	}
	if err := c.put(); err != nil {
		return err
	}
	if _, err := store.MountFlist(c.ctx, spec); err != nil {
		return err
	}
	err := func() error {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(at, "good"), &st); err != nil {
			return err
		}
		if st.Uid != 100_000 {
			return fmt.Errorf("owner is %d", st.Uid)
		}
		if err := os.WriteFile(filepath.Join(at, "plain"), []byte("changed"), 0o644); err != nil {
			return err
		}
		got, err := os.ReadFile(filepath.Join(at, "flipped"))
		if err == nil && !bytes.Equal(got, c.content("flipped")) {
			err = errors.New("wrong content")
		}
		return err
	}()
	return errors.Join(err, store.UnmountFlist(c.ctx, at))
}

// flip changes one bit of the file's byte at offset on the device below the file
// system, and makes the kernel forget what it has read of it.
func (c *verityCheck) flip(path string, offset int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	where, err := physical(f, offset)
	if err != nil {
		return fmt.Errorf("where %s lies on the device: %w", path, err)
	}
	device, err := deviceOf(c.s.Dir())
	if err != nil {
		return err
	}
	dev, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	b := make([]byte, 1)
	if _, err := dev.ReadAt(b, where); err != nil {
		return err
	}
	b[0] ^= 1
	if _, err := dev.WriteAt(b, where); err != nil {
		return err
	}
	if err := dev.Sync(); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// physical asks the file system where the byte at offset is (FS_IOC_FIEMAP).
func physical(f *os.File, offset int64) (int64, error) {
	const fsIocFiemap = 0xc020660b
	var m struct {
		start, length                  uint64
		flags, mapped, count, reserved uint32
		logical, physical, extent      uint64
		reserved64                     [2]uint64
		extentFlags                    uint32
		reserved32                     [3]uint32
	}
	m.start, m.length, m.count = uint64(offset), 1, 1
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(&m))); errno != 0 {
		return 0, errno
	}
	if m.mapped != 1 || m.physical == 0 {
		return 0, errors.New("not mapped")
	}
	return int64(m.physical) + offset - int64(m.logical), nil
}

// deviceOf returns the block device of the file system that dir is on.
func deviceOf(dir string) (string, error) {
	all, err := mount.Under("/")
	if err != nil {
		return "", err
	}
	best := mount.Entry{}
	for _, e := range all {
		if (e.Target == "/" || dir == e.Target || strings.HasPrefix(dir, e.Target+"/")) && len(e.Target) >= len(best.Target) {
			best = e
		}
	}
	if !strings.HasPrefix(best.Source, "/dev/") {
		return "", fmt.Errorf("%s is on %s, not on a block device", dir, best.Source)
	}
	return best.Source, nil
}
