// Package device brings a person's machine into a network: it writes the plain
// wg-quick file that stock WireGuard programs read, or makes the interface
// itself, in the kernel where it has WireGuard, otherwise with wireguard-go in
// this process.
//
// It promises that only packets for the network's own ranges take the tunnel,
// that the private key is in no error and no log, and that nothing of what Up
// made is left after Close. With several endpoints it tries them in turn until
// one answers, and again whenever the one in use falls silent or the machine
// moves.
//
// It asks nobody for anything: what the entry node hands out comes as a Config.
package device
