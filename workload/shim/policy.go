package shim

import "fmt"

// again decides whether a container that ran and ended starts again.
func again(policy string, code int) bool {
	switch policy {
	case "always":
		return true
	case "on-failure":
		return code != 0
	}
	return false
}

// CheckPolicy tells whether policy is a restart policy.
func CheckPolicy(policy string) error {
	switch policy {
	case "always", "on-failure", "never":
		return nil
	}
	return fmt.Errorf("restart %q: want \"always\", \"on-failure\" or \"never\"", policy)
}
