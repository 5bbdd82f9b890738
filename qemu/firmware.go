package qemu

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/zero-os/zos/problem"
)

// ovmf finds Debian's UEFI firmware: code that is shared, and the template of
// the variables that each machine gets a copy of.
func ovmf() (code, vars string, err error) {
	const dir = "/usr/share/OVMF/"
	for _, f := range [][2]string{{"OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"}, {"OVMF_CODE.fd", "OVMF_VARS.fd"}} {
		if fileExists(dir+f[0]) && fileExists(dir+f[1]) {
			return dir + f[0], dir + f[1], nil
		}
	}
	return "", "", problem.New("tool-missing", "no UEFI firmware in %s", dir).WithFix("sudo apt-get install ovmf")
}

// privateVars returns this machine's own UEFI variables, which live on in dir.
func privateVars(dir, template string) (string, error) {
	path := filepath.Join(dir, "uefi-vars.fd")
	if fileExists(path) {
		return path, nil
	}
	b, err := os.ReadFile(template)
	if err != nil {
		return "", fmt.Errorf("copy UEFI variables: %w", err)
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return "", fmt.Errorf("copy UEFI variables: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", fmt.Errorf("copy UEFI variables: %w", err)
	}
	return path, nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
