package flist

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// layerOf makes a layer of a plain archive.
func layerOf(t *testing.T, archive *bytes.Reader, media types.MediaType) v1.Layer {
	t.Helper()
	b, err := io.ReadAll(archive)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
		tarball.WithMediaType(media))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// layoutOf writes a layout that holds one image for linux/amd64 named "test".
func layoutOf(t *testing.T, config v1.Config, archives ...*bytes.Reader) string {
	t.Helper()
	img := empty.Image
	var err error
	for _, a := range archives {
		if img, err = mutate.AppendLayers(img, layerOf(t, a, types.OCILayer)); err != nil {
			t.Fatal(err)
		}
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config = "linux", "amd64", config
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{refName: "test"})); err != nil {
		t.Fatal(err)
	}
	return dir
}

func buildOCI(t *testing.T, dir string, sink Sink) Manifest {
	t.Helper()
	_, m, _, err := BuildOCI(context.Background(), dir, "", "", sink, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// names lists a manifest's paths with the content of small files.
func names(m Manifest, s *storeSink) string {
	var out []string
	for _, e := range m.Entries[1:] {
		line := string(e.Path)
		switch e.Type() {
		case "file":
			line += "=" + string(s.content(e.File))
		case "hardlink":
			line += "==" + string(e.Link)
		case "symlink":
			line += "->" + string(e.Link)
		case "dir":
			line += "/"
		}
		out = append(out, line)
	}
	return strings.Join(out, " ")
}

func TestImageOfATreeHasTheSameDigestAsTheTree(t *testing.T) {
	src := sourceDir(t)
	config := &Config{
		Entrypoint: []string{"/bin/sh"}, Cmd: []string{"-c", "true"}, Env: []string{"PATH=/bin", "LANG=C"},
		WorkDir: "/work", User: "1000:1000",
	}
	want, m, _ := buildDir(t, src, Options{Config: config})
	archive, err := io.ReadAll(gnuTar(t, src))
	if err != nil {
		t.Fatal(err)
	}
	dir := layoutOf(t, v1.Config{
		Entrypoint: config.Entrypoint, Cmd: config.Cmd, Env: config.Env, WorkingDir: config.WorkDir, User: config.User,
	}, bytes.NewReader(archive))
	for _, ref := range []string{"", "test"} {
		got, m2, _, err := BuildOCI(context.Background(), dir, ref, "linux/amd64", Discard{}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatal(differences(m, m2))
		}
	}
	if !reflect.DeepEqual(m.Config, *config) {
		t.Fatalf("configuration became %+v", m.Config)
	}
}

func TestLayersAreAppliedWithTheirWhiteouts(t *testing.T) {
	cases := map[string]struct {
		layers [][]tarEntry
		want   string
	}{
		"a later layer replaces": {
			[][]tarEntry{{file("a", "1"), file("b", "1")}, {file("a", "2")}},
			"a=2 b=1",
		},
		"a whiteout hides a file": {
			[][]tarEntry{{dir("d"), file("d/a", "1"), file("d/b", "1")}, {file("d/.wh.a", "")}},
			"d/ d/b=1",
		},
		"a whiteout hides a directory with all that is in it": {
			[][]tarEntry{{dir("d"), file("d/a", "1"), file("e", "1")}, {file(".wh.d", "")}},
			"e=1",
		},
		"a whiteout does not hide what its own layer brings": {
			[][]tarEntry{{file("a", "1")}, {file("a", "2"), file(".wh.a", "")}},
			"a=2",
		},
		"a directory is replaced by whiteout and new directory": {
			[][]tarEntry{{dir("d"), file("d/a", "1")}, {file(".wh.d", ""), dir("d"), file("d/b", "2")}},
			"d/ d/b=2",
		},
		"the same, listed the other way round": {
			[][]tarEntry{{dir("d"), file("d/a", "1")}, {dir("d"), file("d/b", "2"), file(".wh.d", "")}},
			"d/ d/b=2",
		},
		"an opaque directory hides what lower layers have": {
			[][]tarEntry{{dir("d"), file("d/a", "1"), dir("d/s"), file("d/s/x", "1")}, {dir("d"), file("d/.wh..wh..opq", ""), file("d/b", "2")}},
			"d/ d/b=2",
		},
		"an opaque mark after its directory's new content": {
			[][]tarEntry{{dir("d"), file("d/a", "1"), dir("d/s"), file("d/s/x", "1")}, {dir("d"), file("d/b", "2"), file("d/s/y", "2"), file("d/.wh..wh..opq", "")}},
			"d/ d/b=2 d/s/ d/s/y=2",
		},
		"an opaque root": {
			[][]tarEntry{{file("a", "1"), dir("d")}, {file(".wh..wh..opq", ""), file("b", "2")}},
			"b=2",
		},
		"a hard link to a file of a lower layer": {
			[][]tarEntry{{file("a", "1")}, {hardlink("z", "a")}},
			"a=1 z==a",
		},
		"the first name of a hard link goes": {
			[][]tarEntry{{file("a", "1"), hardlink("b", "a"), hardlink("c", "a")}, {file(".wh.a", "")}},
			"b=1 c==b",
		},
		"one name of a hard link is replaced": {
			[][]tarEntry{{file("a", "1"), hardlink("b", "a")}, {file("a", "2")}},
			"a=2 b=1",
		},
		"a file becomes a directory": {
			[][]tarEntry{{file("a", "1")}, {dir("a"), file("a/b", "2")}},
			"a/ a/b=2",
		},
		"a directory becomes a file": {
			[][]tarEntry{{dir("a"), file("a/b", "1")}, {file("a", "2")}},
			"a=2",
		},
		"a path through a link of a lower layer is resolved": {
			[][]tarEntry{{dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib")}, {file("lib/x", "2"), file("lib/.wh.y", "")}},
			"lib->usr/lib usr/ usr/lib/ usr/lib/x=2",
		},
		"a whiteout through a link": {
			[][]tarEntry{{dir("usr"), file("usr/x", "1"), symlink("lib", "/usr")}, {file("lib/.wh.x", "")}},
			"lib->/usr usr/",
		},
		"aufs's own files are no content": {
			[][]tarEntry{{file("a", "1"), dir(".wh..wh.plnk"), file(".wh..wh.aufs", "")}},
			"a=1",
		},
		"a whiteout of what is not there": {
			[][]tarEntry{{file("a", "1")}, {file(".wh.b", ""), file("no/such/.wh.c", "")}},
			"a=1",
		},
		"a device and a pipe come and go": {
			[][]tarEntry{
				{{tar.Header{Name: "n", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""}, {tar.Header{Name: "p", Typeflag: tar.TypeFifo}, ""}},
				{file(".wh.n", "")},
			},
			"p",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var archives []*bytes.Reader
			for _, l := range c.layers {
				archives = append(archives, tarOf(t, l...))
			}
			sink := newStoreSink()
			m := buildOCI(t, layoutOf(t, v1.Config{}, archives...), sink)
			if got := names(m, sink); got != c.want {
				t.Errorf("have %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestHiddenContentIsNotPublished(t *testing.T) {
	sink := newStoreSink()
	buildOCI(t, layoutOf(t, v1.Config{},
		tarOf(t, file("secret", "the key"), file("kept", "kept")),
		tarOf(t, file(".wh.secret", ""))), sink)
	if _, leaked := sink.objects[canon.Sum([]byte("the key"))]; leaked || len(sink.objects) != 1 {
		t.Fatalf("%d objects were published, the hidden one among them: %v", len(sink.objects), leaked)
	}
}

func TestEveryCompressionOfALayerGivesTheSameFlist(t *testing.T) {
	entries := []tarEntry{dir("d"), file("d/f", strings.Repeat("content ", 1000))}
	var want Manifest
	for i, media := range []types.MediaType{types.OCIUncompressedLayer, types.OCILayer, types.OCILayerZStd, types.DockerLayer} {
		img, err := mutate.AppendLayers(empty.Image, layerOf(t, tarOf(t, entries...), media))
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		p, err := layout.Write(dir, empty.Index)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.AppendImage(img); err != nil {
			t.Fatal(err)
		}
		m := buildOCI(t, dir, Discard{})
		if i == 0 {
			want = m
		} else if d := Diff(want, m); len(d) > 0 {
			t.Errorf("%s: %v", media, d)
		}
	}
}

func TestImageIsChosenByNameAndPlatform(t *testing.T) {
	image := func(arch, content string) v1.Image {
		img, err := mutate.AppendLayers(empty.Image, layerOf(t, tarOf(t, file("which", content)), types.OCILayer))
		if err != nil {
			t.Fatal(err)
		}
		cf, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		cf = cf.DeepCopy()
		cf.OS, cf.Architecture = "linux", arch
		if img, err = mutate.ConfigFile(img, cf); err != nil {
			t.Fatal(err)
		}
		return img
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: image("amd64", "amd64"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: image("arm64", "arm64"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}})
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	named := func(n string) layout.Option { return layout.WithAnnotations(map[string]string{refName: n}) }
	if err := p.AppendIndex(index, named("multi")); err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(image("amd64", "single"), named("single")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ ref, platform, want, code string }{
		{"multi", "", "amd64", ""},
		{"multi", "linux/arm64", "arm64", ""},
		{"multi", "linux/arm64/v8", "arm64", ""},
		{"multi", "linux/s390x", "", "image-platform"},
		{"single", "", "single", ""},
		{"single", "linux/arm64", "", "image-platform"},
		{"absent", "", "", "image-unknown"},
		{"", "", "", "image-ambiguous"},
	} {
		sink := newStoreSink()
		_, m, _, err := BuildOCI(context.Background(), dir, c.ref, c.platform, sink, Options{})
		if problem.Code(err) != c.code {
			t.Errorf("%s for %s: %v, want code %q", c.ref, c.platform, err, c.code)
		} else if err == nil && names(m, sink) != "which="+c.want {
			t.Errorf("%s for %s: have %s", c.ref, c.platform, names(m, sink))
		}
	}
}

// alterBlobs changes every blob of a layout that match accepts.
func alterBlobs(t *testing.T, dir string, change func([]byte) []byte) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal("no blobs", err)
	}
	changed := false
	for _, p := range blobs {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if c := change(bytes.Clone(b)); c != nil {
			changed = true
			if err := os.WriteFile(p, c, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !changed {
		t.Fatal("nothing was changed")
	}
}

func TestAlteredLayoutIsRefused(t *testing.T) {
	isLayer := func(b []byte) bool { return bytes.HasPrefix(b, []byte{0x1f, 0x8b}) }
	regzip := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(b)
		w.Close()
		return out.Bytes()
	}
	for name, change := range map[string]func([]byte) []byte{
		"other layer": func(b []byte) []byte {
			if isLayer(b) {
				other, _ := io.ReadAll(tarOf(t, file("a", "evil")))
				return regzip(other)
			}
			return nil
		},
		"bytes after the layer": func(b []byte) []byte {
			if isLayer(b) {
				return append(b, 0)
			}
			return nil
		},
		"cut layer": func(b []byte) []byte {
			if isLayer(b) {
				return b[:len(b)-9]
			}
			return nil
		},
		"other configuration": func(b []byte) []byte {
			if bytes.Contains(b, []byte(`"rootfs"`)) {
				return bytes.Replace(b, []byte(`"amd64"`), []byte(`"amd65"`), 1)
			}
			return nil
		},
		"other manifest": func(b []byte) []byte {
			if bytes.Contains(b, []byte(`"layers"`)) {
				return append(b, ' ')
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := layoutOf(t, v1.Config{}, tarOf(t, file("a", "good")))
			alterBlobs(t, dir, change)
			_, _, _, err := BuildOCI(context.Background(), dir, "", "", Discard{}, Options{})
			if code := problem.Code(err); code != codeMismatch && code != codeUnreadable {
				t.Fatalf("want %s, have %v", codeMismatch, err)
			}
		})
	}
	t.Run("a layer with another diff id", func(t *testing.T) {
		dir := layoutOf(t, v1.Config{}, tarOf(t, file("a", "good")))
		layout, err := openLayout(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer layout.Close()
		img, err := layout.image("", "")
		if err != nil {
			t.Fatal(err)
		}
		img.layers[0].diffID[0] ^= 1
		err = NewTree(Discard{}, Options{}).applyLayer(context.Background(), layout, img.layers[0], 1)
		if problem.Code(err) != codeMismatch {
			t.Fatalf("want %s, have %v", codeMismatch, err)
		}
	})
	t.Run("no layout", func(t *testing.T) {
		if _, _, _, err := BuildOCI(context.Background(), t.TempDir(), "", "", Discard{}, Options{}); problem.Code(err) != codeUnreadable || problem.Fix(err) == "" {
			t.Fatalf("want a %s with a fix, have %v", codeUnreadable, err)
		}
	})
}

func TestLinkInALayoutLeadsNowhere(t *testing.T) {
	dir := layoutOf(t, v1.Config{}, tarOf(t, file("a", "good")))
	blobs, _ := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
	outside := filepath.Join(t.TempDir(), "blob")
	if err := os.Rename(blobs[0], outside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, blobs[0]); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := BuildOCI(context.Background(), dir, "", "", Discard{}, Options{}); err == nil {
		t.Fatal("a blob outside of the layout was read")
	}
}
