package wireguard

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"
)

// userspace is a device of wireguard-go. It is driven through the text protocol
// of wireguard-go's configuration, which is its one public interface; no socket
// is made for it.
type userspace struct {
	name   string
	public Key
	bind   *bind
	tunnel *tunnel
	dev    *device.Device
	done   chan struct{} // closed by Close: nothing waits for room any more
	end    sync.Once

	mu    sync.RWMutex
	peers map[Key]Peer
}

func newUserspace(h *Host, c Config) (*userspace, error) {
	if err := deleteLink(c.NetNS, c.Name); err != nil {
		return nil, err
	}
	d := &userspace{name: c.Name, public: c.PrivateKey.Public(), peers: map[Key]Peer{}, done: make(chan struct{})}
	in, out := newGate(maxInside, inPatience, d.done), newGate(maxInside, outPatience, d.done)
	out.stuck = d.dropStaged
	var err error
	if d.tunnel, err = newTunnel(c.NetNS, c.Name, c.MTU, in, out); err != nil {
		return nil, err
	}
	d.bind = newBind(h.ns, &c, in, out)
	d.dev = device.NewDevice(d.tunnel, d.bind, logTo(c.Logger.With("interface", c.Name)))
	if err := d.dev.IpcSet(fmt.Sprintf("private_key=%x\nlisten_port=%d\n", c.PrivateKey[:], c.port)); err != nil {
		d.Close()
		return nil, fmt.Errorf("set the private key: %w", err)
	}
	if err := d.dev.Up(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

const (
	// maxInside packets are in wireguard-go in each direction, each in a buffer
	// of 64 KiB: 16 MiB. 32 more are in each of its four readers: 8 MiB.
	maxInside = 256
	// A processor that is busy elsewhere gives each goroutine its turn within
	// some 10 ms.
	inPatience = 50 * time.Millisecond
	// Shorter, because packets to a peer that does not answer come to this often.
	outPatience = 10 * time.Millisecond
)

// dropStaged drops what waits for handshakes. wireguard-go keeps 128 batches for
// each peer that does not answer, for 90 seconds.
func (d *userspace) dropStaged() {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for key := range d.peers {
		if p := d.dev.LookupPeer(device.NoisePublicKey(key)); p != nil {
			p.FlushStagedPackets()
		}
	}
}

// logTo gives wireguard-go's words to the logger; all but errors are for
// developers.
func logTo(l *slog.Logger) *device.Logger {
	return &device.Logger{
		Verbosef: device.DiscardLogf, // some of it is said for every packet
		Errorf:   func(format string, args ...any) { l.Debug("wireguard-go: " + fmt.Sprintf(format, args...)) },
	}
}

func (d *userspace) Name() string   { return d.name }
func (d *userspace) Engine() Engine { return Userspace }
func (d *userspace) Port() uint16   { return uint16(d.bind.port.Load()) }
func (d *userspace) PublicKey() Key { return d.public }

// closed tells whether the device ended: by Close, or because its router
// namespace, and with it the TUN interface, did.
func (d *userspace) closed() bool {
	select {
	case <-d.dev.Wait():
		return true
	default:
		return false
	}
}

// set changes one peer, which must be there unless it is being added.
func (d *userspace) set(peer Key, update bool, lines ...string) error {
	if d.closed() {
		return fmt.Errorf("set peer %s of %s: %w", peer, d.name, net.ErrClosed)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "public_key=%x\n", peer[:])
	if update {
		b.WriteString("update_only=true\n")
	}
	for _, l := range lines {
		b.WriteString(l)
		b.WriteByte('\n')
	}
	if err := d.dev.IpcSet(b.String()); err != nil {
		return fmt.Errorf("set peer %s of %s: %w", peer, d.name, err)
	}
	return nil
}

func (d *userspace) SetPeer(p Peer) error {
	p, err := p.check(d.public)
	if err != nil {
		return fmt.Errorf("set peer of %s: %w", d.name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed() {
		return fmt.Errorf("set peer of %s: %w", d.name, net.ErrClosed)
	}
	old, known := d.peers[p.PublicKey]
	var lines []string
	if !known || p.PresharedKey != old.PresharedKey {
		lines = append(lines, "preshared_key="+hex.EncodeToString(p.PresharedKey[:]))
	}
	if !known {
		e := relayEndpoint(p.PublicKey)
		lines = append(lines, "endpoint="+e.DstToString())
	}
	if !known || p.Keepalive != old.Keepalive {
		lines = append(lines, fmt.Sprintf("persistent_keepalive_interval=%d", p.Keepalive/time.Second))
	}
	// Replacing takes all away for a moment, so not without need.
	if !known || !slices.Equal(p.AllowedIPs, old.AllowedIPs) {
		lines = append(lines, "replace_allowed_ips=true")
		for _, ip := range p.AllowedIPs {
			lines = append(lines, "allowed_ip="+ip.String())
		}
		for key, other := range d.peers {
			if key != p.PublicKey {
				d.peers[key] = other.without(p.AllowedIPs)
			}
		}
	}
	if len(lines) == 0 {
		return nil
	}
	if err := d.set(p.PublicKey, known, lines...); err != nil {
		return err
	}
	d.peers[p.PublicKey] = p
	return nil
}

func (d *userspace) RemovePeer(peer Key) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.peers[peer]; !ok {
		return nil
	}
	if err := d.set(peer, true, "remove=true"); err != nil {
		return err
	}
	delete(d.peers, peer)
	d.bind.holds.Delete(peer)
	return nil
}

// know fails when there is no such peer.
func (d *userspace) know(peer Key) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if _, ok := d.peers[peer]; !ok {
		return fmt.Errorf("peer %s of %s: %w", peer, d.name, fs.ErrNotExist)
	}
	return nil
}

func (d *userspace) SetPath(peer Key, direct netip.AddrPort) error {
	if err := d.know(peer); err != nil {
		return err
	}
	if !direct.IsValid() {
		d.bind.holds.Delete(peer)
		e := relayEndpoint(peer)
		return d.set(peer, true, "endpoint="+e.DstToString())
	}
	to, err := checkDirect(direct)
	if err != nil {
		return fmt.Errorf("set path of peer %s of %s: %w", peer, d.name, err)
	}
	if d.bind.only {
		return fmt.Errorf("set path of peer %s of %s to %s: the device is relay-only", peer, d.name, to)
	}
	d.bind.holds.Store(peer, hold{path: &directEndpoint{to: to}, until: time.Now().Add(holdTime)})
	return d.set(peer, true, "endpoint="+to.String())
}

func (d *userspace) FromRelay(peer Key, packet []byte) error {
	if err := d.know(peer); err != nil {
		return err
	}
	if len(packet) > MaxPacket {
		return fmt.Errorf("packet of %d bytes from the relay: want at most %d", len(packet), MaxPacket)
	}
	if d.closed() {
		return net.ErrClosed
	}
	d.bind.fromRelay(peer, packet)
	return nil
}

func (d *userspace) SendProbe(to netip.AddrPort, b []byte) error {
	if err := CheckProbe(b); err != nil {
		return err
	}
	to, err := checkDirect(to)
	if err != nil {
		return err
	}
	if d.closed() {
		return net.ErrClosed
	}
	return d.bind.sendProbe(to, b)
}

func (d *userspace) Stats() ([]PeerStats, error) {
	if d.closed() {
		return nil, fmt.Errorf("read peers of %s: %w", d.name, net.ErrClosed)
	}
	text, err := d.dev.IpcGet()
	if err != nil {
		return nil, fmt.Errorf("read peers of %s: %w", d.name, err)
	}
	stats, err := parseStats(text)
	if err != nil {
		return nil, fmt.Errorf("read peers of %s: %w", d.name, err)
	}
	return stats, nil
}

// parseStats reads the peers out of wireguard-go's description of a device.
func parseStats(text string) ([]PeerStats, error) {
	var out []PeerStats
	var seconds, nanos int64
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		if name == "public_key" {
			b, err := hex.DecodeString(value)
			if err != nil || len(b) != len(Key{}) {
				return nil, fmt.Errorf("public key %.80q", value)
			}
			out = append(out, PeerStats{PublicKey: Key(b)})
			seconds, nanos = 0, 0
		}
		if len(out) == 0 {
			continue // the device itself
		}
		p := &out[len(out)-1]
		var err error
		switch name {
		case "endpoint":
			if p.Relayed = strings.HasPrefix(value, relayPrefix); !p.Relayed {
				p.Endpoint, err = netip.ParseAddrPort(value)
			}
		case "last_handshake_time_sec":
			seconds, err = strconv.ParseInt(value, 10, 64)
		case "last_handshake_time_nsec":
			nanos, err = strconv.ParseInt(value, 10, 64)
		case "rx_bytes":
			p.RxBytes, err = strconv.ParseUint(value, 10, 64)
		case "tx_bytes":
			p.TxBytes, err = strconv.ParseUint(value, 10, 64)
		case "allowed_ip":
			var ip netip.Prefix
			ip, err = netip.ParsePrefix(value)
			p.AllowedIPs = append(p.AllowedIPs, ip)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if seconds != 0 || nanos != 0 {
			p.LastHandshake = time.Unix(seconds, nanos)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	sortStats(out)
	return out, nil
}

func sortStats(stats []PeerStats) {
	for i := range stats {
		slices.SortFunc(stats[i].AllowedIPs, netip.Prefix.Compare)
	}
	slices.SortFunc(stats, func(a, b PeerStats) int { return slices.Compare(a.PublicKey[:], b.PublicKey[:]) })
}

func (d *userspace) Close() error {
	d.end.Do(func() {
		close(d.done)
		d.dev.Close()
		<-d.dev.Wait() // it may have begun to close by itself
		d.tunnel.free()
	})
	return nil
}

// Leave cannot leave anything: the interface ends with its descriptor.
func (d *userspace) Leave() error { return d.Close() }

// deleteLink deletes the interface name in the namespace ns, if there is one.
func deleteLink(ns int, name string) error {
	routes, err := handleIn(ns)
	if err != nil {
		return err
	}
	defer routes.Close()
	link, err := findLink(routes, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := routes.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete the old interface: %w", err)
	}
	return nil
}
