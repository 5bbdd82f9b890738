package control

// Verbs of a Request.
const (
	// VerbStatus is answered by one FrameResult with a Stats in JSON.
	VerbStatus = "status"
	// VerbExec runs a program inside the workload; frames carry its standard streams
	// and FrameExit how it ended. When the connection closes first, it is killed.
	VerbExec = "exec"
	// VerbProbe tries a health check once: FrameExit 0 if it passed.
	VerbProbe = "probe"
	// VerbConsole attaches to a machine's serial console, both ways.
	VerbConsole = "console"
	// VerbGet sends a file or a tree as a tar stream of FrameStdout; VerbPut unpacks one
	// that comes as FrameStdin. Paths are inside the workload and can't leave it.
	VerbGet = "get"
	VerbPut = "put"
	// VerbRestart ends what runs, gracefully, and starts it again whatever the
	// restart policy says. VerbSignal sends one signal to the first process.
	VerbRestart = "restart"
	VerbSignal  = "signal"
	// VerbResize applies limits to what runs: CPU and memory. FrameExit 1 says that
	// it needs a new start.
	VerbResize = "resize"
	// VerbReload makes a shim read its spec again, which the node daemon has replaced:
	// FrameExit 0 says that what runs lives by it now, 1 that it needs a new start.
	VerbReload = "reload"

	// Of an agent only: VerbBoot starts the workload in a fresh guest and streams its
	// output until it ends; VerbStop ends it; VerbClock sets the guest's clock.
	VerbBoot  = "boot"
	VerbStop  = "stop"
	VerbClock = "clock"
	// VerbAttach streams the output of what VerbBoot started, and its end, to a shim
	// that came back. Secrets never travel twice.
	VerbAttach = "attach"
)

// MaxRequest bounds an encoded Request, in bytes: files and environment of a whole
// workload travel in one.
const MaxRequest = 1 << 20

// Request is what one connection is for. It is JSON on the wire, since the shim
// must stay small. Only the fields of its verb are set.
type Request struct {
	Verb   string  `json:"verb"`
	Exec   *Exec   `json:"exec,omitempty"`   // VerbExec
	Probe  *Probe  `json:"probe,omitempty"`  // VerbProbe
	Path   string  `json:"path,omitempty"`   // VerbGet, VerbPut: absolute, inside the workload
	Signal int     `json:"signal,omitempty"` // VerbSignal; VerbStop: the first one
	Limits *Limits `json:"limits,omitempty"` // VerbResize
	Boot   *Boot   `json:"boot,omitempty"`   // VerbBoot
	Time   int64   `json:"time,omitempty"`   // VerbClock: Unix nanoseconds
	Grace  int64   `json:"grace,omitempty"`  // VerbStop, VerbRestart: milliseconds before SIGKILL
}

// Exec is a program to run inside a workload.
type Exec struct {
	Args    []string `json:"args"`
	Env     []string `json:"env,omitempty"` // beside the workload's own
	WorkDir string   `json:"workdir,omitempty"`
	// User is nil for the workload's own.
	User *User `json:"user,omitempty"`
	TTY  bool  `json:"tty,omitempty"`
	Rows int   `json:"rows,omitempty"` // of the terminal
	Cols int   `json:"cols,omitempty"`
}

// User is who a program runs as, inside the workload.
type User struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// Probe is one try of a health check, from inside the workload's own network.
type Probe struct {
	Kind    string   `json:"kind"` // a plan.Check… constant: exec, tcp or http
	Args    []string `json:"args,omitempty"`
	Port    uint16   `json:"port,omitempty"`
	Path    string   `json:"path,omitempty"`
	Timeout int64    `json:"timeout"` // milliseconds
}

// Limits are what can change while a workload runs.
type Limits struct {
	CPU    uint64 `json:"cpu"`    // thousandths of a core
	Memory uint64 `json:"memory"` // bytes
	PIDs   uint64 `json:"pids"`
}

// Stats is a workload as its cgroup, or its guest's kernel, counts it now.
type Stats struct {
	CPUMicros   uint64  `json:"cpu_us"`
	Throttled   uint64  `json:"throttled_us"`
	Memory      uint64  `json:"memory"`       // bytes, page cache included
	MemoryCache uint64  `json:"memory_cache"` // the part of it that is page cache
	MemoryLimit uint64  `json:"memory_limit"`
	PIDs        uint64  `json:"pids"`
	OOMKills    uint64  `json:"oom_kills"`
	ReadBytes   uint64  `json:"read_bytes"`
	WriteBytes  uint64  `json:"write_bytes"`
	DiskUsed    uint64  `json:"disk_used"` // bytes of the writable layer
	DiskSize    uint64  `json:"disk_size"`
	NetReceived uint64  `json:"net_rx"`
	NetSent     uint64  `json:"net_tx"`
	PSICPU      float64 `json:"psi_cpu"` // share of the last ten seconds in which something waited, 0…100
	PSIMemory   float64 `json:"psi_memory"`
	PSIIO       float64 `json:"psi_io"`
	Restarts    uint64  `json:"restarts"`
	StartMillis uint64  `json:"start_ms"` // of the last start, until the program ran
	Uptime      uint64  `json:"uptime"`   // seconds of the present run
}

// Boot is everything that a guest is told. Secrets are in it: it is sent, and kept in
// memory for the next start, and no disk ever holds it.
type Boot struct {
	Hostname   string   `json:"hostname"`
	Root       Root     `json:"root"`
	Interfaces []Iface  `json:"interfaces"`
	ResolvConf []byte   `json:"resolv_conf"` // content of /etc/resolv.conf; empty: the image's stays
	Hosts      []byte   `json:"hosts"`       // content of /etc/hosts; empty: the image's stays
	Args       []string `json:"args"`
	Env        []string `json:"env"`
	WorkDir    string   `json:"workdir"`
	User       User     `json:"user"`
	NoNewPrivs bool     `json:"no_new_privs"`
	Privileged bool     `json:"privileged"` // every capability of the guest; else none
	PIDs       uint64   `json:"pids"`       // limit of processes and threads
	Files      []File   `json:"files"`      // on tmpfs
	Time       int64    `json:"time"`       // Unix nanoseconds
}

// Root is how a guest finds its root file system.
type Root struct {
	// Tag of the virtiofs that carries the flist, or Disk, the serial of a block device
	// with it as EROFS. Read-only both; one of them is set.
	Tag  string `json:"tag,omitempty"`
	Disk string `json:"disk,omitempty"`
	// Upper is the serial of the block device with the ext4 of the writable layer.
	Upper string `json:"upper"`
}

// Iface is a network interface of a guest, found by its MAC address.
type Iface struct {
	Name      string   `json:"name"` // eth0, eth1, …
	MAC       string   `json:"mac"`
	MTU       int      `json:"mtu"`
	Addresses []string `json:"addresses"` // CIDR
	Routes    []Route  `json:"routes"`
}

// Route is one entry of a guest's routing table.
type Route struct {
	To     string `json:"to"`  // CIDR; 0.0.0.0/0 and ::/0 are default routes
	Via    string `json:"via"` // "" : on the link
	OnLink bool   `json:"onlink,omitempty"`
}

// File is a small file of the workload's that lies in memory.
type File struct {
	Path    string `json:"path"` // absolute, inside the workload
	Mode    uint32 `json:"mode"`
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
	Content []byte `json:"content"`
}
