package flist

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/zero-os/zos/problem"
)

// Options say how a tree is built. The zero value keeps everything as it is in
// the source, within generous limits.
type Options struct {
	// RootOwned gives every entry to 0:0, so that a tree that was made without
	// root is the same as one that was made with.
	RootOwned bool
	// ClampMTime, if not nil, is the newest time an entry may have, in
	// nanoseconds since the epoch; newer ones are set to it.
	ClampMTime *int64
	// Config is how the image wants to be run. BuildOCI takes it from the image
	// when it is nil.
	Config *Config
	// KeepXattr tells which extended attributes are kept; nil means
	// PortableXattr.
	KeepXattr func(name string) bool
	// MaxBytes bounds the content that is read, sparse files counted in full; 0
	// means 1 TiB.
	MaxBytes uint64
	// MaxEntries bounds how many entries a source may have, also those that a
	// later layer hides; 0 means the flist limit MaxEntries.
	MaxEntries uint64
	// Workers is how many files are hashed at once; 0 means one per processor.
	Workers int
}

// Stats says what a build has read and made.
type Stats struct {
	Entries uint64 `json:"entries"` // names in the manifest
	Files   uint64 `json:"files"`   // regular files, hard links counted once
	Bytes   uint64 `json:"bytes"`   // their content
	// UniqueBytes counts every distinct file once.
	UniqueBytes uint64 `json:"unique_bytes"`
	// DroppedXattrs counts extended attributes that the options did not keep.
	DroppedXattrs uint64 `json:"dropped_xattrs"`
}

// PortableXattr keeps what belongs to a file wherever it goes: user.*, file
// capabilities and POSIX ACLs. It drops what belongs to one machine (SELinux
// labels, IMA and EVM signatures) and trusted.*, which only root can see: with
// it the digest would depend on who built.
func PortableXattr(name string) bool {
	return strings.HasPrefix(name, "user.") ||
		name == "security.capability" ||
		name == "system.posix_acl_access" ||
		name == "system.posix_acl_default"
}

func (o Options) workers() int {
	if o.Workers > 0 {
		return o.Workers
	}
	return runtime.GOMAXPROCS(0)
}

func (o Options) keepXattr(name string) bool {
	if o.KeepXattr != nil {
		return o.KeepXattr(name)
	}
	return PortableXattr(name)
}

// mtime applies ClampMTime.
func (o Options) mtime(ns int64) int64 {
	if o.ClampMTime != nil && ns > *o.ClampMTime {
		return *o.ClampMTime
	}
	return ns
}

// budget is what a build may still read. It is shared by all workers.
type budget struct {
	maxBytes, maxEntries   uint64
	usedBytes, usedEntries atomic.Uint64
}

func newBudget(o Options) *budget {
	b := &budget{maxBytes: o.MaxBytes, maxEntries: o.MaxEntries}
	if b.maxBytes == 0 {
		b.maxBytes = 1 << 40
	}
	if b.maxEntries == 0 {
		b.maxEntries = MaxEntries
	}
	return b
}

const codeTooLarge = "source-too-large"

func (b *budget) bytes(n uint64) error {
	if b.usedBytes.Add(n) > b.maxBytes {
		return problem.New(codeTooLarge, "source has more than %d bytes of content", b.maxBytes).
			WithFix("raise the limit if the source is trusted")
	}
	return nil
}

// room fails early for a file that announces more bytes than are left.
func (b *budget) room(n int64) error {
	if n < 0 || uint64(n) > b.maxBytes-min(b.maxBytes, b.usedBytes.Load()) {
		return problem.New(codeTooLarge, "source announces a file of %d bytes, more than the %d bytes that are allowed in all", n, b.maxBytes).
			WithFix("raise the limit if the source is trusted")
	}
	return nil
}

func (b *budget) entry() error {
	if b.usedEntries.Add(1) > b.maxEntries {
		return problem.New(codeTooLarge, "source has more than %d entries", b.maxEntries).
			WithFix("raise the limit if the source is trusted")
	}
	return nil
}

// raw bounds an archive's own bytes: content, headers and padding.
func (b *budget) raw() int64 {
	const perEntry, slack = 4096, 64 << 20
	if b.maxBytes > math.MaxInt64/2 || b.maxEntries > math.MaxInt64/4/perEntry {
		return math.MaxInt64
	}
	return int64(b.maxBytes + perEntry*b.maxEntries + slack)
}

// id32 checks an owner or group that a source states.
func id32(what string, n int) (uint32, error) {
	if n < 0 || int64(n) >= noID {
		return 0, fmt.Errorf("%s %d does not fit 32 bits", what, n)
	}
	return uint32(n), nil
}
