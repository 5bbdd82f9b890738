// Package netns makes network namespaces that outlive the process which made
// them, and runs code inside one.
//
// A namespace is pinned by a bind mount of it on a file: the file's path is its
// name, open files and processes in it don't matter, and it ends when it is
// unpinned and nobody lives in it any more. One without a pin ends with the
// descriptors of it.
package netns
