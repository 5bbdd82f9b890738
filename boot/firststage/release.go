package firststage

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

// Candidate releases come from hubs and from the disk; nothing about them is
// believed before it was verified.

// Offer is a release statement somebody handed us.
type Offer struct {
	From   string // for people: a hub's URL, or "disk"
	Signed []byte // canonical contract.Signed
}

// Accepted is a verified release.
type Accepted struct {
	contract.Release
	From   string
	Signed []byte
}

// AcceptReleases verifies every offer and returns the acceptable ones, newest
// first and each once, and why the others were refused.
//
// now is the clock in Unix seconds, floor the lowest sequence to accept.
func AcceptReleases(offers []Offer, grid Grid, now, floor uint64) ([]Accepted, error) {
	var accepted []Accepted
	var refused []error
	for _, o := range offers {
		signed, err := contract.DecodeSigned(o.Signed)
		var r contract.Release
		if err == nil {
			r, err = boot.VerifyRelease(signed, grid.Genesis, now, floor)
		}
		if err != nil {
			refused = append(refused, fmt.Errorf("release from %s: %w", o.From, err))
			continue
		}
		// What one hub and the disk both offer is one release; offers come in
		// order of preference.
		if !slices.ContainsFunc(accepted, func(a Accepted) bool { return a.Sequence == r.Sequence && a.OS == r.OS }) {
			accepted = append(accepted, Accepted{Release: r, From: o.From, Signed: o.Signed})
		}
	}
	slices.SortStableFunc(accepted, func(a, b Accepted) int { return cmp.Compare(b.Sequence, a.Sequence) })
	return accepted, errors.Join(refused...)
}

// fetchReleases asks every hub for its newest release, all at once. Those that
// do not answer are in err.
func fetchReleases(ctx context.Context, client *http.Client, hubs []string, grid canon.Hash) ([]Offer, error) {
	offers := make([]Offer, len(hubs))
	errs := make([]error, len(hubs))
	var wg sync.WaitGroup
	for i, hub := range hubs {
		wg.Go(func() {
			b, err := fetchSmall(ctx, client, strings.TrimRight(hub, "/")+"/releases/"+grid.String()+"/latest")
			offers[i], errs[i] = Offer{From: hub, Signed: b}, err
		})
	}
	wg.Wait()
	offers = slices.DeleteFunc(offers, func(o Offer) bool { return o.Signed == nil })
	return offers, errors.Join(errs...)
}

// fetchTimeout bounds one small request, slow hubs included.
const fetchTimeout = 10 * time.Second

func fetchSmall(ctx context.Context, client *http.Client, url string) (body []byte, err error) {
	defer func() {
		if err != nil {
			err = problem.New("hub-unreachable", "fetch release: %w", err).
				WithFix("check that the hub runs and the network reaches it")
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	rsp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer rsp.Body.Close()
	if rsp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, rsp.Status)
	}
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(rsp.Body, contract.MaxSigned+1))
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", url, err)
	}
	if n > contract.MaxSigned {
		return nil, fmt.Errorf("GET %s: longer than %d bytes", url, contract.MaxSigned)
	}
	return b.Bytes(), nil
}
