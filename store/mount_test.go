package store_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/storetest"
)

// filled is a store that holds all of a flist.
func filled(t *testing.T, tr storetest.Tree) *store.Store {
	t.Helper()
	needRoot(t)
	s := open(t, filepath.Join(t.TempDir(), "data"), store.Options{})
	put(t, s, tr)
	return s
}

func put(t *testing.T, s *store.Store, tr storetest.Tree) {
	t.Helper()
	must(t, s.PutManifest(tr.Flist, tr.Bytes))
	for _, b := range tr.Content {
		must(t, s.Put(t.Context(), storetest.Describe(b), strings.NewReader(string(b))))
	}
}

// mountAll mounts a complete flist and unmounts it at the end of the test.
func mountAll(t *testing.T, spec store.MountSpec) store.MountInfo {
	t.Helper()
	spec.Complete = true
	info, err := store.MountFlist(t.Context(), spec)
	must(t, err)
	t.Cleanup(func() { must(t, store.UnmountFlist(t.Context(), spec.Target)) })
	return info
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

func owner(t *testing.T, path string) [2]uint32 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return [2]uint32{st.Uid, st.Gid}
}

func TestMountIsToldByTheKernelAloneAndLeavesNothing(t *testing.T) {
	tr := tree(t, map[string]string{"etc/motd": "welcome\n"})
	s := filled(t, tr)
	before, err := mount.Under("/")
	must(t, err)
	root := t.TempDir()
	info, err := store.MountFlist(t.Context(), store.MountSpec{
		Store: s, Flist: tr.Flist, Target: root + "/ro", Complete: true,
	})
	must(t, err)
	rw, err := store.MountFlist(t.Context(), store.MountSpec{
		Store: s, Flist: tr.Flist, Target: root + "/a, b:c d\\e", Complete: true,
		Upper: root + "/up,per:1", Work: root + "/work", IDBase: 200_000,
	})
	must(t, err)
	if info.Writable || !rw.Writable || info.Verity != s.Verity() {
		t.Fatalf("mounted %+v and %+v", info, rw)
	}
	all, err := store.Mounts(root)
	must(t, err)
	if len(all) != 2 || all[0] != info || all[1] != rw {
		t.Fatalf("the kernel tells %+v, mounted were %+v and %+v", all, info, rw)
	}
	if _, err := store.MountFlist(t.Context(), store.MountSpec{Store: s, Flist: tr.Flist, Target: root + "/ro", Complete: true}); err == nil {
		t.Fatal("mounted on a mount")
	}
	for _, m := range all {
		must(t, store.UnmountFlist(t.Context(), m.Target))
		must(t, store.UnmountFlist(t.Context(), m.Target))
	}
	after, err := mount.Under("/")
	must(t, err)
	if len(after) != len(before) {
		t.Fatalf("%d mounts before, %d after", len(before), len(after))
	}
	noLeftovers(t, s.Dir())
}

func TestReadOnlyMountShowsTheTreeAndRefusesWrites(t *testing.T) {
	tr := tree(t, map[string]string{"bin/app": "#!/bin/sh\necho ran\n", "empty": "", "large": storetest.Noise(1, 2<<20)})
	m := tr.Manifest
	m.Entries = append(m.Entries, flist.Entry{Path: []byte("link"), Mode: 0o120777, Link: []byte("bin/app"), MTime: 1e18})
	m.Entries = append(m.Entries, flist.Entry{Path: []byte("null"), Mode: 0o20666, Rdev: 0x103, MTime: 1e18})
	must(t, tr.SetManifest(m))
	s := filled(t, tr)
	at := t.TempDir()
	mountAll(t, store.MountSpec{Store: s, Flist: tr.Flist, Target: at})
	if got := read(t, at+"/large"); got != storetest.Noise(1, 2<<20) {
		t.Fatal("wrong content")
	}
	if got := read(t, at+"/empty"); got != "" {
		t.Fatalf("the empty file has %q", got)
	}
	out, err := exec.Command(at + "/link").CombinedOutput()
	if err != nil || string(out) != "ran\n" {
		t.Fatalf("executing through the mount: %q, %v", out, err)
	}
	if err := os.WriteFile(at+"/new", nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("writing to a read-only mount: %v", err)
	}
	if _, err := os.ReadFile(at + "/null"); !errors.Is(err, syscall.EACCES) {
		t.Fatalf("opening a device on the mount: %v, want that devices are refused", err)
	}
}

