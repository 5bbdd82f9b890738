package plan

import (
	"fmt"
	"path"
	"strings"

	"github.com/zero-os/zos/canon"
)

// Isolation classes. A plan names one of them, never "any": what a spec leaves open
// was resolved by the planner, so that people sign the class that they get.
const (
	IsolationMicroVM   = "microvm"   // a virtual machine with the node's own kernel
	IsolationNamespace = "namespace" // namespaces of the node's kernel, by runc
)

// Life is how a workload lives: when it starts, what healthy means, how it ends,
// and what its group's members may do to it while it runs.
type Life struct {
	Restart string `cbor:"restart"` // RestartAlways, RestartOnFailure or RestartNever
	// Attempts is how many starts in a row may fail before the workload is left
	// failed until its next version or a restart by hand; 0: no limit.
	Attempts uint64 `cbor:"attempts"`
	// Deadline is how many seconds a run may last, for jobs; 0: no limit. It then
	// ends like a failure.
	Deadline uint64 `cbor:"deadline"`
	// Signal is the first one of a graceful stop, by its number; Grace how many
	// seconds may pass until SIGKILL.
	Signal uint64 `cbor:"signal"`
	Grace  uint64 `cbor:"grace"`
	// Health is how it is found healthy; nil: it is when it has run for a while.
	Health *Health `cbor:"health"`
	Access Access  `cbor:"access"`
}

// Health is a check that is made again and again from inside the workload.
type Health struct {
	Kind     string   `cbor:"kind"`     // CheckExec, CheckTCP or CheckHTTP
	Args     []string `cbor:"args"`     // of CheckExec: healthy if it exits 0; else empty
	Port     uint16   `cbor:"port"`     // of CheckTCP and CheckHTTP
	Path     string   `cbor:"path"`     // of CheckHTTP: healthy if it answers 200 to 399
	Interval uint64   `cbor:"interval"` // milliseconds between checks
	Timeout  uint64   `cbor:"timeout"`  // milliseconds that one may take
	// Retries is how many failures in a row make it unhealthy; it is then
	// restarted, unless its restart policy is never.
	Retries uint64 `cbor:"retries"`
	// Start is how many milliseconds after a start failures don't count.
	Start uint64 `cbor:"start"`
}

// CheckExec runs a program inside the workload. Gateways don't have it.
const CheckExec = "exec"

// Access is what members of the contract's group may do to a running workload, by
// class: AccessNone or AccessMembers. Reading (status, logs, events, metrics) is
// always the members'.
type Access struct {
	Exec    string `cbor:"exec"`    // run a program inside it
	Console string `cbor:"console"` // its serial console, of machines
	Files   string `cbor:"files"`   // copy files into it and out of it
	Restart string `cbor:"restart"` // end it and start it again
}

// Who an Access lets in.
const (
	AccessNone    = "none"
	AccessMembers = "members"
)

// File is a small file that the node puts into a workload, in memory only.
type File struct {
	Path    string `cbor:"path"`    // absolute, plain
	Mode    uint32 `cbor:"mode"`    // permission bits
	Content []byte `cbor:"content"` // at most MaxFile bytes
}

// Secret is a value that only the workload's node can open: package secret says
// how it is sealed. It becomes a variable or a file in memory.
type Secret struct {
	Name   string `cbor:"name"`   // [a-z0-9-]{1,63}
	Env    string `cbor:"env"`    // variable; "" if Path is set
	Path   string `cbor:"path"`   // absolute, plain; "" if Env is set
	Mode   uint32 `cbor:"mode"`   // permission bits of the file
	Epoch  uint64 `cbor:"epoch"`  // of the slot's keys that it is sealed to
	Sealed []byte `cbor:"sealed"` // at most MaxSecret bytes
}

// Update is how nodes go from one version of a plan to the next.
type Update struct {
	Strategy string `cbor:"strategy"` // UpdateRolling or UpdateReplace
	// MaxUnavailable is how many workloads of one replica set may be away from
	// running and healthy at a time, of UpdateRolling; at least 1.
	MaxUnavailable uint64 `cbor:"max_unavailable"`
	// Deadline is how many seconds a workload has to become healthy in its new
	// version before the update has failed.
	Deadline uint64 `cbor:"deadline"`
	// Return says that nodes go back to the previous version's plan when the
	// update has failed.
	Return bool `cbor:"return"`
}

