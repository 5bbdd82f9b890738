// Package store is a node's object store: whole files named by the SHA-256 of
// their content, the flist manifests that speak of them, and the mounts made
// of both.
//
// It promises that an object is either absent or complete and right, whatever
// is killed at whatever moment, and that nothing from a hub becomes visible
// before it was verified. On file systems with fs-verity the kernel goes on
// checking every page. Several processes may use one store at the same time.
//
// It does not publish (package hub does) and does not decide what to run.
package store
