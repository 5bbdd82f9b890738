package vmm

import (
	"slices"
	"strings"
)

// Modules are the kernel modules that a node needs for machines, by what
// /proc/cpuinfo says: loading the other maker's KVM fails. A processor without
// virtualisation needs none of KVM's.
func Modules(cpuinfo []byte) []string {
	names := []string{"tun", "vhost_net", "vhost_vsock"}
	for l := range strings.Lines(string(cpuinfo)) {
		key, value, _ := strings.Cut(l, ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		flags := strings.Fields(value)
		switch {
		case slices.Contains(flags, "svm"):
			return append(names, "kvm_amd")
		case slices.Contains(flags, "vmx"):
			return append(names, "kvm_intel")
		}
		return names // all processors of a machine are alike
	}
	return names
}
