package store_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/storetest"
)

// ingestEnv makes the test binary fill the store that it names until it is killed.
const ingestEnv = "ZOS_TEST_INGEST"

// ingestForEver puts and removes objects of all sizes, several at a time.
func ingestForEver(dir string) {
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString("begun\n")
	for range 4 {
		go func() {
			for {
				b := []byte(storetest.Noise(rand.Uint64()%200, 1+rand.IntN(400_000)))
				f := storetest.Describe(b)
				if err := s.Put(context.Background(), f, bytes.NewReader(b)); err != nil {
					panic(err)
				}
				if rand.IntN(4) == 0 {
					_ = s.Remove(f.Digest)
				}
			}
		}()
	}
	select {}
}

// ingest starts the test binary as the filler of dir and returns its ending.
func ingest(t *testing.T, dir string) (kill func()) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), ingestEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal("the filling process does not start: ", err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func TestKillAtAnyMomentLeavesOnlyWholeObjects(t *testing.T) {
	dir := t.TempDir()
	seen := 0
	for range 25 {
		kill := ingest(t, dir)
		time.Sleep(time.Duration(rand.IntN(60_000)) * time.Microsecond)
		kill()
		seen = max(seen, verifyObjects(t, dir))
	}
	if seen == 0 {
		t.Fatal("nothing was stored, so nothing was tested")
	}
	s := open(t, dir, store.Options{})
	noLeftovers(t, s.Dir())
	entries, err := os.ReadDir(filepath.Join(dir, "tmp"))
	must(t, err)
	if len(entries) != 1 {
		t.Fatalf("%d directories in tmp/, want the living process's alone", len(entries))
	}
	t.Logf("up to %d objects", seen)
}

// A snapshot of the disk, taken at one instant while it is written to, is what a
// power cut leaves. btrfs below the disk's file makes snapshots of that kind.
func TestPowerCutLeavesOnlyWholeObjects(t *testing.T) {
	base := t.TempDir()
	below, dir, at := filepath.Join(base, "below"), filepath.Join(base, "mnt"), filepath.Join(base, "cut")
	needRoot(t)
	makeDisk(t, filepath.Join(base, "btrfs"), "600M", below, "mkfs.btrfs", "-q")
	image := filepath.Join(below, "disk")
	makeDisk(t, image, "200M", dir, "mkfs.ext4", "-q", "-m", "0")
	must(t, os.Mkdir(filepath.Join(dir, "data"), 0o755))
	kill := ingest(t, filepath.Join(dir, "data"))
	t.Cleanup(kill)
	seen := 0
	for i := range 8 {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		// Any fsync commits the whole journal, all the renames so far included:
		// what was renamed before its content was safe would be found now.
		commitJournal(t, dir)
		cut := filepath.Join(below, "cut"+strconv.Itoa(i))
		clone(t, image, cut)
		mountDisk(t, cut, at)
		if _, err := os.Stat(at + "/data/objects"); err == nil {
			seen += verifyObjects(t, at+"/data")
			s, err := store.Open(at+"/data", store.Options{})
			must(t, err)
			noLeftovers(t, at+"/data")
			must(t, s.Close())
		}
		must(t, mount.Unmount(at))
	}
	if seen == 0 {
		t.Fatal("no object survived, so nothing was tested")
	}
	t.Logf("%d objects survived", seen)
}

func commitJournal(t *testing.T, dir string) {
	t.Helper()
	f, err := os.CreateTemp(dir, "sync-")
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
	must(t, os.Remove(f.Name()))
}

// makeDisk makes a file system in the file image and mounts it.
func makeDisk(t *testing.T, image, size, at string, mkfs ...string) {
	t.Helper()
	run(t, "truncate", "-s", size, image)
	run(t, append(mkfs, image)...)
	mountDisk(t, image, at)
	t.Cleanup(func() { must(t, mount.Unmount(at)) })
}

func mountDisk(t *testing.T, image, at string) {
	t.Helper()
	must(t, os.MkdirAll(at, 0o755))
	run(t, "mount", "-o", "loop", image, at)
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v (needs e2fsprogs, btrfs-progs, mount and loop devices: sudo make deps): %v\n%s", args, err, out)
	}
}

func clone(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	must(t, err)
	defer src.Close()
	dst, err := os.Create(to)
	must(t, err)
	defer dst.Close()
	must(t, unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())))
}