func TestWritableMountKeepsWritesInItsUpperOnly(t *testing.T) {
	tr := tree(t, map[string]string{"a": "original", "dir/b": "b", "gone": "x"})
	s := filled(t, tr)
	root := t.TempDir()
	spec := store.MountSpec{Store: s, Flist: tr.Flist, Target: root + "/m", Upper: root + "/u", Work: root + "/w"}
	info := mountAll(t, spec)
	if !info.Writable {
		t.Fatalf("%+v", info)
	}
	if left, err := os.ReadDir(root + "/u"); err != nil || len(left) != 0 {
		t.Fatalf("proving that the mount is writable left %v in the upper (%v)", left, err)
	}
	must(t, os.WriteFile(root+"/m/a", []byte("changed"), 0o644))
	must(t, os.Remove(root+"/m/gone"))
	must(t, os.Rename(root+"/m/dir", root+"/m/moved"))
	must(t, store.UnmountFlist(t.Context(), root+"/m"))
	verifyObjects(t, s.Dir())
	mountAll(t, spec)
	if read(t, root+"/m/a") != "changed" || read(t, root+"/m/moved/b") != "b" {
		t.Fatal("what was written is not there after mounting again")
	}
	if _, err := os.Stat(root + "/m/gone"); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("what was removed: %v", err)
	}
	mountAll(t, store.MountSpec{Store: s, Flist: tr.Flist, Target: root + "/clean"})
	if read(t, root+"/clean/a") != "original" {
		t.Fatal("a write went through to the flist")
	}
}

func TestShiftedOwnersShareObjectsAndKeepToTheirRange(t *testing.T) {
	tr := tree(t, map[string]string{"a": "content a", "b": "content b"})
	m := tr.Manifest
	for i := range m.Entries {
		if string(m.Entries[i].Path) == "b" {
			m.Entries[i].UID, m.Entries[i].GID = 33, 44
		}
	}
	must(t, tr.SetManifest(m))
	s := filled(t, tr)
	root := t.TempDir()
	for _, base := range []uint32{100_000, 300_000} {
		dir := filepath.Join(root, "m"+string(rune('0'+base/100_000)))
		spec := store.MountSpec{Store: s, Flist: tr.Flist, Target: dir, Upper: dir + "u", Work: dir + "w", IDBase: base}
		mountAll(t, spec)
		for path, want := range map[string][2]uint32{"": {base, base}, "/a": {base, base}, "/b": {base + 33, base + 44}} {
			if got := owner(t, dir+path); got != want {
				t.Errorf("base %d: %q is owned by %v, want %v", base, path, got, want)
			}
		}
		if read(t, dir+"/b") != "content b" {
			t.Error("wrong content")
		}
		// Copying up keeps the shifted owner.
		must(t, os.Chmod(dir+"/b", 0o600))
		if got := owner(t, dir+"u/b"); got != [2]uint32{base + 33, base + 44} {
			t.Errorf("copied up with owner %v", got)
		}
		must(t, store.UnmountFlist(t.Context(), dir))
		spec.IDBase, spec.Complete = base+70_000, true
		_, err := store.MountFlist(t.Context(), spec)
		wantCode(t, err, store.CodeUpperMismatch)
		spec.IDBase = base
		mountAll(t, spec)
	}
	if verifyObjects(t, s.Dir()) != 2 {
		t.Fatal("objects are not shared")
	}
}

func TestRootOfAShiftedMountBelongsToItsUserNamespace(t *testing.T) {
	tr := tree(t, map[string]string{"f": "f"})
	s := filled(t, tr)
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	must(t, os.Chmod(filepath.Dir(root), 0o755))
	const base = 100_000
	mountAll(t, store.MountSpec{Store: s, Flist: tr.Flist, Target: root + "/m", Upper: root + "/u", Work: root + "/w", IDBase: base})
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: base, Size: 65536}}
	cmd := exec.Command("sh", "-c", "cat f && echo new > made && chown 5:6 made && stat -c %u:%g . f made && rm f")
	cmd.Dir = root + "/m"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{Uid: 0, Gid: 0},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "f0:0\n0:0\n5:6\n" {
		t.Fatalf("inside the user namespace: %q, %v", out, err)
	}
	if got := owner(t, root+"/u/made"); got != [2]uint32{base + 5, base + 6} {
		t.Fatalf("made with owner %v", got)
	}
}

