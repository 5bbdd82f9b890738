package plan

// What a virtual machine takes of a node besides what its program may use. It is
// part of the plan's Resources, so that it counts against the slot's capacity by
// the same sum as everything else, on the ledger and on the node.
const (
	// VMMMemory is the memory outside of the guest, in bytes: QEMU with its device
	// queues and page tables, and virtiofsd. QEMU alone must stay below 35 MiB
	// private per micro-VM; the rest is virtiofsd and room.
	VMMMemory = 64 << 20
	// GuestMemory is the part of a micro-VM's memory that its program doesn't get, in
	// bytes: the node's kernel, its page structures, and the agent.
	GuestMemory = 64 << 20
)

// Runs tells whether workloads of a kind run programs of people's own: they are
// reached in networks, stand behind gateways, live and end.
func Runs(kind string) bool { return kind == KindContainer || kind == KindVM }

// Overhead is how many bytes of a workload's Resources.Memory are not its
// program's: 0 in a namespace, VMMMemory for a machine of kind "vm", and
// GuestMemory as well in a micro-VM. The guest of either has Resources.Memory less
// VMMMemory, and the processes on the node that make it up are limited to all of
// Resources.Memory.
func Overhead(kind, isolation string) uint64 {
	switch {
	case kind == KindVM:
		return VMMMemory
	case kind == KindContainer && isolation == IsolationMicroVM:
		return VMMMemory + GuestMemory
	}
	return 0
}

// LifeOf is how a workload that runs programs lives; false for what runs none, and for
// a configuration that can't be read.
func LifeOf(w Workload) (Life, bool) {
	switch w.Kind {
	case KindContainer:
		c, err := DecodeContainer(w.Config)
		return c.Life, err == nil
	case KindVM:
		m, err := DecodeVM(w.Config)
		return m.Life, err == nil
	}
	return Life{}, false
}

// SecretsOf are the secrets of a workload; none of what runs no programs.
func SecretsOf(w Workload) []Secret {
	switch w.Kind {
	case KindContainer:
		c, _ := DecodeContainer(w.Config)
		return c.Secrets
	case KindVM:
		m, _ := DecodeVM(w.Config)
		return m.Secrets
	}
	return nil
}
