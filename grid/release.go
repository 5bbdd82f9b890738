package grid

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// releaseLife is how long a grid's release can be booted.
const releaseLife = 30 * 24 * time.Hour

// release signs the OS for this grid, with a fresh checkpoint of the ledger, as
// the next release. Two of the three release keys sign.
func release(ctx context.Context, d dir, genesis []byte, image string, at contract.Checkpoint) (contract.Release, error) {
	grid := gridID(genesis)
	system, err := readDigest(filepath.Join(image, OSFile))
	if err != nil {
		return contract.Release{}, err
	}
	if err := carriesVMM(d.hub(), image, system); err != nil {
		return contract.Release{}, err
	}
	var signers []sign.Signer
	for _, name := range releaseKeys[:releaseThreshold] {
		s, err := d.signer(name)
		if err != nil {
			return contract.Release{}, err
		}
		signers = append(signers, s)
	}
	sequence, err := lastRelease(d, genesis, grid)
	if err != nil {
		return contract.Release{}, err
	}
	now := time.Now()
	r := contract.NewRelease(grid, sequence+1, now.UTC().Format("2006.01.02-150405"), system, uint64(now.Add(releaseLife).Unix()), at)
	signed, err := boot.SignRelease(ctx, r, genesis, signers...)
	if err != nil {
		return r, fmt.Errorf("sign the release: %w", err)
	}
	w, err := hub.OpenWriter(d.hub(), hub.WriterOptions{})
	if err != nil {
		return r, err
	}
	if err := w.PublishRelease(ctx, signed); err != nil {
		return r, fmt.Errorf("publish the release: %w", err)
	}
	return r, w.Close()
}

// carriesVMM wants the hub to hold both flists of a system: a node that boots it
// would look for the VMM flist in vain later.
func carriesVMM(dir, image string, system canon.Hash) error {
	vmm, err := readDigest(filepath.Join(image, VMMFile))
	if err != nil {
		return err
	}
	for _, f := range []canon.Hash{system, vmm} {
		if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(hub.FlistPath(f)))); err != nil {
			return problem.New("image-missing", "the hub does not have flist %s of the release: %w", f.Short(), err).WithFix("run: make build")
		}
	}
	return nil
}

// lastRelease is the sequence of the newest release in the grid's own hub.
func lastRelease(d dir, genesis []byte, grid canon.Hash) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(d.hub(), hub.ReleasePath(grid, 0)))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the last release: %w", err)
	}
	s, err := contract.DecodeSigned(b)
	if err != nil {
		return 0, fmt.Errorf("read the last release: %w", err)
	}
	r, err := boot.VerifyRelease(s, genesis, 0, 0)
	return r.Sequence, err
}
