package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/shim"
)

// Names in the shim's directory.
const (
	bootFile    = "boot.json"
	errorFIFO   = "monitor.err"
	qmpSocket   = "qmp.sock"
	agentSocket = "agent.sock"
	consSocket  = "console.sock"
	fsSocket    = "fs.sock"
	// FileServerDir is the file server's bundle; the monitor's is shim.BundleDir.
	FileServerDir = "fs"
)

// Cgroups of a machine, below the workload's, and what a file server is called.
const (
	MonitorGroup    = "vmm"
	FileServerGroup = "fs"
	fileServerName  = ".fs"
)

// Config is the engine's own part of a shim.Spec, made by Setup.
type Config struct {
	// Files are what the monitor inherits, from descriptor 3 on.
	Files []File `json:"files"`
	// Agent and Console say which of the sockets there are, Share that there is a
	// file server.
	Agent   bool `json:"agent"`
	Console bool `json:"console"`
	Share   bool `json:"share"`
	// Memory is the guest's, in bytes; the rest of the spec's limit is the monitor's.
	Memory uint64 `json:"memory"`
	// Patience is how long the agent may take to answer first, Silence how long it
	// may say nothing later; 0: two minutes, one minute.
	Patience time.Duration `json:"patience,omitempty"`
	Silence  time.Duration `json:"silence,omitempty"`
	// Probe is where checks by TCP and HTTP of a machine without an agent go.
	Probe *ProbeFrom `json:"probe,omitempty"`
}

// ProbeFrom is the way to a guest for health checks of a machine without an agent.
type ProbeFrom struct {
	Netns string `json:"netns"` // of the guest's router, whose address it knows anyway
	To    string `json:"to"`    // address of the guest
}

// File is one file that the monitor inherits. It is opened anew for each start.
type File struct {
	Kind FileKind `json:"kind"`
	Path string   `json:"path,omitempty"` // of a file; of a tap the network namespace
	Name string   `json:"name,omitempty"` // of a socket or a tap
	// Root confines the path of a file, links included, to a directory whose content
	// is somebody else's; Path is then relative to it.
	Root string `json:"root,omitempty"`
	// ReadOnly is how a file is opened.
	ReadOnly bool `json:"read_only,omitempty"`
}

// FileKind says what is opened.
type FileKind string

// The kinds.
const (
	FilePath  FileKind = "file"      // a regular file, never a link
	FileSock  FileKind = "socket"    // a listening socket in the shim's directory
	FileTap   FileKind = "tap"       // a tap in a network namespace
	FileVhost FileKind = "vhost-net" // /dev/vhost-net
	FileShare FileKind = "share"     // a connection to the file server
)

// Setup puts together a machine's configuration and the files that it inherits, so
// that each has the number that the configuration names.
type Setup struct {
	Machine vmm.Config
	Engine  Config
}

func (s *Setup) add(f File) vmm.FD {
	s.Engine.Files = append(s.Engine.Files, f)
	return vmm.FD(2 + len(s.Engine.Files))
}

// NewSetup begins with what every machine has: a QMP socket.
func NewSetup(c vmm.Config) *Setup {
	s := &Setup{Machine: c, Engine: Config{Memory: c.Memory}}
	s.Machine.QMP = s.add(File{Kind: FileSock, Name: qmpSocket})
	return s
}

// AddAgent gives the guest the port of its agent.
func (s *Setup) AddAgent() {
	s.Engine.Agent = true
	s.Machine.Agent = s.add(File{Kind: FileSock, Name: agentSocket})
}

// AddConsole gives the guest a serial port.
func (s *Setup) AddConsole() {
	s.Engine.Console = true
	s.Machine.Console = s.add(File{Kind: FileSock, Name: consSocket})
}

// AddDisk gives the guest the raw image at path as a block device.
func (s *Setup) AddDisk(serial, path string, readOnly bool) {
	fd := s.add(File{Kind: FilePath, Path: path, ReadOnly: readOnly})
	s.Machine.Disks = append(s.Machine.Disks, vmm.Disk{Serial: serial, File: fd, ReadOnly: readOnly})
}

