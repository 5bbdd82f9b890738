// Package wireguard makes the encrypted links of a tenant network: one device
// per network, node and key epoch, in the kernel where it can, otherwise
// wireguard-go inside this process.
//
// It promises that plaintext and ciphertext live in different network
// namespaces: the interface exists only in the router namespace
// (Config.NetNS), its UDP socket only in the host's. So the tenant's side has
// no route to the underlay at all, and nothing misconfigured there can let
// plaintext out.
//
// Every peer of a device has one path: a direct address, or the relay, which is
// a function call (Config.ToRelay, Device.FromRelay). Changing the path keeps
// sessions. As WireGuard does, both engines also follow the peer by themselves
// to wherever its last authentic packet came from; Device.SetPath overrules.
// Probes, which find direct paths, travel from the device's own UDP port beside
// WireGuard's packets and are told apart by ProbeMagic.
//
// The host's firewall must let loopback through (a relayed peer of the kernel's
// engine is a socket on 127.0.0.1) and answers to what was sent (probes leave
// through raw sockets and are tracked as any UDP packet is).
//
// The package decides no path, exchanges no key and sets no address or route:
// network/agent does.
package wireguard
