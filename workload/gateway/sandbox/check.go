package sandbox

import (
	"errors"
	"fmt"

	"github.com/zero-os/zos/linux/process"
)

// Check tells whether a process is confined, by the kernel's word: without any
// capability, without a way to new ones, with a filter of system calls.
func Check(pid int) error {
	s, err := process.ReadSecurity(pid)
	if err != nil {
		return err
	}
	switch {
	case s.Zombie:
		return errors.New("it has ended")
	case s.Capabilities != 0:
		return fmt.Errorf("it has capabilities %#x", s.Capabilities)
	case !s.NoNewPrivs:
		return errors.New("it may get new privileges")
	case s.Seccomp != 2:
		return errors.New("its system calls are not filtered")
	}
	return nil
}
