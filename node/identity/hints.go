package identity

import (
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// maxHints bounds what Hints returns.
const maxHints = 16

// Hints returns what the machine says of itself, in the form in which farms
// declare it: "smbios:<uuid>" and "mac:<address>" of each physical interface,
// from sysfs (at sys, "/sys" in a node). What can't be read is left out.
func Hints(sys string) []string {
	var hints []string
	if uuid := line(filepath.Join(sys, "class/dmi/id/product_uuid")); uuid != "" {
		hints = append(hints, "smbios:"+strings.ToLower(uuid))
	}
	devices, _ := filepath.Glob(filepath.Join(sys, "class/net/*/device")) // the pattern is valid
	sort.Strings(devices)
	for _, d := range devices {
		if mac := line(filepath.Join(filepath.Dir(d), "address")); mac != "" && len(hints) < maxHints {
			hints = append(hints, "mac:"+strings.ToLower(mac))
		}
	}
	return hints
}

// line is the first line of a small file, or "".
func line(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 128))
	if err != nil {
		return ""
	}
	s, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(s)
}
