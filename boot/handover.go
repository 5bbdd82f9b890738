package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
)

// Places that the first stage and what runs after it agree on. All of /run is
// in memory and of this boot only.
const (
	DataDir         = "/data"               // the store's file system
	RunDir          = "/run/zos"            // made by the first stage
	HandoverPath    = RunDir + "/boot.cbor" // canonical Handover
	RunArchivePath  = RunDir + "/grid.cbor" // copy of the grid's archive
	NetworkPath     = RunDir + "/net.cbor"  // canonical Network, rewritten when a lease changes
	ResolvConfPath  = RunDir + "/resolv.conf"
	ExitsDir        = RunDir + "/exits" // one file per reaped orphan; package linux/reap
	maxHandoverSize = 1 << 20
)

// Files in DataDir that the first stage writes; zosd may raise the floor too.
const (
	FloorFile   = "floor"   // canonical uint64: lowest release sequence this disk accepts
	ReleaseFile = "release" // canonical contract.Signed: the last release that this disk booted
)

// Handover is what the first stage tells the second stage and zosd. It is
// knowledge, not trust: zosd verifies Release again before it builds on it.
type Handover struct {
	V        uint64     `cbor:"v"`
	Grid     canon.Hash `cbor:"grid"`
	Slot     canon.Hash `cbor:"slot"`      // id of the slot whose hint matched this machine
	SlotName string     `cbor:"slot_name"` // for people
	Hint     string     `cbor:"hint"`      // the hint that matched
	Disk     Disk       `cbor:"disk"`
	Clock    Clock      `cbor:"clock"`
	// Release is the verified canonical contract.Signed this system was booted
	// from. Sequence, OS and Checkpoint repeat what it says.
	Release    []byte              `cbor:"release"`
	Sequence   uint64              `cbor:"sequence"`
	OS         canon.Hash          `cbor:"os"`
	Checkpoint contract.Checkpoint `cbor:"checkpoint"`
	Floor      uint64              `cbor:"floor"` // highest release floor known at boot, this release included
	TPM        string              `cbor:"tpm"`   // device path, or empty without a usable TPM 2.0
	Network    Network             `cbor:"network"`
	Kernel     KernelState         `cbor:"kernel"`
	Degraded   []string            `cbor:"degraded"` // one line per thing that is missing; empty when all is well
	Steps      []Step              `cbor:"steps"`
}

// Kinds of Disk.
const (
	DiskReal = "disk" // a disk; content survives a reboot
	DiskZram = "zram" // compressed memory; content is of this boot only
)

// Disk is where the data directory lives.
type Disk struct {
	Kind   string `cbor:"kind"`
	Device string `cbor:"device"` // e.g. /dev/vda
	Serial string `cbor:"serial"` // empty for zram
	Size   uint64 `cbor:"size"`   // bytes of the device
	Data   string `cbor:"data"`   // mount point, DataDir
	Fresh  bool   `cbor:"fresh"`  // formatted in this boot
	Reason string `cbor:"reason"` // why there is no disk, when Kind is DiskZram; else empty
}

// Clock is what set the clock at boot.
type Clock struct {
	Source string `cbor:"source"` // "rtc", "floor", "ntp" or "release"
	Time   uint64 `cbor:"time"`   // Unix seconds after the step
	Floor  uint64 `cbor:"floor"`  // Unix seconds below which this node's clock never stands
}

// Network is the node's underlay as DHCP gave it.
type Network struct {
	Interface string   `cbor:"interface"` // empty: no network yet
	MAC       string   `cbor:"mac"`
	Addresses []string `cbor:"addresses"` // CIDR
	Gateway   string   `cbor:"gateway"`   // may be empty
	DNS       []string `cbor:"dns"`
	Lease     uint64   `cbor:"lease"` // seconds the lease lasts, counted from Since
	Since     uint64   `cbor:"since"` // Unix seconds
}

// KernelState is what the running kernel says about itself.
type KernelState struct {
	Version  string   `cbor:"version"`
	Lockdown string   `cbor:"lockdown"` // "none", "integrity" or "confidentiality"
	Signed   bool     `cbor:"signed"`   // only signed modules load
	Ignored  []string `cbor:"ignored"`  // kernel parameters that nobody expects
}

// Step is one step of the first stage, as shown on the console.
type Step struct {
	Name   string `cbor:"name"`
	Millis uint64 `cbor:"millis"` // duration of the try that succeeded
	Tries  uint64 `cbor:"tries"`  // 1: at once
	Detail string `cbor:"detail"`
}

// WriteHandover writes h to path so that a reader sees all of it or nothing.
func WriteHandover(path string, h Handover) error {
	return writeCanonical(path, h, "hand-over")
}

// ReadHandover reads what the first stage left at path.
func ReadHandover(path string) (Handover, error) {
	var h Handover
	return h, readCanonical(path, &h, "hand-over")
}

// WriteNetwork publishes the node's addresses at path.
func WriteNetwork(path string, n Network) error { return writeCanonical(path, n, "network") }

// ReadNetwork reads the node's addresses from path.
func ReadNetwork(path string) (Network, error) {
	var n Network
	return n, readCanonical(path, &n, "network")
}

// ReadFloor reads the release floor of a data directory; 0 when there is none.
// A damaged file is an error: the caller decides whether to go on without it.
func ReadFloor(dataDir string) (uint64, error) {
	var floor uint64
	err := readCanonical(filepath.Join(dataDir, FloorFile), &floor, "release floor")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return floor, err
}

// RaiseFloor writes the release floor of a data directory if it is higher than
// what stands there. It never lowers it.
func RaiseFloor(dataDir string, floor uint64) error {
	if old, err := ReadFloor(dataDir); err == nil && old >= floor {
		return nil
	}
	return writeCanonical(filepath.Join(dataDir, FloorFile), floor, "release floor")
}

func writeCanonical(path string, v any, what string) error {
	b, err := canon.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", what, err)
	}
	if err := WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", what, err)
	}
	return nil
}

func readCanonical(path string, v any, what string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	defer f.Close()
	b := make([]byte, maxHandoverSize+1)
	n, err := readFull(f, b)
	if err != nil {
		return fmt.Errorf("read %s %s: %w", what, path, err)
	}
	if n > maxHandoverSize {
		return fmt.Errorf("read %s %s: longer than %d bytes", what, path, maxHandoverSize)
	}
	if err := canon.Unmarshal(b[:n], v); err != nil {
		return fmt.Errorf("decode %s %s: %w", what, path, err)
	}
	return nil
}

// Duration returns how long the step took.
func (s Step) Duration() time.Duration { return time.Duration(s.Millis) * time.Millisecond }
