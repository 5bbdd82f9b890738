package netlab

import (
	"bufio"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/zero-os/zos/qemu/segment"
)

// machineQueue is how many frames wait for a machine that does not read.
const machineQueue = 1024

// Machine is where a virtual machine's network card plugs into a segment. QEMU
// connects to it whenever it starts, so a machine may be powered off and on.
type Machine struct {
	lab      *Lab
	name     string
	path     string
	listener *net.UnixListener
	port     *port
	queue    chan []byte

	mu     sync.Mutex
	seg    *Segment
	conn   net.Conn // nil while no machine is connected
	closed bool
}

// Machine makes a place for a virtual machine on the segment.
func (s *Segment) Machine(name string) *Machine {
	s.lab.tb.Helper()
	l := s.lab
	m := &Machine{lab: l, name: name, seg: s, path: filepath.Join(l.dir, name+".nic"), queue: make(chan []byte, machineQueue)}
	var err error
	if m.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: m.path, Net: "unix"}); err != nil {
		l.tb.Fatalf("netlab: machine %s: %v", name, err)
	}
	m.port = &port{name: name, write: func(f []byte) {
		select {
		case m.queue <- f:
		default: // a card whose ring is full
		}
	}}
	s.plug(m.port)
	done := make(chan struct{})
	l.work.Add(2)
	go m.accept()
	go m.write(done)
	l.onClose(func() error {
		err := m.listener.Close()
		close(done)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.closed = true
		if m.conn != nil {
			m.conn.Close()
		}
		return err
	})
	return m
}

// Machine makes a place for a virtual machine in the site.
func (s *Site) Machine(name string) *Machine {
	s.lab.tb.Helper()
	return s.LAN.Machine(name)
}

// Path is the unix socket to which QEMU's "-netdev stream" connects.
func (m *Machine) Path() string { return m.path }

// QEMUArgs are the arguments for a machine whose one card, with the hardware
// address, is here: Config.Extra of package qemu, its Network being nil. The
// machine boots from the network if it is told a boot file.
func (m *Machine) QEMUArgs(mac string) []string {
	return []string{
		"-netdev", "stream,id=nic,server=off,addr.type=unix,addr.path=" + m.path,
		"-device", "virtio-net-pci,netdev=nic,bootindex=0,mac=" + mac,
	}
}

// QEMUCard are the arguments for a further card of a machine, with the hardware
// address, that is here. The machine does not boot from it.
func (m *Machine) QEMUCard(id, mac string) []string {
	return []string{
		"-netdev", "stream,id=" + id + ",server=off,addr.type=unix,addr.path=" + m.path,
		"-device", "virtio-net-pci,netdev=" + id + ",romfile=,mac=" + mac,
	}
}

// Connected tells whether a machine is plugged in now.
func (m *Machine) Connected() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.conn != nil
}

// Move plugs the machine into another segment, without its noticing anything
// but that its neighbours have changed.
func (m *Machine) Move(s *Segment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seg.unplug(m.port)
	m.seg = s
	s.plug(m.port)
}

// Shape sets how the machine's cable treats frames: those that the machine
// sends, and those that it gets.
func (m *Machine) Shape(sent, got Shape) {
	m.mu.Lock()
	s := m.seg
	m.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	m.port.in.Shape, m.port.out.Shape = sent, got
}

// replace makes c the machine's connection; the one before it was a machine
// that has gone.
func (m *Machine) replace(c net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Close()
	}
	if m.closed {
		c.Close()
		return false
	}
	m.conn = c
	return true
}

func (m *Machine) accept() {
	defer m.lab.work.Done()
	for {
		c, err := m.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
				return
			}
			continue
		}
		if m.replace(c) {
			m.lab.work.Add(1)
			go m.read(c)
		}
	}
}

// read offers what the machine sends until it goes.
func (m *Machine) read(c net.Conn) {
	defer m.lab.work.Done()
	defer c.Close()
	r := bufio.NewReaderSize(c, 64<<10)
	for {
		f, err := segment.ReadFrame(r)
		if err != nil {
			break
		}
		m.mu.Lock()
		s := m.seg
		m.mu.Unlock()
		s.offer(m.port, f)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn == c {
		m.conn = nil
	}
}

func (m *Machine) write(done chan struct{}) {
	defer m.lab.work.Done()
	var buf []byte
	for {
		select {
		case <-done:
			return
		case f := <-m.queue:
			buf = segment.AppendFrame(buf[:0], f)
		}
		m.mu.Lock()
		c := m.conn
		m.mu.Unlock()
		if c != nil {
			_, _ = c.Write(buf) // the reader notices that it has gone
		}
	}
}
