package imagetest

import (
	"testing"
)

func TestMake(t *testing.T) {
	for _, n := range Names() {
		t.Run(n, func(t *testing.T) { Get(t, n) })
	}
}
