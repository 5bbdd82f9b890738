package asnode

import (
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/linux/reap"
)

const (
	// ExitsDir is where a node's process 1 records how orphans ended.
	ExitsDir = "/run/zos/exits"
	// RoleEnv says which role a test binary that starts itself again plays: ProcessOne
	// when it is not set.
	RoleEnv = "ZOS_TEST_ROLE"
	// RoleTests is the role of the process that ProcessOne starts.
	RoleTests = "tests"
)

// ProcessOne starts this program again in RoleTests, and until that ends reaps orphans
// and records them below ExitsDir, as a node's process 1 does. It returns the exit code
// for TestMain.
func ProcessOne() int {
	code, err := processOne()
	if err != nil {
		fmt.Println("process one:", err)
		return 1
	}
	return code
}

func processOne() (int, error) {
	if err := os.MkdirAll(ExitsDir, 0o755); err != nil {
		return 0, err
	}
	if err := process.BecomeSubreaper(); err != nil {
		return 0, err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	tests, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env: append(os.Environ(), RoleEnv+"="+RoleTests), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return 0, err
	}
	for {
		<-ended
		for {
			e, ok, err := reap.Next()
			if err != nil {
				return 0, err
			}
			if !ok {
				break
			}
			if e.PID == tests.Pid {
				return max(e.Code, e.Signal), nil
			}
			if err := reap.Record(ExitsDir, e); err != nil {
				return 0, err
			}
		}
	}
}
