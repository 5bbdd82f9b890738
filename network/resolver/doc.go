// Package resolver answers the names of one tenant network inside the network's
// router namespace.
//
// Everything it knows comes from the contract's plan: ZoneOf is a pure function,
// and a Server holds one Zone, which SetZone exchanges whole. It answers only
// addresses that the plan gives to the network; what others send gets no answer
// at all, so it amplifies nothing and tells nobody anything.
//
//	web.front.internal        the addresses of workload web in network front
//	alias.front.internal      of every workload that shares the alias, shuffled
//	4.1.20.10.in-addr.arpa    the workload's name
//
// A name of the network that nothing has does not exist (NXDOMAIN). Everything
// else is refused, unless the plan grants egress to the asking workload: then the
// question goes to an Upstream that the caller gives. What ends in .internal never
// goes there, nor does the reverse of a private address, nor a name of one label.
//
// It is no recursor and keeps no cache; names of other networks, of other tenants
// and of the node are unknown to it. Sockets are made inside the namespace, and
// nothing of a question is logged.
package resolver
