package netlab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openTAP makes a TAP device in the namespace of the calling thread. The device
// lives as long as the file. Without a header for offloads the kernel hands
// over frames as they would be on a wire: cut to size, checksums filled in.
func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err == nil {
		// Only now: the poller takes a TAP without a device for broken.
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make TAP device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "tap "+name), nil
}

// setCarrier plugs the cable of a TAP device in or out.
func setCarrier(f *os.File, on bool) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	value := 0
	if on {
		value = 1
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetPointerInt(int(fd), unix.TUNSETCARRIER, value)
	}); err != nil {
		return err
	}
	return failed
}
