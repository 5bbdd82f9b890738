package fault_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/storetest"
)

// BenchmarkOpen compares opening and closing a file on a lazy mount with the
// same on the file system below.
func BenchmarkOpen(b *testing.B) {
	const files = 2000
	content := map[string]string{}
	for i := range files {
		content[fmt.Sprintf("d%d/f%d", i%20, i)] = storetest.Noise(uint64(i), 4096)
	}
	tr := tree(b, content)
	hub := newHub(b, tr)
	root := b.TempDir()
	b.Cleanup(func() { unmountAll(b, root) })
	p := startServer(b, buildServer(b), root, hub.URL)
	must(b, p.client.Manifest(b.Context(), tr.Flist))
	s, err := store.Open(filepath.Join(root, "data"), store.Options{})
	must(b, err)
	defer s.Close()
	paths := func(at string) []string {
		var all []string
		for name := range content {
			all = append(all, filepath.Join(at, name))
		}
		return all
	}
	mounted := func(name string) []string {
		_, err := store.MountFlist(b.Context(), store.MountSpec{Store: s, Flist: tr.Flist, Target: filepath.Join(root, name), FaultDir: p.dir})
		must(b, err)
		return paths(filepath.Join(root, name))
	}
	openAll := func(b *testing.B, all []string) {
		b.Helper()
		n := 0
		for b.Loop() {
			fd, err := unix.Open(all[n%len(all)], unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				b.Fatal(err)
			}
			_ = unix.Close(fd)
			n++
		}
	}
	native := filepath.Join(root, "native")
	for name, c := range content {
		path := filepath.Join(native, name)
		must(b, os.MkdirAll(filepath.Dir(path), 0o755))
		must(b, os.WriteFile(path, []byte(c), 0o644))
	}
	once := func(all []string) func(*testing.B) {
		return func(b *testing.B) {
			for range b.N {
				for _, path := range all {
					fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
					must(b, err)
					_ = unix.Close(fd)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(len(all)), "µs/file")
		}
	}
	a := mounted("a")
	b.Run("first-absent", once(a)) // fetched from the hub; use -benchtime 1x
	b.Run("first-present", once(mounted("b")))
	b.Run("warm", func(b *testing.B) { openAll(b, a) })
	b.Run("native", func(b *testing.B) { openAll(b, paths(native)) })
	b.Log(strings.TrimSpace(rss(b, p.cmd.Process.Pid)))
}
