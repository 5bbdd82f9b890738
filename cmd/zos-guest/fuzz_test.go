package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// maxFuzz bounds an input, in bytes.
const maxFuzz = 64 << 10

// inRoot runs f on a thread of its own whose root is dir, as the agent's stages have a
// workload's. The thread ends with it.
func inRoot(t *testing.T, dir string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: nothing else runs with this root
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chroot(dir)
		}
		if err == nil {
			err = unix.Chdir("/")
		}
		if err != nil {
			t.Errorf("change the root: %v", err)
			done <- nil
			return
		}
		done <- f()
	}()
	return <-done
}

func tarOf(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, strings.Repeat("x", int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// FuzzUnpack: no archive makes the agent panic, or puts anything beside the directory
// that was named unless a link of the workload's own leads there.
func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, tar.Header{Typeflag: tar.TypeReg, Name: "a/b", Size: 3, Mode: 0o6755, Uid: 5}, tar.Header{Typeflag: tar.TypeDir, Name: "a/", Mode: 0o700}))
	f.Add(tarOf(f, tar.Header{Typeflag: tar.TypeReg, Name: "../../x", Size: 1}))
	f.Add(tarOf(f, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/"}, tar.Header{Typeflag: tar.TypeReg, Name: "l/x"}))
	f.Add(tarOf(f, tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}))
	f.Add(tarOf(f, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "/etc/passwd"}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		if len(archive) > maxFuzz {
			return
		}
		links := false
		for r := tar.NewReader(bytes.NewReader(archive)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if h.Size > maxFuzz {
				return // holes, which only the workload's disk bounds
			}
			links = links || h.Typeflag == tar.TypeSymlink
		}
		dir := t.TempDir()
		_ = inRoot(t, dir, func() error { return unpack(bytes.NewReader(archive), "/srv") })
		ents, err := os.ReadDir(dir)
		if err != nil || !links && (len(ents) != 1 || ents[0].Name() != "srv") {
			t.Errorf("made beside the directory: %v, %v", ents, err)
		}
	})
}

// FuzzTexts: what the agent reads from the guest's kernel and from an image, it reads
// without trust.
func FuzzTexts(f *testing.F) {
	f.Add("8:0 rbytes=1 wbytes=2 rios=3\n")
	f.Add("Inter-|   Receive\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n")
	f.Add("some avg10=1.50 avg60=0.00 avg300=0.00 total=5\n")
	f.Add("ada:x:1000:1000::/home/ada:/bin/sh\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > maxFuzz {
			return
		}
		ioStat(text)
		netDev(text)
		pressure(text)
		if home := homeOf(text, 1000); !strings.HasPrefix(home, "/") {
			t.Errorf("a home at %q", home)
		}
	})
}
