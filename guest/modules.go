package guest

// Group is a set of drivers that a guest loads together, and only if it needs them.
// In the initrd each is a directory, in which every module comes after what
// it depends on.
type Group string

// The groups.
const (
	GroupMachine Group = "machine" // what the node has in every machine: panics told, memory given back
	GroupNet     Group = "net"
	GroupBlock   Group = "block"
	GroupOverlay Group = "overlay"
	GroupEROFS   Group = "erofs"
)

// Dir is where the initrd has the group, without a leading slash.
func (g Group) Dir() string { return "modules/" + string(g) }

// Modules returns the groups and the modules that each is made of, without what these
// depend on. virtiofs, ext4, virtio-serial and PCI are built into the kernel.
func Modules() map[Group][]string {
	return map[Group][]string{
		GroupMachine: {"pvpanic_pci", "virtio_balloon"},
		GroupNet:     {"virtio_net"},
		GroupBlock:   {"virtio_blk"},
		GroupOverlay: {"overlay"},
		GroupEROFS:   {"erofs"},
	}
}