// Strategies of an Update.
const (
	UpdateRolling = "rolling" // in the order of names, each healthy before the next
	UpdateReplace = "replace" // all at once
)

// Limits of the life cycle.
const (
	MaxFiles     = 32
	MaxFile      = 64 << 10
	MaxSecrets   = 32
	MaxSecret    = 16 << 10
	MaxDisks     = 8
	MaxCloudInit = 64 << 10
	MaxGrace     = 600    // seconds
	MaxSeconds   = 604800 // of every other duration: a week
	MaxSignal    = 64
	// MinInterval is the least time between two health checks, in milliseconds, and
	// MinExecInterval of those by exec: to start a program in a container is the node's
	// own work, which no limit of the workload's bounds.
	MinInterval     = 100
	MinExecInterval = 1000
)

// KindVM is the kind of a whole machine.
const KindVM = "vm"

// VM is the configuration of a workload of kind "vm": a machine with a kernel or a
// disk of its own.
type VM struct {
	V     uint64     `cbor:"v"`
	Flist canon.Hash `cbor:"flist"`
	Size  uint64     `cbor:"size"` // bytes of the whole flist
	// Boot is BootKernel or BootDisk.
	Boot    string `cbor:"boot"`
	Cmdline string `cbor:"cmdline"` // of BootKernel: appended to the node's own
	Disks   []Disk `cbor:"disks"`   // further ones, sorted by serial
	// UserData is what cloud-init gets beside host name, keys and network: JSON or
	// text in one of its formats; empty: none.
	UserData []byte `cbor:"user_data"`
	// Keys are SSH keys for cloud-init's default user, one authorized_keys line each.
	Keys     []string     `cbor:"keys"`
	Networks []Attachment `cbor:"networks"`
	Secrets  []Secret     `cbor:"secrets"` // files, by cloud-init
	Life     Life         `cbor:"life"`
}

// How a VM boots.
const (
	BootKernel = "kernel" // /boot/vmlinuz and, if it is there, /boot/initrd.img of the flist, which is the root file system
	BootDisk   = "disk"   // /disk.raw of the flist, with UEFI
)

// Disk is an empty block device of a machine's own.
type Disk struct {
	Serial string `cbor:"serial"` // [a-z0-9-]{1,20}
	Size   uint64 `cbor:"size"`   // bytes; a part of the workload's disk limit
}

// DecodeVM reads and validates the Config of a machine.
func DecodeVM(config []byte) (VM, error) {
	var m VM
	if err := canon.UnmarshalLimit(config, MaxSize, &m); err != nil {
		return VM{}, invalid("read machine configuration: %w", err)
	}
	if err := m.Validate(); err != nil {
		return VM{}, err
	}
	return m, nil
}

// Encode validates m and returns its canonical bytes, for Workload.Config.
func (m VM) Encode() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	b, err := canon.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode machine configuration: %w", err)
	}
	return b, nil
}

