package wireguard

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

// tunnel is the plaintext side of a userspace device: a TUN interface that was
// made inside the router namespace and never was anywhere else. It ends with
// its last descriptor.
type tunnel struct {
	tun.Device
	mtu     int
	in, out *gate // packets towards the tenant, and from it

	// The kernel hands out what a workload sends in pieces of up to 64 KiB, which
	// wireguard-go's TUN cuts into up to 128 packets at once. They are read into
	// memory of our own, so that wireguard-go need not hold 128 buffers of 64 KiB
	// for each of its readers. Only what was once written to is resident.
	arena   []byte
	packets [][]byte
	sizes   []int
	waiting int // packets[waiting:count] are yet to be handed on
	count   int
	err     error // of the read that gave them
}

// batch is how many packets wireguard-go takes at once, from either side.
const batch = 32

// MTU is asked for on any thread; wireguard-go's own would look for the
// interface in that thread's namespace.
func (t *tunnel) MTU() (int, error) { return t.mtu, nil }

func (t *tunnel) BatchSize() int { return batch }

// Read is called from one goroutine.
func (t *tunnel) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	t.out.wait()
	if t.waiting == t.count {
		t.waiting = 0
		t.count, t.err = t.Device.Read(t.packets, t.sizes, 0)
	}
	n := min(len(bufs), t.count-t.waiting)
	for i := range n {
		sizes[i] = copy(bufs[i][offset:], t.packets[t.waiting][:t.sizes[t.waiting]])
		t.waiting++
	}
	t.out.enter(n)
	if t.waiting < t.count {
		return n, nil
	}
	return n, t.err
}

// Write is called from many goroutines.
func (t *tunnel) Write(bufs [][]byte, offset int) (int, error) {
	defer t.in.leave(len(bufs))
	return t.Device.Write(bufs, offset)
}

// free gives the memory back. Nothing may be reading any more.
func (t *tunnel) free() {
	if t.arena != nil {
		unix.Munmap(t.arena)
		t.arena, t.packets = nil, nil
	}
}

// newTunnel makes the interface and sets it up.
func newTunnel(ns int, name string, mtu int, in, out *gate) (*tunnel, error) {
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
	const most = 1 << 16 // a packet, however large somebody sets the MTU
	t := &tunnel{Device: device, mtu: mtu, in: in, out: out, packets: make([][]byte, conn.IdealBatchSize), sizes: make([]int, conn.IdealBatchSize)}
	if t.arena, err = unix.Mmap(-1, 0, most*len(t.packets), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE); err != nil {
		device.Close()
		return nil, fmt.Errorf("get memory for packets: %w", err)
	}
	// Huge pages would make all of it resident.
	if err := unix.Madvise(t.arena, unix.MADV_NOHUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) {
		t.free()
		device.Close()
		return nil, fmt.Errorf("get memory for packets: %w", err)
	}
	for i := range t.packets {
		t.packets[i] = t.arena[i*most : (i+1)*most : (i+1)*most]
	}
	return t, nil
}
