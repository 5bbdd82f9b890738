// Command zos-gateway serves what a node publishes to the world. It is started by
// the node daemon, once on a gateway node, has no right over anything, and
// outlives the daemon.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "zos-gateway: it is started by the node daemon")
	os.Exit(1)
}
