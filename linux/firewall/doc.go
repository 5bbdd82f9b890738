// Package firewall is the packet filter of a node's host namespace: nothing
// comes in that the node did not ask for.
//
// Input is dropped except the loopback interface, answers to connections of the
// node, DHCP answers and IPv6 neighbour discovery; nothing is forwarded; output
// is free. The whole table is replaced in one transaction, so there is no moment
// without it and applying it again changes nothing. It speaks of the namespace
// that it is applied in and of no other.
package firewall
