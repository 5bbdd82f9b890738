package flist

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Limits of an image layout's JSON documents and of their nesting.
const (
	maxLayoutJSON  = 8 << 20
	maxLayoutDepth = 4
	maxLayers      = 1024
)

// ociLayout reads an OCI image layout (image-spec v1.1, image-layout.md). The
// directory is opened as a root, so no link in it leads elsewhere.
type ociLayout struct{ root *os.Root }

type ociDescriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    *ociPlatform      `json:"platform"`
}

type ociPlatform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

// ociDocument is an index or a manifest: whichever fields it has.
type ociDocument struct {
	Manifests []ociDescriptor `json:"manifests"`
	Config    *ociDescriptor  `json:"config"`
	Layers    []ociDescriptor `json:"layers"`
}

type ociConfig struct {
	ociPlatform
	Config struct {
		Entrypoint, Cmd, Env []string
		WorkingDir, User     string
	} `json:"config"`
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

type ociImage struct {
	layers []ociLayer
	config Config
}

// ociLayer is a layer's blob, and the digest of what it decompresses to.
type ociLayer struct {
	blob   ociDescriptor
	diffID canon.Hash
}

func openLayout(dir string) (*ociLayout, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	l := &ociLayout{root}
	var mark struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := l.json("oci-layout", nil, &mark); err != nil || !strings.HasPrefix(mark.Version, "1.") {
		root.Close()
		return nil, problem.New(codeUnreadable, "%s is not an OCI image layout of version 1: %w", dir, errors.Join(err)).
			WithFix("make one with: skopeo copy docker://IMAGE oci:DIR:TAG")
	}
	return l, nil
}

func (l *ociLayout) Close() { l.root.Close() }

// json reads a document; with a descriptor, the blob must be exactly it.
func (l *ociLayout) json(name string, d *ociDescriptor, v any) error {
	f, err := l.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLayoutJSON+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxLayoutJSON {
		return problem.New(codeUnreadable, "%s has more than %d bytes", name, maxLayoutJSON)
	}
	if d != nil {
		want, err := blobHash(d.Digest)
		if err != nil {
			return err
		}
		if canon.Sum(b) != want {
			return problem.New(codeMismatch, "%s does not have the digest of its name", name)
		}
	}
	if err := json.Unmarshal(b, v); err != nil {
		return problem.New(codeUnreadable, "read %s: %w", name, err)
	}
	return nil
}

const codeMismatch = "digest-mismatch"

func (l *ociLayout) blobJSON(d ociDescriptor, v any) error {
	h, err := blobHash(d.Digest)
	if err != nil {
		return err
	}
	return l.json("blobs/sha256/"+h.String(), &d, v)
}

func blobHash(digest string) (canon.Hash, error) {
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok {
		return canon.Hash{}, problem.New(codeUnreadable, "digest %.100q is not of SHA-256", digest)
	}
	return canon.ParseHash(hex)
}

// image finds an image and reads its configuration.
func (l *ociLayout) image(ref, platform string) (ociImage, error) {
	if platform == "" {
		platform = "linux/amd64"
	}
	var index ociDocument
	if err := l.json("index.json", nil, &index); err != nil {
		return ociImage{}, err
	}
	d, err := pickRef(index.Manifests, ref)
	if err != nil {
		return ociImage{}, err
	}
	for range maxLayoutDepth {
		var doc ociDocument
		if err := l.blobJSON(d, &doc); err != nil {
			return ociImage{}, err
		}
		if doc.Config != nil {
			return l.manifest(doc, platform)
		}
		if d, err = pickPlatform(doc.Manifests, platform); err != nil {
			return ociImage{}, err
		}
	}
	return ociImage{}, problem.New(codeUnreadable, "indexes nest more than %d deep", maxLayoutDepth)
}

const refName = "org.opencontainers.image.ref.name"

func pickRef(list []ociDescriptor, ref string) (ociDescriptor, error) {
	var names []string
	for _, d := range list {
		if name := d.Annotations[refName]; ref != "" && (name == ref || d.Digest == ref) {
			return d, nil
		} else if name != "" {
			names = append(names, name)
		}
	}
	if ref == "" && len(list) == 1 {
		return list[0], nil
	}
	if ref == "" {
		return ociDescriptor{}, problem.New("image-ambiguous", "layout holds %d images: name one", len(list)).
			WithFix("choose one of: %.500s", strings.Join(names, ", "))
	}
	return ociDescriptor{}, problem.New("image-unknown", "layout holds no image %.200q", ref).
		WithFix("choose one of: %.500s", strings.Join(names, ", "))
}

func pickPlatform(list []ociDescriptor, platform string) (ociDescriptor, error) {
	var have []string
	for _, d := range list {
		if d.Platform == nil {
			continue
		}
		if d.Platform.match(platform) {
			return d, nil
		}
		have = append(have, d.Platform.OS+"/"+d.Platform.Architecture)
	}
	if len(list) == 1 && list[0].Platform == nil {
		return list[0], nil
	}
	return ociDescriptor{}, problem.New("image-platform", "image has nothing for %.100q", platform).
		WithFix("it has: %.500s", strings.Join(have, ", "))
}

func (p ociPlatform) match(want string) bool {
	name := p.OS + "/" + p.Architecture
	return want == name || p.Variant != "" && want == name+"/"+p.Variant
}

func (l *ociLayout) manifest(doc ociDocument, platform string) (ociImage, error) {
	var c ociConfig
	if err := l.blobJSON(*doc.Config, &c); err != nil {
		return ociImage{}, err
	}
	// An image that says nothing, as from scratch, fits every platform.
	if c.Architecture != "" && c.OS != "" && !c.match(platform) && !strings.HasPrefix(platform, c.OS+"/"+c.Architecture+"/") {
		return ociImage{}, problem.New("image-platform", "image is for %s/%s, not for %.100q", c.OS, c.Architecture, platform)
	}
	if len(doc.Layers) > maxLayers || len(doc.Layers) != len(c.RootFS.DiffIDs) {
		return ociImage{}, problem.New(codeUnreadable, "image has %d layers and %d diff ids", len(doc.Layers), len(c.RootFS.DiffIDs))
	}
	img := ociImage{config: Config{
		Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, Env: c.Config.Env,
		WorkDir: c.Config.WorkingDir, User: c.Config.User,
	}}
	for i, d := range doc.Layers {
		diff, err := blobHash(c.RootFS.DiffIDs[i])
		if err != nil {
			return ociImage{}, err
		}
		img.layers = append(img.layers, ociLayer{d, diff})
	}
	return img, nil
}

// layer calls read with a layer's plain archive, and then checks that both the
// blob and the archive have the digests that the image states. When read
// returns an error, that is the answer.
func (l *ociLayout) layer(layer ociLayer, read func(io.Reader) error) error {
	want, err := blobHash(layer.blob.Digest)
	if err != nil {
		return err
	}
	f, err := l.root.Open("blobs/sha256/" + want.String())
	if err != nil {
		return err
	}
	defer f.Close()
	blob := &hashingReader{r: io.LimitReader(f, layer.blob.Size+1), h: sha256.New()}
	plain, done, err := decompress(blob)
	if err != nil {
		return err
	}
	defer done()
	archive := &hashingReader{r: plain, h: sha256.New()}
	if err := read(archive); err != nil {
		return err
	}
	// What follows the end of the archive counts for the digests too. Padding
	// is all it can be, so little of it is waited for.
	if err := drain(archive, 64<<20); err != nil {
		return err
	}
	if err := drain(blob, 64<<20); err != nil {
		return err
	}
	if blob.n != layer.blob.Size || blob.sum() != want {
		return problem.New(codeMismatch, "blob does not have the size and digest that the image states")
	}
	if archive.sum() != layer.diffID {
		return problem.New(codeMismatch, "archive in the blob does not have the diff id that the image states")
	}
	return nil
}

func drain(r io.Reader, most int64) error {
	n, err := io.CopyN(io.Discard, r, most)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil && n == most {
		return problem.New(codeTooLarge, "more than %d bytes follow the archive's end", most)
	}
	return problem.New(codeUnreadable, "read the end of the layer: %w", err)
}

type hashingReader struct {
	r io.Reader
	h hash.Hash
	n int64
}

func (r *hashingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.h.Write(p[:n])
	r.n += int64(n)
	return n, err
}

func (r *hashingReader) sum() (h canon.Hash) {
	r.h.Sum(h[:0])
	return h
}
