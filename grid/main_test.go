package grid

import (
	"os"
	"testing"

	"github.com/zero-os/zos/netlab/netnode"
)

func TestMain(m *testing.M) {
	netnode.Main()
	os.Exit(m.Run())
}
