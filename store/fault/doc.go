// Package fault is the fault server: a FUSE file system whose lookups bring
// objects into the store just before the kernel opens them there.
//
// It promises that nothing is ever read through it. Its directory fetch answers
// every lookup of an object with "not here" as soon as the object is in the
// store, so that the overlay goes on to the store; its directory fail, the last
// layer, answers EIO where the overlay would otherwise say that the file does not
// exist. It does not mount flists; package store does.
package fault
