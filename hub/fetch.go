package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

// Bounds of what a client takes from a hub, which may be anyone's.
const (
	fetchTimeout  = 20 * time.Second // per hub
	maxIndexBytes = 64 << 20
)

// FetchSigned reads the signed statement at path, e.g. of TagPath, from the
// first hub that has a readable one. Nothing about it is verified: the caller
// does, with contract.Open. client may be nil for http.DefaultClient. The code
// is "hub-unreachable" when no hub answers, "not-found" when those that answer
// have none, "statement-invalid" when what they have is no statement.
func FetchSigned(ctx context.Context, client *http.Client, hubs []string, path string) (contract.Signed, error) {
	all, err := FetchAll(ctx, client, hubs, path, 1)
	if err != nil {
		return contract.Signed{}, err
	}
	return all[0], nil
}

// FetchAll is FetchSigned for up to most hubs: one readable statement of each
// hub that has one, at least one in all, in the order of hubs and without
// duplicates. With several hubs one of them cannot hide by a forgery what
// another one has: verify each, and choose among those that pass.
func FetchAll(ctx context.Context, client *http.Client, hubs []string, path string, most int) ([]contract.Signed, error) {
	var all []contract.Signed
	var errs []error
	for _, base := range hubs {
		if len(all) == most {
			break
		}
		b, err := get(ctx, client, base, path, contract.MaxSigned)
		if err == nil {
			var s contract.Signed
			if s, err = contract.DecodeSigned(b); err == nil {
				all = appendNew(all, s)
				continue
			}
			err = fmt.Errorf("read %s of hub %s: %w", path, base, err)
		}
		errs = append(errs, err)
	}
	if len(all) > 0 {
		return all, nil
	}
	if len(hubs) == 0 {
		return nil, problem.New("hub-unreachable", "fetch %s: no hub is known", path)
	}
	return nil, worst(path, errs)
}

// appendNew appends s unless the same bytes are there.
func appendNew(all []contract.Signed, s contract.Signed) []contract.Signed {
	for _, have := range all {
		a, aerr := have.Encode()
		b, berr := s.Encode()
		if aerr == nil && berr == nil && string(a) == string(b) {
			return all
		}
	}
	return append(all, s)
}

// worst chooses the code of several failures: a damaged answer says more than
// an absence, and an absence more than silence.
func worst(path string, errs []error) error {
	joined := errors.Join(errs...)
	for _, code := range []string{"statement-invalid", "not-found"} {
		for _, err := range errs {
			if problem.Code(err) == code {
				return problem.New(code, "fetch %s: %w", path, joined)
			}
		}
	}
	return problem.New("hub-unreachable", "fetch %s: %w", path, joined).
		WithFix("check that the hub runs and that its address is right")
}

// ReadTag reads a tag. The caller verifies it with contract.Open and checks
// that the publisher signed it and that it has not expired.
func ReadTag(ctx context.Context, client *http.Client, hubs []string, grid, publisher canon.Hash, name, tag string) (contract.Signed, error) {
	path, err := TagPath(grid, publisher, name, tag)
	if err != nil {
		return contract.Signed{}, err
	}
	return FetchSigned(ctx, client, hubs, path)
}

// ReadReleases reads the release with a sequence, or with 0 the latest, from
// every hub. The caller verifies each with contract.OpenRelease and takes the
// highest sequence that passes.
func ReadReleases(ctx context.Context, client *http.Client, hubs []string, grid canon.Hash, sequence uint64) ([]contract.Signed, error) {
	return FetchAll(ctx, client, hubs, ReleasePath(grid, sequence), len(hubs))
}

// ReadTagIndex reads a grid's list of tags, for suggestions only.
func ReadTagIndex(ctx context.Context, client *http.Client, hubs []string, grid canon.Hash) ([]TagEntry, error) {
	var errs []error
	for _, base := range hubs {
		b, err := get(ctx, client, base, TagIndexPath(grid), maxIndexBytes)
		if err == nil {
			var list []TagEntry
			if err = json.Unmarshal(b, &list); err == nil && len(list) <= maxIndex {
				return list, nil
			}
		}
		errs = append(errs, err)
	}
	return nil, worst(TagIndexPath(grid), errs)
}

// get reads at most limit bytes from one hub. Redirects are the client's
// matter: the answer is verified whoever gives it.
func get(ctx context.Context, client *http.Client, base, path string, limit int64) ([]byte, error) {
	if client == nil {
		client = http.DefaultClient
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	url := strings.TrimRight(base, "/") + "/" + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, problem.New("hub-unreachable", "hub address %.200q: %w", base, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, problem.New("hub-unreachable", "%w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, problem.New("not-found", "hub %s has no %s", base, path)
	case resp.StatusCode != http.StatusOK:
		return nil, problem.New("hub-unreachable", "hub %s answers %s for %s", base, resp.Status, path)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, problem.New("hub-unreachable", "read %s: %w", url, err)
	}
	if int64(len(b)) > limit {
		return nil, problem.New("statement-invalid", "%s is longer than %d bytes", url, limit)
	}
	return b, nil
}
