package wireguard

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// tunnel is the plaintext side of a userspace device: a TUN interface that was
// made inside the router namespace and never was anywhere else. It ends with
// its last descriptor.
type tunnel struct {
	tun.Device
	mtu int
}

// MTU is asked for on any thread; wireguard-go's own would look for the
// interface in that thread's namespace.
func (t *tunnel) MTU() (int, error) { return t.mtu, nil }

// newTunnel makes the interface and sets it up.
func newTunnel(ns int, name string, mtu int) (*tunnel, error) {
	fd := -1
	err := within(ns, func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return fmt.Errorf("make a TUN interface: %w", err)
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find the new TUN interface: %w", err)
		}
		return errors.Join(netlink.LinkSetMTU(link, mtu), netlink.LinkSetUp(link))
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, err
	}
	// Unmonitored: the interface is ours alone, so nobody sets it down or
	// changes its MTU behind our back, and no goroutine need look every second.
	device, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &tunnel{Device: device, mtu: mtu}, nil
}
