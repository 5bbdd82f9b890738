//go:build !invm

package wireguard

import (
	"context"
	"os"
	"runtime"
	"strings"
	"testing"
)

// TestDevicesLeaveNothingInTheProcess: no descriptor, no goroutine and no
// mapping, however often devices come and go.
func TestDevicesLeaveNothingInTheProcess(t *testing.T) {
	a, b := newSites(t)
	cycle := func() {
		var d [2]Device
		for i, s := range []*site{a, b} {
			var err error
			d[i], err = s.host.New(context.Background(), s.config(Config{Engine: Userspace, RelayOnly: i == 1}, a))
			must(t, err)
			must(t, d[i].SetPeer(s.peerOf([]*site{b, a}[i])))
		}
		for _, d := range d {
			must(t, d.Close())
		}
		// A device with a host of its own, and one that fails half way.
		c := a.config(Config{Engine: Userspace}, b)
		must(t, within(a.hostNS, func() error {
			d, err := New(context.Background(), c)
			if err != nil {
				return err
			}
			return d.Close()
		}))
		c.Name = "lo"
		if _, err := a.host.New(context.Background(), c); err == nil {
			t.Fatal("an interface named lo was made")
		}
	}
	cycle()
	files, goroutines, maps := usage(t)
	for range 5 {
		cycle()
	}
	eventually(t, "descriptors, goroutines and mappings are as before", func() bool {
		runtime.GC()
		f, g, m := usage(t)
		// The runtime has mappings of that size too, but makes few; 15 devices came
		// and went.
		return f <= files && g <= goroutines && m < maps+8
	})
}

// usage counts open files, goroutines, and mappings of the size of a tunnel's.
func usage(t *testing.T) (files, goroutines, maps int) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	smaps, err := os.ReadFile("/proc/self/smaps")
	must(t, err)
	return len(open), runtime.NumGoroutine(), strings.Count(string(smaps), "Size:               8192 kB")
}
