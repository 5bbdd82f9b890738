package firewall

// Modules returns the kernel modules that the rules of this package's users need,
// in load order, for a kernel that has them as modules and no modprobe helper
// (Debian's 6.12). Those that are built in need not be there.
func Modules() []string {
	return []string{
		"libcrc32c", "nfnetlink", "nf_tables",
		"nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "nft_ct",
		"nf_nat", "nft_chain_nat", "nft_nat", "nft_masq", "nf_conncount", "nft_connlimit",
		"nft_meta_bridge", // names of interfaces in rules of bridges; brings the bridge
	}
}

// Host is the filter of a node's own network namespace.
type Host struct {
	// NetNS is an open file descriptor of the namespace; 0 means the caller's own.
	NetNS int
}

// Apply puts the filter in force, as Namespace.Apply does.
func (h Host) Apply() error { return Namespace(h.NetNS).Apply(hostTable()) }

// Verify compares the filter with what is in force, as Namespace.Verify does.
func (h Host) Verify() error { return Namespace(h.NetNS).Verify(hostTable()) }

// Remove takes the filter away; for tests. Without one it does nothing.
func (h Host) Remove() error { return Namespace(h.NetNS).Remove(hostTable()) }