// Validate checks a machine's configuration.
func (m VM) Validate() error {
	switch {
	case m.V != Version:
		return invalid("machine configuration of version %d, this software knows %d", m.V, Version)
	case m.Flist.IsZero():
		return invalid("machine names no flist")
	case m.Size > MaxAmount:
		return invalid("machine's flist size is %d, at most %d is allowed", m.Size, uint64(MaxAmount))
	case m.Boot != BootKernel && m.Boot != BootDisk:
		return invalid("machine boots by %.80q, want kernel or disk", m.Boot)
	case len(m.Cmdline) > 1024 || strings.ContainsFunc(m.Cmdline, func(c rune) bool { return c < ' ' || c > '~' }):
		return invalid("machine's command line is longer than 1024 bytes or not printable ASCII")
	case m.Boot == BootDisk && m.Cmdline != "":
		return invalid("machine that boots from its disk has a command line")
	case len(m.Disks) > MaxDisks:
		return invalid("machine has %d disks, at most %d are allowed", len(m.Disks), MaxDisks)
	case len(m.UserData) > MaxCloudInit:
		return invalid("machine's user data has %d bytes, at most %d are allowed", len(m.UserData), MaxCloudInit)
	case len(m.Keys) > MaxFiles:
		return invalid("machine has %d SSH keys, at most %d are allowed", len(m.Keys), MaxFiles)
	}
	for i, d := range m.Disks {
		if !ValidName(d.Serial) || len(d.Serial) > 20 {
			return invalid("disk %.80q: want [a-z0-9-], 1 to 20 characters", d.Serial)
		}
		if d.Size == 0 || d.Size > MaxAmount {
			return invalid("disk %s has %d bytes, want 1 to %d", d.Serial, d.Size, uint64(MaxAmount))
		}
		if i > 0 && m.Disks[i-1].Serial >= d.Serial {
			return invalid("disks are not sorted by serial, or %s occurs twice", d.Serial)
		}
	}
	for _, k := range m.Keys {
		if k == "" || len(k) > 4096 || strings.ContainsFunc(k, func(c rune) bool { return c < ' ' || c > '~' }) {
			return invalid("SSH key %.40q is not one line of printable ASCII", k)
		}
	}
	if err := validateAttachments(m.Networks); err != nil {
		return fmt.Errorf("machine: %w", err)
	}
	for _, err := range []error{validateSecrets(m.Secrets), validatePlaces(nil, nil, m.Secrets)} {
		if err != nil {
			return fmt.Errorf("machine: %w", err)
		}
	}
	for _, s := range m.Secrets {
		if s.Env != "" {
			return invalid("machine has no variables that secret %s could be", s.Name)
		}
	}
	if err := m.Life.validate(); err != nil {
		return fmt.Errorf("machine: %w", err)
	}
	if m.Life.Health != nil && m.Life.Health.Kind == CheckExec {
		return invalid("machine has a health check by exec, which only containers have")
	}
	return nil
}

func (l Life) validate() error {
	switch {
	case l.Restart != RestartAlways && l.Restart != RestartOnFailure && l.Restart != RestartNever:
		return invalid("restart policy is %.80q, want always, on-failure or never", l.Restart)
	case l.Attempts > 1000:
		return invalid("%d attempts, at most 1000 are allowed", l.Attempts)
	case l.Deadline > MaxSeconds:
		return invalid("deadline of %d seconds, at most %d are allowed", l.Deadline, MaxSeconds)
	case l.Signal < 1 || l.Signal > MaxSignal:
		return invalid("stop signal %d, want 1 to %d", l.Signal, MaxSignal)
	case l.Grace < 1 || l.Grace > MaxGrace:
		return invalid("grace of %d seconds, want 1 to %d", l.Grace, MaxGrace)
	}
	for _, a := range []string{l.Access.Exec, l.Access.Console, l.Access.Files, l.Access.Restart} {
		if a != AccessNone && a != AccessMembers {
			return invalid("access for %.80q, want none or members", a)
		}
	}
	if l.Health != nil {
		return l.Health.validate()
	}
	return nil
}

func (h Health) validate() error {
	const week = MaxSeconds * 1000
	switch {
	case h.Kind != CheckExec && h.Kind != CheckTCP && h.Kind != CheckHTTP:
		return invalid("health check by %.80q, want exec, tcp or http", h.Kind)
	case (h.Kind == CheckExec) != (len(h.Args) > 0) || len(h.Args) > MaxArgs:
		return invalid("health check by %s has %d arguments", h.Kind, len(h.Args))
	case (h.Kind == CheckExec) != (h.Port == 0):
		return invalid("health check by %s has port %d", h.Kind, h.Port)
	case (h.Kind == CheckHTTP) != strings.HasPrefix(h.Path, "/") || len(h.Path) > 256 || strings.ContainsFunc(h.Path, func(c rune) bool { return c <= ' ' || c > '~' }):
		return invalid("health check by %s has path %.80q", h.Kind, h.Path)
	case h.Interval < MinInterval || h.Interval > week || h.Kind == CheckExec && h.Interval < MinExecInterval:
		return invalid("health check by %s every %d ms, want %d or more, %d or more by exec", h.Kind, h.Interval, MinInterval, MinExecInterval)
	case h.Timeout < 10 || h.Timeout > 600_000:
		return invalid("health check may take %d ms, want 10 to 600000", h.Timeout)
	case h.Retries < 1 || h.Retries > 100:
		return invalid("health check has %d retries, want 1 to 100", h.Retries)
	case h.Start > week:
		return invalid("health check does not count for %d ms, at most %d are allowed", h.Start, week)
	}
	for _, a := range h.Args {
		if !clean(a) {
			return invalid("health check has an argument that is too long or holds a zero byte")
		}
	}
	return nil
}

