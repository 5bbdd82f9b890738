package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Setting is one value below /proc/sys/net.
type Setting struct {
	Path  string // such as "ipv4/conf/eth0/forwarding"
	Value string
	// Optional settings may be missing in the kernel.
	Optional bool
}

// Set writes settings of the namespace that the calling thread is in; those that
// have the value already are left alone.
func Set(settings ...Setting) error {
	for _, s := range settings {
		// The kernel looks net up for the thread that opens it.
		path := filepath.Join("/proc/sys/net", s.Path)
		have, err := os.ReadFile(path)
		if s.Optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && bytes.Equal(bytes.Join(bytes.Fields(have), []byte(" ")), []byte(s.Value)) {
			continue
		}
		if err := os.WriteFile(path, []byte(s.Value), 0); err != nil {
			return fmt.Errorf("set net/%s to %s: %w", s.Path, s.Value, err)
		}
	}
	return nil
}
