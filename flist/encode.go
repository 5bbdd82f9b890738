package flist

import (
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Encode returns the canonical bytes of a valid manifest, and their hash, which
// is the flist's name. An invalid manifest has no encoding: the error's code is
// "manifest-invalid".
func Encode(m Manifest) ([]byte, canon.Hash, error) {
	if err := Validate(m); err != nil {
		return nil, canon.Hash{}, err
	}
	b, err := canon.Marshal(m)
	if err != nil {
		return nil, canon.Hash{}, problem.New(codeInvalid, "encode manifest of %d entries: %w", len(m.Entries), err)
	}
	if len(b) > MaxManifest {
		return nil, canon.Hash{}, problem.New(codeInvalid, "encode manifest: %d bytes, at most %d are allowed", len(b), MaxManifest)
	}
	return b, canon.Sum(b), nil
}

// Decode reads the canonical bytes of a manifest and checks everything that
// Validate checks. The error's code is "manifest-invalid". It allocates a small
// multiple of len(b), whatever b says.
func Decode(b []byte) (Manifest, error) {
	if len(b) > MaxManifest {
		return Manifest{}, problem.New(codeInvalid, "decode manifest: %d bytes, at most %d are allowed", len(b), MaxManifest)
	}
	if err := checkShape(b); err != nil {
		return Manifest{}, problem.New(codeInvalid, "decode manifest: %w", err)
	}
	var m Manifest
	if err := canon.UnmarshalLimit(b, MaxManifest, &m); err != nil {
		return Manifest{}, problem.New(codeInvalid, "decode manifest: %w", err)
	}
	if err := Validate(m); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// Compress returns b as one zstd frame, the form in which a manifest travels.
// The compressed bytes have no name and need not be equal on two machines.
func Compress(b []byte) ([]byte, error) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return nil, fmt.Errorf("set up zstd encoder: %w", err)
	}
	defer w.Close()
	return w.EncodeAll(b, make([]byte, 0, len(b)/3+64)), nil
}

// Decompress returns what Compress was given. It refuses to produce more than
// max bytes, so a bomb costs at most that much memory; max 0 means MaxManifest.
func Decompress(z []byte, max int) ([]byte, error) {
	if max <= 0 || max > MaxManifest {
		max = MaxManifest
	}
	r, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxMemory(uint64(max)),
		zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, fmt.Errorf("set up zstd decoder: %w", err)
	}
	defer r.Close()
	b, err := r.DecodeAll(z, nil)
	if err != nil {
		return nil, problem.New(codeInvalid, "decompress manifest (%d bytes, at most %d when decompressed): %w", len(z), max, err)
	}
	if len(b) > max {
		return nil, problem.New(codeInvalid, "decompress manifest: %d bytes, at most %d are allowed", len(b), max)
	}
	return b, nil
}
