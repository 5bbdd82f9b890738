package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/zero-os/zos/problem"
)

// nv is an NV index that exists.
type nv struct {
	handle  tpm2.NamedHandle
	size    uint16
	written bool
	locked  bool // refuses writes until the machine is reset
}

// find looks the index up; ErrEmpty when it is not defined.
func (t *TPM) find(index uint32) (nv, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(t.t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nv{}, fmt.Errorf("look up NV index %#x: %w", index, ErrEmpty)
	}
	if err != nil {
		return nv{}, problem.New("tpm-failed", "look up NV index %#x: %w", index, err)
	}
	pub, err := rsp.NVPublic.Contents()
	if err != nil {
		return nv{}, problem.New("tpm-failed", "look up NV index %#x: %w", index, err)
	}
	return nv{
		handle:  tpm2.NamedHandle{Handle: pub.NVIndex, Name: rsp.NVName},
		size:    pub.DataSize,
		written: pub.Attributes.Written,
		locked:  pub.Attributes.WriteLocked,
	}, nil
}

// define makes the index if it is not there.
func (t *TPM) define(index uint32) (nv, error) {
	have, err := t.find(index)
	if err == nil || !errors.Is(err, ErrEmpty) {
		return have, err
	}
	_, err = tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHOwner,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: tpm2.TPMHandle(index),
			NameAlg: tpm2.TPMAlgSHA256,
			Attributes: tpm2.TPMANV{
				NT:           tpm2.TPMNTOrdinary,
				OwnerWrite:   true,
				OwnerRead:    true,
				WriteSTClear: true, // lets LockFloor close it until the next reset
				NoDA:         true,
			},
			DataSize: nvSize,
		}),
	}.Execute(t.t)
	if err != nil {
		return nv{}, problem.New("tpm-failed", "define NV index %#x: %w", index, err).
			WithFix("clear the TPM in the machine's setup: its owner password must be empty and %d bytes of NV free", nvSize)
	}
	return t.find(index)
}

// readNV returns the whole index; ErrEmpty when it was never written.
func (t *TPM) readNV(index uint32) ([]byte, error) {
	have, err := t.find(index)
	if err != nil {
		return nil, err
	}
	if !have.written {
		return nil, fmt.Errorf("read NV index %#x: %w", index, ErrEmpty)
	}
	rsp, err := tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    have.handle,
		Size:       min(have.size, nvSize),
	}.Execute(t.t)
	if err != nil {
		return nil, problem.New("tpm-failed", "read NV index %#x: %w", index, err)
	}
	return rsp.Data.Buffer, nil
}

// writeNV writes b at the start of the index in one command, which a TPM does
// wholly or not at all.
func (t *TPM) writeNV(index uint32, b []byte) error {
	if len(b) > nvSize {
		return fmt.Errorf("write NV index %#x: %d bytes, want at most %d", index, len(b), nvSize)
	}
	have, err := t.define(index)
	if err != nil {
		return err
	}
	if int(have.size) < len(b) {
		return problem.New("tpm-failed", "write NV index %#x: it holds %d bytes and belongs to something else", index, have.size).
			WithFix("clear the TPM in the machine's setup")
	}
	_, err = tpm2.NVWrite{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    have.handle,
		Data:       tpm2.TPM2BMaxNVBuffer{Buffer: b},
	}.Execute(t.t)
	if err != nil {
		return problem.New("tpm-failed", "write NV index %#x: %w", index, err)
	}
	return nil
}

// Forget deletes the index and what is sealed in it, for a node that leaves its
// farm. An index that is not there is no error.
func (t *TPM) Forget(index uint32) error {
	have, err := t.find(index)
	if errors.Is(err, ErrEmpty) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := (tpm2.NVUndefineSpace{AuthHandle: tpm2.TPMRHOwner, NVIndex: have.handle}).Execute(t.t); err != nil {
		return problem.New("tpm-failed", "delete NV index %#x: %w", index, err)
	}
	return nil
}

// ReadFloor returns the release floor; 0 when this TPM never held one.
func (t *TPM) ReadFloor() (uint64, error) {
	b, err := t.readNV(IndexFloor)
	if errors.Is(err, ErrEmpty) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read release floor: %w", err)
	}
	if len(b) < 8 {
		return 0, problem.New("tpm-failed", "read release floor: NV index of %d bytes", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// RaiseFloor writes the release floor unless an equal or higher one stands
// there: it never lowers it.
func (t *TPM) RaiseFloor(floor uint64) error {
	old, err := t.ReadFloor()
	if err != nil {
		return err
	}
	if floor <= old {
		return nil
	}
	if err := t.writeNV(IndexFloor, binary.BigEndian.AppendUint64(nil, floor)); err != nil {
		return fmt.Errorf("raise release floor from %d to %d: %w", old, floor, err)
	}
	return nil
}

// LockFloor makes the TPM refuse every write to the floor until the machine is
// reset, so that nothing that runs later can lower it. A floor that was never
// written has nothing to protect and is left open.
func (t *TPM) LockFloor() error {
	have, err := t.find(IndexFloor)
	if errors.Is(err, ErrEmpty) {
		return nil
	}
	if err != nil {
		return err
	}
	if have.locked || !have.written {
		return nil
	}
	_, err = tpm2.NVWriteLock{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    have.handle,
	}.Execute(t.t)
	if err != nil {
		return problem.New("tpm-failed", "lock release floor: %w", err)
	}
	return nil
}