// AddChanges gives the guest a disk whose content is that of the raw image path, which
// lies below root, with the changes that the qcow2 image at changes holds.
func (s *Setup) AddChanges(serial, changes, root, path string) {
	fd := s.add(File{Kind: FilePath, Path: changes})
	base := s.AddFile(root, path)
	s.Machine.Disks = append(s.Machine.Disks, vmm.Disk{Serial: serial, File: fd, Base: base})
}

// AddFile lets the monitor inherit, for reading, a file of a directory whose content is
// somebody else's: no link leads out of it.
func (s *Setup) AddFile(root, path string) vmm.FD {
	return s.add(File{Kind: FilePath, Root: root, Path: path, ReadOnly: true})
}

// AddState lets the monitor inherit a file for reading and writing.
func (s *Setup) AddState(path string) vmm.FD { return s.add(File{Kind: FilePath, Path: path}) }

// AddNIC connects the guest with a tap of a network namespace, by the node's kernel
// if vhost.
func (s *Setup) AddNIC(mac string, mtu int, netns, tap string, vhost bool) {
	n := vmm.NIC{MAC: mac, MTU: mtu, Tap: s.add(File{Kind: FileTap, Path: netns, Name: tap})}
	if vhost {
		n.Vhost = s.add(File{Kind: FileVhost})
	}
	s.Machine.NICs = append(s.Machine.NICs, n)
}

// AddShare lets the guest mount, as tag, what the file server serves. A machine has
// one at most.
func (s *Setup) AddShare(tag string) {
	s.Engine.Share = true
	s.Machine.Shares = append(s.Machine.Shares, vmm.Share{Tag: tag, Socket: s.add(File{Kind: FileShare})})
}

// Listener is the descriptor at which a file server finds its socket.
const Listener vmm.FD = 3

// Fill makes spec one of this engine.
func (s *Setup) Fill(spec *shim.Spec) error {
	b, err := json.Marshal(s.Engine)
	if err != nil {
		return fmt.Errorf("encode the machine engine's configuration: %w", err)
	}
	spec.Engine, spec.Config = shim.EngineMachine, b
	return nil
}

func readConfig(s shim.Spec) (Config, error) {
	var c Config
	if err := json.Unmarshal(s.Config, &c); err != nil {
		return Config{}, fmt.Errorf("read the machine engine's configuration: %w", err)
	}
	if c.Patience <= 0 {
		c.Patience = 5 * time.Minute // a nested guest on a busy, emulated node took three
	}
	if c.Silence <= 0 {
		c.Silence = time.Minute
	}
	return c, nil
}

// WriteBoot stores what the agent is told at every start. dir is the shim's, in memory.
func WriteBoot(dir string, b control.Boot) error {
	raw, err := json.Marshal(b)
	if err == nil && len(raw) > control.MaxRequest-1024 {
		err = errors.New("more than one request can hold")
	}
	if err == nil {
		path := filepath.Join(dir, bootFile)
		if err = os.WriteFile(path+".tmp", raw, 0o600); err == nil {
			err = os.Rename(path+".tmp", path)
		}
	}
	if err != nil {
		return fmt.Errorf("write what the guest is told: %w", err)
	}
	return nil
}

func readBoot(dir string) (control.Boot, error) {
	var b control.Boot
	f, err := os.Open(filepath.Join(dir, bootFile))
	if err != nil {
		return b, fmt.Errorf("read what the guest is told: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, control.MaxRequest+1))
	if err == nil && len(raw) > control.MaxRequest {
		err = errors.New("it is too large")
	}
	if err == nil {
		err = json.Unmarshal(raw, &b)
	}
	if err != nil {
		return b, fmt.Errorf("read what the guest is told: %w", err)
	}
	return b, nil
}

// Runtimes are the containers of a machine, for cleaning: each ends and forgets
// everything of one. main is the spec's.
func Runtimes(main shim.Runtime) []shim.Runtime {
	fs := main
	fs.ID += fileServerName
	return []shim.Runtime{main, fs}
}
