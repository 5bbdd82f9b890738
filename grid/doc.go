// Package grid is a whole grid in one process: ledger, hub, boot source, bus,
// farm agent, and nodes that are real machines in QEMU. Composition only: every
// part is the one that production runs, on free loopback ports.
package grid
