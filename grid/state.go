package grid

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// State is what a running grid tells others about itself, in up.json of its
// directory.
type State struct {
	PID    int               `json:"pid"`
	Dir    string            `json:"dir"`
	Grid   string            `json:"grid"` // 64 hex digits
	Env    map[string]string `json:"env"`  // what to export to talk to the grid
	HubDir string            `json:"hub_dir"`
	URLs   URLs              `json:"urls"`
	Nodes  []NodeState       `json:"nodes"`
	Ready  bool              `json:"ready"` // every node has joined and reconciles
}

// URLs are the grid's services on this machine.
type URLs struct {
	Ledger     string   `json:"ledger"`
	Witness    string   `json:"witness"`
	Hub        string   `json:"hub"`
	Boot       string   `json:"boot"`
	Rendezvous []string `json:"rendezvous"`
}

// NodeState is one node and its machine.
type NodeState struct {
	Name     string `json:"name"`
	Slot     string `json:"slot"` // 64 hex digits
	Identity string `json:"identity"`
	PID      int    `json:"pid"`           // of QEMU; another one after every power-on
	Disk     string `json:"disk"`          // raw image; empty without one
	TPM      string `json:"tpm,omitempty"` // swtpm's state directory
	Segment  string `json:"segment"`       // socket of the node's layer-2 segment
	Console  string `json:"console"`       // what its serial line printed
	Boots    int    `json:"boots"`         // power-ons by this grid
	// Public is where on this host's loopback the node's public addresses are
	// reached, like 198.51.100.8:443/tcp; empty if it is no gateway.
	Public map[string]string `json:"public,omitempty"`
}

// ReadState reads what the grid in a directory last said.
func ReadState(dir string) (State, error) {
	var s State
	b, err := os.ReadFile(filepath.Join(dir, "up.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if err != nil {
		return s, fmt.Errorf("read the grid's state: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read the grid's state %s: %w", dir, err)
	}
	return s, nil
}

func (d dir) writeState(s State) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the grid's state: %w", err)
	}
	tmp := d.state() + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the grid's state: %w", err)
	}
	if err := os.Rename(tmp, d.state()); err != nil {
		return fmt.Errorf("write the grid's state: %w", err)
	}
	return nil
}
