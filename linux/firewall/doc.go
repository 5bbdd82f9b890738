// Package firewall puts packet filters in force and checks that they still are.
//
// A Table is a filter as a value: its chains, rules and sets. Apply replaces
// whole tables in one transaction, so there is no moment without them and
// applying them again changes nothing; Verify reads everything back from the
// kernel and compares it. Both speak of one network namespace.
//
// Host is the filter of a node's own namespace: nothing comes in that the node
// did not ask for. Input is dropped except the loopback interface, answers to
// connections of the node, DHCP answers and IPv6 neighbour discovery. Output is
// free. Forwarded is only what comes from a tenant network's egress interface
// (EgressPrefix), and only to the public internet, behind the node's address; the
// rules are the same whether there is such an interface or not.
package firewall
