// Package zram makes a block device of compressed memory, on which a machine
// without a disk keeps its store: file systems on it have what tmpfs lacks.
package zram

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Device is the first zram device, which the module makes when it is loaded.
const Device = "/dev/zram0"

// Setup configures the first zram device to hold size bytes, rounded down to
// 4 KiB, compressed with the first algorithm that the kernel has.
//
// The device is limited by its size, never by mem_limit: a file system on a full
// device says ENOSPC, one on a device over its memory limit loses what it
// acknowledged at fsync.
func Setup(size uint64, algorithms ...string) error {
	return setup("/sys/block/zram0", size, algorithms)
}

func setup(dir string, size uint64, algorithms []string) error {
	if cur, err := os.ReadFile(filepath.Join(dir, "disksize")); err != nil {
		return fmt.Errorf("set up zram: %w", err)
	} else if s := strings.TrimSpace(string(cur)); s != "0" {
		// A try before this one got this far: begin again.
		if err := write(dir, "reset", "1"); err != nil {
			return err
		}
	}
	have, err := os.ReadFile(filepath.Join(dir, "comp_algorithm"))
	if err != nil {
		return fmt.Errorf("set up zram: %w", err)
	}
	known := strings.Fields(strings.NewReplacer("[", " ", "]", " ").Replace(string(have)))
	for _, a := range algorithms {
		if slices.Contains(known, a) {
			if err := write(dir, "comp_algorithm", a); err != nil {
				return err
			}
			break
		}
	}
	return write(dir, "disksize", strconv.FormatUint(size&^4095, 10))
}

func write(dir, name, value string) error {
	if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o200); err != nil {
		return fmt.Errorf("set up zram: set %s to %s: %w", name, value, err)
	}
	return nil
}
