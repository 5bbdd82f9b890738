// Package hub publishes flists, objects, tags and releases as plain static
// files over HTTP: any file server or bucket that holds the same files will do.
//
// A hub is not trusted: everything that is taken from it is verified by digest
// or signature by whoever takes it. So the hub checks only what keeps it in
// order. Fetching objects is package store's.
package hub
