package flist

import (
	"github.com/zero-os/zos/canon"
)

// Version is the format version of a Manifest.
const Version = 1

// Sizes of the transport: files larger than ChunkedAbove travel as chunks of
// ChunkSize bytes, the last one shorter.
const (
	ChunkedAbove = 1 << 20
	ChunkSize    = 512 << 10
)

// Manifest is a file tree by content. The SHA-256 of its canonical bytes is the
// flist's name.
type Manifest struct {
	V       uint64  `cbor:"v"`
	Entries []Entry `cbor:"entries"` // sorted by Path, parents before children, the root "" first
	Config  Config  `cbor:"config"`
}

// Entry is one name in the tree. It encodes as an array, fields in this order.
type Entry struct {
	_     struct{} `cbor:",toarray"`
	Path  []byte   // raw bytes, relative, no "." or "..", no leading or trailing slash; root is empty
	Mode  uint32   // st_mode: type and permission bits
	UID   uint32
	GID   uint32
	MTime int64  // nanoseconds since the epoch
	Rdev  uint64 // device number of block and character devices (Linux encoding: major<<8|minor extended as makedev)
	// Link is a symbolic link's target, or a hard link's first path: an entry of
	// type regular with a non-empty Link shares the inode of the entry at Link,
	// which sorts before it and has identical metadata.
	Link   []byte
	Xattrs []Xattr // sorted by Name
	File   *File   // regular files that are not hard links to another entry; nil otherwise
}

// Xattr is one extended attribute.
type Xattr struct {
	_     struct{} `cbor:",toarray"`
	Name  []byte
	Value []byte
}

// File is the content of a regular file. Empty files have size 0 and the digest
// of nothing; they need no object.
type File struct {
	_      struct{} `cbor:",toarray"`
	Size   uint64
	Digest canon.Hash // SHA-256 of the content: the object's name
	Verity canon.Hash // fs-verity digest: SHA-256, 4 KiB blocks, no salt
	// Chunks are the SHA-256 digests of the chunks of a file larger than
	// ChunkedAbove; empty otherwise.
	Chunks []canon.Hash
}

// Config is how an image wants to be run, from its OCI configuration.
type Config struct {
	Entrypoint []string `cbor:"entrypoint"`
	Cmd        []string `cbor:"cmd"`
	Env        []string `cbor:"env"`
	WorkDir    string   `cbor:"workdir"`
	User       string   `cbor:"user"`
}
