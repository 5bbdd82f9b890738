// Package netlab is a network laboratory: hosts, routers, NATs and virtual
// machines on links that it switches and shapes itself.
//
// A Host is a network namespace; a Segment is a link whose frames all pass
// through this process, which can lose, delay, reorder, narrow, cut and watch
// them; a Site is a router with a LAN behind it, translating addresses as one
// kind of NAT does; a Machine is a place where QEMU plugs in a network card.
// The promise is that a laboratory behaves as the network that it is named
// after (each NAT is classified by a test, as RFC 5780 would), that nothing of
// it reaches the machine's own network, and that nothing of it remains: Close
// names every process, socket and interface that was left in it.
//
//	lab := netlab.New(t)
//	internet := lab.Segment("internet", "198.51.100.0/24", "2001:db8::/64")
//	home := lab.Site("home", netlab.SiteConfig{WAN: internet, NAT: netlab.Symmetric, LAN: []string{"192.168.1.0/24"}})
//	server, client := lab.Host("server", internet), home.Host("client")
//	l := server.Listen("tcp", ":80")
//	c, err := client.Dial(ctx, "tcp", server.AddrPort(80))
//
// It needs root, /dev/net/tun and the nft program, but no kernel module beyond
// those that translate addresses: the links are TAP devices, not netem's.
//
// What it does not do: it is no model of throughput (one process moves every
// frame, without offloads). Host.Veth makes a plain kernel link for that.
package netlab