func (u Update) validate() error {
	switch {
	case u.Strategy != UpdateRolling && u.Strategy != UpdateReplace:
		return invalid("update by %.80q, want rolling or replace", u.Strategy)
	case u.MaxUnavailable < 1 || u.MaxUnavailable > MaxWorkloads:
		return invalid("update with %d unavailable, want 1 to %d", u.MaxUnavailable, MaxWorkloads)
	case u.Deadline < 1 || u.Deadline > MaxSeconds:
		return invalid("update's deadline is %d seconds, want 1 to %d", u.Deadline, MaxSeconds)
	}
	return nil
}

func validateFiles(files []File) error {
	if len(files) > MaxFiles {
		return invalid("%d files, at most %d are allowed", len(files), MaxFiles)
	}
	for i, f := range files {
		if err := plainFile(f.Path, f.Mode); err != nil {
			return err
		}
		if len(f.Content) > MaxFile {
			return invalid("file %s has %d bytes, at most %d are allowed", f.Path, len(f.Content), MaxFile)
		}
		if i > 0 && files[i-1].Path >= f.Path {
			return invalid("files are not sorted by path, or %s occurs twice", f.Path)
		}
	}
	return nil
}

func validateSecrets(secrets []Secret) error {
	if len(secrets) > MaxSecrets {
		return invalid("%d secrets, at most %d are allowed", len(secrets), MaxSecrets)
	}
	for i, s := range secrets {
		switch {
		case !ValidName(s.Name):
			return invalid("secret %.80q: want [a-z0-9-], 1 to 63 characters", s.Name)
		case (s.Env == "") == (s.Path == ""):
			return invalid("secret %s wants a variable or a path, and one of them", s.Name)
		case s.Env != "" && (strings.ContainsAny(s.Env, "=/\x00") || len(s.Env) > 128 || s.Mode != 0):
			return invalid("secret %s can't be variable %.80q", s.Name, s.Env)
		case len(s.Sealed) == 0 || len(s.Sealed) > MaxSecret:
			return invalid("secret %s has %d sealed bytes, want 1 to %d", s.Name, len(s.Sealed), MaxSecret)
		case s.Epoch < 1:
			return invalid("secret %s names no epoch", s.Name)
		case i > 0 && secrets[i-1].Name >= s.Name:
			return invalid("secrets are not sorted by name, or %s occurs twice", s.Name)
		}
		if s.Path != "" {
			if err := plainFile(s.Path, s.Mode); err != nil {
				return err
			}
		}
	}
	return nil
}

// validatePlaces refuses two things in one place: which of them a program gets, nobody
// who signs could tell.
func validatePlaces(env []string, files []File, secrets []Secret) error {
	taken := map[string]bool{}
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		taken[name] = true
	}
	for _, f := range files {
		taken[f.Path] = true
	}
	for _, s := range secrets {
		place := s.Env + s.Path // one of them; a variable has no slash in front
		if taken[place] {
			return invalid("secret %s is put where something else is: %s", s.Name, place)
		}
		taken[place] = true
	}
	return nil
}

func plainFile(name string, mode uint32) error {
	if !path.IsAbs(name) || path.Clean(name) != name || name == "/" || len(name) > 1024 || !clean(name) {
		return invalid("%.80q is not an absolute, plain path", name)
	}
	if mode == 0 || mode&^0o777 != 0 {
		return invalid("%s has mode %o, want permission bits", name, mode)
	}
	return nil
}

// DefaultLife is what a workload gets that says nothing else.
func DefaultLife() Life {
	return Life{
		Restart: RestartAlways, Signal: 15, Grace: 10,
		Access: Access{Exec: AccessNone, Console: AccessNone, Files: AccessNone, Restart: AccessMembers},
	}
}

// DefaultUpdate is that of a plan that says nothing else.
func DefaultUpdate() Update {
	return Update{Strategy: UpdateReplace, MaxUnavailable: 1, Deadline: 300}
}
