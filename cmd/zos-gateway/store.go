package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway/certs"
	"github.com/zero-os/zos/gateway/control"
)

// lockEvery is how often a lock is asked for that another gateway has.
const lockEvery = time.Second

// sharedStore is what the gateways of one contract share, as the daemon keeps it:
// encrypted at rest, sealed on the way. It implements certs.Store.
type sharedStore struct {
	process  *control.Process
	contract canon.Hash
}

func (s sharedStore) do(ctx context.Context, op, key string, value []byte) (control.StoreReply, error) {
	r, err := s.process.StoreOp(ctx, control.StoreRequest{Contract: s.contract, Op: op, Key: key, Value: value})
	var failed control.Failed
	if errors.As(err, &failed) && failed.Code == control.FailureAbsent {
		return r, fmt.Errorf("%.100q: %w", key, fs.ErrNotExist)
	}
	return r, err
}

// Lock implements certs.Store.
func (s sharedStore) Lock(ctx context.Context, name string) error {
	for {
		_, err := s.do(ctx, control.StoreLock, name, nil)
		var failed control.Failed
		if !errors.As(err, &failed) || failed.Code != control.FailureLocked {
			return err
		}
		select {
		case <-time.After(lockEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Unlock implements certs.Store.
func (s sharedStore) Unlock(ctx context.Context, name string) error {
	_, err := s.do(ctx, control.StoreUnlock, name, nil)
	return err
}

// Put implements certs.Store.
func (s sharedStore) Put(ctx context.Context, key string, value []byte) error {
	_, err := s.do(ctx, control.StorePut, key, value)
	return err
}

// Get implements certs.Store.
func (s sharedStore) Get(ctx context.Context, key string) ([]byte, error) {
	r, err := s.do(ctx, control.StoreGet, key, nil)
	return r.Value, err
}

// Delete implements certs.Store.
func (s sharedStore) Delete(ctx context.Context, key string) error {
	_, err := s.do(ctx, control.StoreDelete, key, nil)
	return err
}

// List implements certs.Store.
func (s sharedStore) List(ctx context.Context, prefix string) ([]string, error) {
	r, err := s.do(ctx, control.StoreList, prefix, nil)
	return r.Keys, err
}

// Stat implements certs.Store.
func (s sharedStore) Stat(ctx context.Context, key string) (certs.Info, error) {
	r, err := s.do(ctx, control.StoreStat, key, nil)
	return certs.Info{Size: int64(r.Size), Modified: time.Unix(0, r.Modified)}, err
}

var _ certs.Store = sharedStore{}
