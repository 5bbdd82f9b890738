// Package cloudinit makes the NoCloud seed of a machine: a small read-only disk with
// the volume label "cidata" from which cloud-init learns host name, SSH keys, network,
// files and what the group says itself.
//
// Everything that comes from a plan is written as JSON, of which YAML is a superset,
// with nothing but what every YAML reader takes as it stands: whatever a name, a key
// or a secret holds, it stays one string. The group's own user data is a part of its
// own beside the node's, and never mixed with it as text.
//
// The same Seed gives the same bytes. The image holds secrets: whoever makes it keeps
// it in memory. What cloud-init copies of it onto the machine's own disk
// (/var/lib/cloud), it copies.
package cloudinit
