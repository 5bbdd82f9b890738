// Package network runs workloads of kind "network": a tenant's network on one
// node, as a router namespace with a bridge, and the namespaces of the workloads
// behind it.
//
// What exists on a node, for router R of contract C and workload W of it:
//
//	<run>/r-C-R         the router's network namespace, pinned
//	<run>/r-C-R.json    what was last made of which version
//	<run>/w-C-W         W's network namespace, pinned
//	<run>/w-C-W.d/      its sysfs, resolv.conf, hosts, and what it is attached to
//	<run>/g-C-W…        the same of a gateway
//
//	in the router       br0, a bridge with the router's addresses; wg0 and wg1 of
//	                    package network/agent; pN for the workload whose address
//	                    ends in N; eg0 if somebody here has egress
//	in the host         zegN, the other end of eg0; nothing otherwise
//
// # Who reaches whom
//
// Every packet between workloads is routed, also on one node: each has only its
// own address (/32, /128) and routes through the router. A port takes frames from
// its own MAC, IPv4 and IPv6 address alone, to the router alone (bridge table);
// ports never see each other. The router's chains drop by default; the rules of
// an attachment are kept by the router of the node where it lives. What comes out
// of WireGuard must be from another node's workload. All is computed from the plan
// (ViewOf, Tables: pure) and replaced in one transaction, so that an update opens
// nothing for a moment. Connections that the new version allows live on; others are
// forgotten, and end.
//
// # Leaving the network
//
// Without egress there is no interface to the host at all. Egress "node" is a veth
// pair to the host, whose static rules (linux/firewall) let it go nowhere but out
// of the uplink. Egress "exit" is routed to the exit node through WireGuard, and
// leaves there the same way.
//
// # While the daemon is away
//
// The kind serves the network's resolver itself: while the node daemon is away, names
// do not resolve, and everything else goes on.
package network
