// Package node holds the measures of bench/run that need a node: they run inside an
// emulated one, under the node's kernel, with its runc and shims. Each prints lines
// "measured:" and pairs of a name and a number.
package node

// dataSize is of a node's data disk, in bytes.
const dataSize = 16 << 30
