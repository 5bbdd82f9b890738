package qemu

import (
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/zero-os/zos/problem"
)

// startTPM starts swtpm with its state in dir, and returns QEMU's end of their
// connection. swtpm ends when QEMU does.
func startTPM(dir string, output io.Writer) (*child, *os.File, error) {
	bin, err := exec.LookPath("swtpm")
	if err != nil {
		return nil, nil, problem.New("tool-missing", "emulate a TPM: %w", err).WithFix("run: sudo make deps")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("emulate a TPM: %w", err)
	}
	swtpms, qemus, err := socketPair("tpm")
	if err != nil {
		return nil, nil, err
	}
	defer swtpms.Close()
	cmd := exec.Command(bin, "socket", "--tpm2", "--tpmstate", "dir="+dir+",mode=0600",
		"--ctrl", "type=unixio,clientfd=3", "--flags", "startup-clear", "--terminate")
	cmd.ExtraFiles = []*os.File{swtpms}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Dir = dir
	c, err := spawn(cmd)
	if err != nil {
		qemus.Close()
		return nil, nil, fmt.Errorf("emulate a TPM: %w", err)
	}
	return c, qemus, nil
}
