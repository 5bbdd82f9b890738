package client

import (
	"context"
	"errors"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/hub"
)

// NewestRelease returns the release with the highest sequence that the hubs have
// and that has not expired at now (Unix seconds; 0 takes expired ones too). Its
// code is "not-found" when they have none at all.
func (c *Client) NewestRelease(ctx context.Context, now uint64) (contract.Release, error) {
	all, err := hub.ReadReleases(ctx, nil, c.context.Hubs, c.Grid(), 0)
	if err != nil {
		return contract.Release{}, err
	}
	var newest contract.Release
	var errs []error
	for _, s := range all {
		r, err := boot.VerifyRelease(s, c.context.Genesis, now, 0)
		if err != nil {
			errs = append(errs, err)
		} else if r.Sequence > newest.Sequence {
			newest = r
		}
	}
	if newest.Sequence == 0 {
		return newest, errors.Join(errs...)
	}
	return newest, nil
}
