package process

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Security is what the kernel enforces on a process, from /proc/<pid>/status.
type Security struct {
	Seccomp      int // 0 off, 1 strict, 2 filter
	NoNewPrivs   bool
	Capabilities uint64 // union of inheritable, permitted, effective, bounding and ambient sets
	Zombie       bool
}

// ReadSecurity reads it for pid; a zombie that is not yet reaped still answers.
func ReadSecurity(pid int) (Security, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Security{}, fmt.Errorf("read status of process %d: %w", pid, err)
	}
	return parseSecurity(b)
}

func parseSecurity(b []byte) (Security, error) {
	var s Security
	seen := false
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		name, value, ok := strings.Cut(sc.Text(), ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		switch name {
		case "State":
			s.Zombie = strings.HasPrefix(value, "Z") || strings.HasPrefix(value, "X")
		case "Seccomp":
			n, err := strconv.Atoi(value)
			if err != nil {
				return s, fmt.Errorf("parse process status: Seccomp: %w", err)
			}
			s.Seccomp, seen = n, true
		case "NoNewPrivs":
			s.NoNewPrivs = value == "1"
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
			n, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return s, fmt.Errorf("parse process status: %s: %w", name, err)
			}
			s.Capabilities |= n
		}
	}
	if !seen {
		return s, fmt.Errorf("parse process status: no Seccomp line: the kernel has no seccomp")
	}
	return s, nil
}
