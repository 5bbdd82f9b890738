package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
)

// foundAgain is what the test of package container says.
var foundAgain = regexp.MustCompile(`measured: (\d+) found again in (\d+) us`)

// found runs the test in which a daemon that starts anew finds a hundred shims, on this
// host: real shims and records, but their programs are in no container. The test fails
// if one of them was started again.
func (b *bench) found(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-run", "^TestAHundredAreFoundAgainWithinTwoSeconds$", "./workload/container")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	m := foundAgain.FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("the test says nothing: %v\n%s", err, out)
	}
	many, errMany := strconv.Atoi(string(m[1]))
	us, errTime := strconv.Atoi(string(m[2]))
	if errMany != nil || errTime != nil {
		return fmt.Errorf("read %q", m[0])
	}
	b.Add("workloads found by a zosd that is started again, this host", fmt.Sprintf("%d in %.2f s", many, float64(us)/1e6), "100 in ≤ 2 s, 0 restarts", err == nil && many >= 100 && us <= 2e6)
	return nil
}
