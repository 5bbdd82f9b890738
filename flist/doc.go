// Package flist is a file tree by content: a manifest whose digest names it,
// built from directories, tar archives and OCI images, and turned into the
// EROFS metadata image that a node mounts.
//
// It promises that the same input gives the same digest on any machine. It
// fetches and mounts nothing; package store does.
package flist
