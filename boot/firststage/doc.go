// Package firststage is what happens between the kernel's hand-over and a
// verified system: a list of steps, each of which says on the console what it
// did or what is missing, waits, and tries again for ever.
//
// Decisions (which slot, which disk, which clock, which release) are pure
// functions in files of their own; the steps around them touch the machine.
//
// It promises that nothing unverified is executed, that no disk is written to
// which its farm did not name or which does not carry this slot's label, and that
// no failure ends it. It has no feature that waits for a person.
package firststage
