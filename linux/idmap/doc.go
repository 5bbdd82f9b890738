// Package idmap makes ID-mapped mounts: the same files, shown with their
// owners shifted into a range of their own, nothing changed on disk.
package idmap
