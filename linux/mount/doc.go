// Package mount wraps the mount calls that flists need: EROFS images from a
// file, overlays with data-only layers, binds, detaching, and the list of what
// the kernel has mounted.
//
// It never runs a program: mount(8) would put an EROFS image behind a loop device.
package mount