func TestMountOfAnIncompleteFlistIsRefusedAsComplete(t *testing.T) {
	tr := tree(t, map[string]string{"a": "a", "b": "b"})
	s := filled(t, tr)
	must(t, s.Remove(tr.File("b").Digest))
	at := t.TempDir()
	_, err := store.MountFlist(t.Context(), store.MountSpec{Store: s, Flist: tr.Flist, Target: at, Complete: true})
	wantCode(t, err, store.CodeObjectMissing)
	_, err = store.MountFlist(t.Context(), store.MountSpec{Store: s, Flist: tr.Flist, Target: at, FaultDir: t.TempDir()})
	wantCode(t, err, store.CodeFaultServerDown)
	for _, bad := range []store.MountSpec{
		{}, {Store: s, Flist: tr.Flist, Target: "relative", Complete: true}, {Store: s, Flist: tr.Flist, Target: at, Upper: "/x", Complete: true},
		{Store: s, Flist: tr.Flist, Target: at}, {Store: s, Flist: tr.Flist, Target: at, Complete: true, IDBase: 1<<32 - 2},
	} {
		if _, err := store.MountFlist(t.Context(), bad); err == nil {
			t.Errorf("mounted %+v", bad)
		}
	}
	if left, err := store.Mounts(at); err != nil || len(left) != 0 {
		t.Fatalf("left mounted: %v, %v", left, err)
	}
}

func TestDamagedImageIsBuiltAgain(t *testing.T) {
	tr := tree(t, map[string]string{"a": "a"})
	s := filled(t, tr)
	at := t.TempDir()
	image := filepath.Join(s.Dir(), "images", tr.Flist.String()+".erofs")
	mountAll(t, store.MountSpec{Store: s, Flist: tr.Flist, Target: at + "/1"})
	good, err := os.ReadFile(image)
	must(t, err)
	for i, damage := range []func(){
		func() { must(t, os.Remove(image)) },
		func() {
			bad := append([]byte{}, good...)
			bad[len(bad)-100] ^= 1
			must(t, os.Remove(image))
			must(t, os.WriteFile(image, bad, 0o444))
		},
		func() { must(t, os.Truncate(image, 4096)) },
		func() { // in place, as if behind the kernel's back
			f, err := os.OpenFile(image, os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt([]byte{1, 2, 3}, 2000)
			must(t, err)
			must(t, f.Close())
		},
	} {
		if s.Verity() && i >= 2 {
			continue // can't be written to
		}
		damage()
		for _, s := range []*store.Store{s, open(t, s.Dir(), store.Options{})} { // one that knows the image, one that doesn't
			target := at + "/x"
			_, err = store.MountFlist(t.Context(), store.MountSpec{Store: s, Flist: tr.Flist, Target: target, Complete: true})
			must(t, err)
			if read(t, target+"/a") != "a" {
				t.Fatal("wrong content")
			}
			must(t, store.UnmountFlist(t.Context(), target))
		}
		now, err := os.ReadFile(image)
		must(t, err)
		if string(now) != string(good) {
			t.Fatalf("damage %d was not mended", i)
		}
	}
}

func TestBusyMountIsDetached(t *testing.T) {
	tr := tree(t, map[string]string{"a": "a"})
	s := filled(t, tr)
	at := t.TempDir()
	mountAll(t, store.MountSpec{Store: s, Flist: tr.Flist, Target: at})
	f, err := os.Open(at + "/a")
	must(t, err)
	defer f.Close()
	start := time.Now()
	must(t, store.UnmountFlist(t.Context(), at))
	if left, err := store.Mounts(at); err != nil || len(left) != 0 || time.Since(start) > 20*time.Second {
		t.Fatalf("after %v: %v, %v", time.Since(start), left, err)
	}
	b := make([]byte, 1)
	if _, err := f.Read(b); err != nil || b[0] != 'a' {
		t.Fatalf("an open file became unreadable: %v", err)
	}
}

func TestEvictedObjectStaysReadableWhereItWasOpened(t *testing.T) {
	tr := tree(t, map[string]string{"a": storetest.Noise(1, 100_000)})
	s := filled(t, tr)
	at := t.TempDir()
	mountAll(t, store.MountSpec{Store: s, Flist: tr.Flist, Target: at})
	f, err := os.Open(at + "/a")
	must(t, err)
	defer f.Close()
	must(t, s.Remove(tr.File("a").Digest))
	if read(t, at+"/a") != storetest.Noise(1, 100_000) {
		t.Fatal("an object that is in use became unreadable")
	}
}

// A process that is killed while it mounts leaves at most its metadata mount,
// which the next one takes away.
func TestMountsOfAKilledProcessAreTakenAway(t *testing.T) {
	tr := tree(t, map[string]string{"a": "a"})
	s := filled(t, tr)
	mountAll(t, store.MountSpec{Store: s, Flist: tr.Flist, Target: t.TempDir()})
	dead := filepath.Join(s.Dir(), "tmp", "p-dead", "meta-1")
	must(t, os.MkdirAll(dead, 0o700))
	must(t, mount.EROFS(filepath.Join(s.Dir(), "images", tr.Flist.String()+".erofs"), dead))
	open(t, s.Dir(), store.Options{})
	if left, err := mount.Under(filepath.Dir(dead)); err != nil || len(left) != 0 {
		t.Fatalf("left mounted: %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Dir(dead)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("left over: %v", err)
	}
}
