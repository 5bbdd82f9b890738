package client

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec"
	"github.com/zero-os/zos/store"
)

// Image resolves publisher/name:tag, or a digest, to a flist. A tag counts only
// if its publisher's account signed it and it has not expired.
func (c *Client) Image(ctx context.Context, ref string) (spec.Image, error) {
	digest, err := c.ImageDigest(ctx, ref)
	if err != nil {
		return spec.Image{}, err
	}
	m, err := c.Manifest(ctx, digest)
	if err != nil {
		return spec.Image{}, err
	}
	total, _, _ := m.Bytes()
	return spec.Image{Flist: digest, Size: total, Config: m.Config}, nil
}

// ImageDigest resolves publisher/name:tag, or a digest, to a flist's digest.
func (c *Client) ImageDigest(ctx context.Context, ref string) (canon.Hash, error) {
	if digest, err := canon.ParseHash(ref); err == nil {
		return digest, nil
	}
	publisher, name, ok := strings.Cut(ref, "/")
	if !ok {
		return canon.Hash{}, problem.New("image-unknown", "%q names no image", ref).WithFix("write publisher/name:tag or the 64 hex digits of a flist")
	}
	name, tag, ok := strings.Cut(name, ":")
	if !ok {
		tag = "latest"
	}
	id, err := c.AccountID(ctx, publisher)
	if problem.Code(err) == "account-unknown" {
		return canon.Hash{}, c.imageUnknown(ctx, ref, err)
	}
	if err != nil {
		return canon.Hash{}, err
	}
	all, err := hub.FetchAll(ctx, nil, c.context.Hubs, mustTagPath(c.Grid(), id, name, tag), len(c.context.Hubs))
	if problem.Code(err) == "not-found" {
		return canon.Hash{}, c.imageUnknown(ctx, ref, err)
	}
	if err != nil {
		return canon.Hash{}, err
	}
	account, err := c.Account(ctx, id)
	if err != nil {
		return canon.Hash{}, err
	}
	var best contract.Tag
	var errs []error
	for _, s := range all {
		t, err := c.checkTag(s, account, id, name, tag)
		if err != nil {
			errs = append(errs, err)
		} else if t.Sequence >= best.Sequence {
			best = t
		}
	}
	if best.Digest.IsZero() {
		return canon.Hash{}, errors.Join(errs...)
	}
	return best.Digest, nil
}

// mustTagPath is hub.TagPath, whose error for a bad name is a path that no hub
// has, so that it ends as an unknown image.
func mustTagPath(grid, publisher canon.Hash, name, tag string) string {
	p, err := hub.TagPath(grid, publisher, name, tag)
	if err != nil {
		return "/tags/none"
	}
	return p
}

// checkTag tells whether a tag is its publisher's word on this image, now.
func (c *Client) checkTag(s contract.Signed, account contract.Account, publisher canon.Hash, name, tag string) (contract.Tag, error) {
	t, _, keys, err := contract.Open[contract.Tag](s, contract.KindTag, c.Grid())
	if err != nil {
		return t, err
	}
	switch {
	case len(keys) != 1 || string(keys[0]) != string(account.Key):
		return t, problem.New("signature-invalid", "the tag %s:%s is not signed by its publisher %s", name, tag, account.Name).
			WithFix("do not trust this hub; deploy by digest")
	case t.Publisher != publisher || t.Name != name || t.Tag != tag:
		return t, problem.New("signature-invalid", "the hub answers %s:%s with the tag %.63s:%.63s", name, tag, t.Name, t.Tag)
	case t.Expiry <= uint64(time.Now().Unix()):
		return t, problem.New("tag-expired", "the tag %s:%s has expired", name, tag).WithFix("ask %s to publish it again, or deploy by digest", account.Name)
	}
	return t, nil
}

// imageUnknown suggests names from the hubs' index, which nothing is trusted of.
func (c *Client) imageUnknown(ctx context.Context, ref string, cause error) error {
	p := problem.New("image-unknown", "no image %s: %w", ref, cause)
	if problem.Code(cause) == "not-found" { // where it isn't says nothing to a person
		p = problem.New("image-unknown", "no hub has an image %s", ref)
	}
	publish := publishFix(ref)
	entries, err := hub.ReadTagIndex(ctx, nil, c.context.Hubs, c.Grid())
	if err != nil {
		return p.WithFix("%s", publish)
	}
	names, err := c.Names(ctx)
	if err != nil {
		return p.WithFix("%s", publish)
	}
	known := make([]string, 0, len(entries))
	for _, e := range entries {
		known = append(known, names.Of(e.Publisher)+"/"+e.Name+":"+e.Tag)
	}
	return p.WithFix("%s", imageFix(ref, known))
}

func publishFix(ref string) string { return "publish it with: zos flist build --from DIR --tag " + ref }

// imageFix names what may be meant by an image that is not there, and how to make it.
func imageFix(ref string, known []string) string {
	publish := publishFix(ref)
	if fix := suggest(ref, known, publish); fix != publish {
		if strings.HasSuffix(fix, "?") {
			return fix + " Or " + publish
		}
		return fix + "; or " + publish
	}
	return publish
}

// Manifest returns a flist's manifest, checked against its digest, from the
// hubs or from what was fetched before.
func (c *Client) Manifest(ctx context.Context, digest canon.Hash) (flist.Manifest, error) {
	s, err := store.Open(filepath.Join(c.config.Dir, "cache"), store.Options{Logger: c.log})
	if err != nil {
		return flist.Manifest{}, fmt.Errorf("open the cache of flists: %w", err)
	}
	f, err := store.NewFetcher(s, store.FetchOptions{Hubs: c.context.Hubs})
	if err != nil {
		return flist.Manifest{}, errors.Join(err, s.Close())
	}
	m, err := f.Manifest(ctx, digest)
	return m, errors.Join(err, f.Close(), s.Close())
}
