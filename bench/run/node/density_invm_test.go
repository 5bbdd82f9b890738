//go:build invm

package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

func TestDensity(t *testing.T)           { density(t, plan.IsolationNamespace, number("BENCH_MANY", 50)) }
func TestDensityOfMicroVMs(t *testing.T) { density(t, plan.IsolationMicroVM, number("BENCH_MANY", 10)) }

// density starts many of one image of Debian. All must say something, none may be killed.
func density(t *testing.T, isolation string, many int) {
	k := newKind(t, isolation == plan.IsolationMicroVM) // what runs ends with the node
	free, began := meminfo(t)["MemAvailable"], time.Now()
	var all []workload.Desired
	tell := func() {
		alive := 0
		for _, d := range all {
			if st := status(t, d.ID); st.Process.Alive() && st.Restarts == 0 {
				alive++
			}
		}
		m := meminfo(t)
		report("density-"+isolation, float64(alive), "of", float64(len(all)), "s", time.Since(began).Seconds(),
			"used", free-m["MemAvailable"], "available", m["MemAvailable"], "total", m["MemTotal"])
	}
	for n := range many {
		d := desire(t, fmt.Sprintf("%s-%d", isolation, n), isolation, "/bin/sh", "-c", "cat /etc/debian_version; echo hello; exec sleep 100000")
		must(t, k.Ensure(bounded(t), d))
		output(t, k, d.ID, "hello")
		all = append(all, d)
		if isolation == plan.IsolationMicroVM || n%10 == 9 {
			tell() // the last line counts
		}
	}
	tell()
}
