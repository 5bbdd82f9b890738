package nettest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/zero-os/zos/netlab/netnode"
)

func TestMain(m *testing.M) {
	netnode.Main()
	goleak.VerifyTestMain(m)
}
