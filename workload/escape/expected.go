package escape

import "strings"

// What is expected of a kind of attempt, by the part of its name before the slash, in
// class Namespace: capabilities are none, so what wants one is EPERM, by the filter or
// by the kernel; files of the kernel are the node's root's, on read-only mounts.
var namespaceKinds = map[string]Outcomes{
	"mount": "EPERM", "root": "EPERM", "unshare": "EPERM", "setns": "EPERM", "mknod": "EPERM", "kernel": "EPERM", "rights": "EPERM", "option": "EPERM",
	"netlink": "EPERM", "socket": "EPERM", "vsock": "EPERM",
	"sysctl": "EACCES|EROFS|ENOENT",
	"cgroup": "EACCES|EROFS",
	"sys":    "EACCES|EROFS|ENOENT|masked",
	"dev":    "ENOENT",
	"leak":   "none", "link": "none", "race": "none",
	"reach": "ENETUNREACH|EHOSTUNREACH|timeout",
}

// namespaceNames are those that differ from their kind.
var namespaceNames = map[string]Outcomes{
	"unshare/user-by-clone3":  "ENOSYS", // so that C libraries use clone, whose flags a filter can see
	"cgroup/release-agent":    "ENOENT", // there is none in version 2
	"kernel/nice":             "EACCES",
	"kernel/process-vm-read":  "ok", // its own process
	"proc/1-environ":          "ok", // its own process
	"proc/1-mem":              "ok", // its own process
	"proc/kcore":              "masked|ENOENT",
	"proc/keys":               "masked|ENOENT",
	"proc/kallsyms":           "masked",
	"proc/timer-list":         "masked|ENOENT",
	"proc/sched-debug":        "masked|ENOENT",
	"proc/interrupts":         "masked|ENOENT",
	"proc/kmsg":               "EACCES|EPERM",
	"proc/sysrq-trigger":      "EACCES|EROFS|ENOENT",
	"proc/scsi":               "EACCES|EROFS|ENOENT",
	"proc/irq":                "EACCES|EROFS",
	"proc/mtrr":               "EACCES|EROFS|ENOENT",
	"proc/oom-score":          "EACCES",
	"proc/uid-map":            "EPERM",
	"race/rename-mask":        "ENOENT|EPERM|EACCES|EROFS|EBUSY",
	"rights/no-new-privs-off": "EINVAL",
	"socket/bluetooth":        "EPERM|EAFNOSUPPORT",
	"socket/xdp":              "EPERM|EAFNOSUPPORT",
	"netlink/audit":           "EPERM|ECONNREFUSED|EPROTONOSUPPORT",
}

// denied are all words for "it did not work".
const denied Outcomes = "EPERM|EACCES|EROFS|ENOENT|ENOSYS|EINVAL|ENODEV|ENXIO|EBUSY|EXDEV|EAFNOSUPPORT|EPROTONOSUPPORT|ESOCKTNOSUPPORT|EOPNOTSUPP|" +
	"ECONNREFUSED|ECONNRESET|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|EIO|masked|none|timeout"

// Expected is what a class's attempts must come to, by their names.
func Expected(class Class) map[string]Outcomes {
	want := map[string]Outcomes{}
	for _, name := range names {
		kind, _, _ := strings.Cut(name, "/")
		o, ok := namespaceNames[name]
		if !ok {
			o = namespaceKinds[kind]
		}
		want[name] = expected(class, name, kind, o)
	}
	return want
}

func expected(class Class, name, kind string, inNamespace Outcomes) Outcomes {
	// Whatever the class, nothing of the node's is left to a workload, and nothing
	// but its networks is reached.
	outside := kind == "leak" || kind == "reach" || name == "vsock/to-host"
	switch {
	case class == Namespace:
		return inNamespace
	case outside:
		return denied
	case class == Privileged || inNamespace.has("ok"):
		return "*"
	}
	// Inside a guest, too, what namespaces deny, if by other words.
	return denied
}
