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
//	                    ends in N; eg0 if somebody here has egress; in0 if people's
//	                    devices enter here
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
// # Gateways
//
// A gateway is in the network as a container is (Gateways), and its packets are told
// from others' by their source: they pass to the ports that its routes name, whatever
// the backends open to others, to nothing else, and to no resolver. Nobody begins a
// connection to it. That is kept by the node that receives, so whoever holds the
// gateway's node reaches no more: from a node with nothing but gateways no other
// address is heard at all, and no ICMP.
//
// # People's devices
//
// They enter by in0, a WireGuard interface whose UDP port is in the router's namespace
// too: what comes there has come through the network, from a gateway that passes it
// on and can't read it. A device is a member with the address that its key is bound
// to, to which nobody begins a connection. What it may reach stands with whom it
// reaches, as for workloads. The key of in0 and the devices' preshared keys are
// derived from the node's identity (Secrets). In userspace, which ends with this
// process, devices are cut off while the daemon is away; the kernel's goes on.
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
