//go:build !invm

package flist

// manyFiles is how many files the sample tree has in one directory.
const manyFiles = 3000
