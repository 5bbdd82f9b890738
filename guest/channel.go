package guest

// Where the two sides find each other, and what the guest's kernel is told.
const (
	// PortName is the name of the virtio-serial port that the agent opens: vmm.AgentPort.
	PortName = "zos.agent"
	// Cmdline is the kernel command line of a guest without a console: a panic, which
	// the death of process 1 is, ends the machine.
	Cmdline = "panic=-1 oops=panic reboot=t quiet loglevel=1"
)
