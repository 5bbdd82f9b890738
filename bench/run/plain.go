package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// plainMachine is the peer: QEMU as one would write its line by hand, with the same
// kernel, board and memory, every device that isn't needed left out, and nothing around
// it. Its process 1 takes orders over the serial port.
type plainMachine struct {
	dir     string
	monitor *exec.Cmd
	serial  net.Conn
	lines   *bufio.Scanner
	hello   time.Duration // until process 1 had printed
}

type plainOptions struct {
	initrd string
	disks  []string // raw, writable
	erofs  string   // one more, read-only; "" for none
	tap    string   // an interface of the network namespace of this thread; "" for none
	within []string // a command that enters a namespace and runs the rest; nil for none
}

func (p *parts) startPlain(ctx context.Context, o plainOptions) (m *plainMachine, err error) {
	m = &plainMachine{}
	if m.dir, err = os.MkdirTemp(p.dir, "plain-"); err != nil {
		return nil, err
	}
	defer func(m *plainMachine) {
		if err != nil {
			m.stop()
		}
	}(m)
	socket := filepath.Join(m.dir, "serial")
	l, err := listen(socket)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	args := append(o.within, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35,smm=off,vmport=off,hpet=off,smbus=off,sata=off,usb=off",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-m", fmt.Sprint(guestMemory>>20), "-smp", "1",
		"-kernel", p.kernel, "-initrd", o.initrd, "-append", "console=ttyS0 quiet loglevel=1 panic=-1",
		"-chardev", "socket,id=serial,fd=3,server=on,wait=on", "-serial", "chardev:serial")
	for i, d := range o.disks {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,format=raw,file=%s", i, d), "-device", fmt.Sprintf("virtio-blk-pci,drive=d%d", i))
	}
	if o.erofs != "" {
		args = append(args, "-drive", "if=none,id=ro,format=raw,readonly=on,file="+o.erofs, "-device", "virtio-blk-pci,drive=ro")
	}
	if o.tap != "" {
		args = append(args, "-netdev", "tap,id=n,script=no,downscript=no,ifname="+o.tap, "-device", "virtio-net-pci,netdev=n,romfile=,mac="+guestMAC)
	}
	began := time.Now()
	if m.monitor, err = spawn(args, []*os.File{l}, nil); err != nil {
		return nil, err
	}
	if m.serial, err = (&net.Dialer{}).DialContext(ctx, "unix", socket); err != nil {
		return nil, err
	}
	m.lines = bufio.NewScanner(m.serial)
	if _, err := m.wait("hello"); err != nil {
		return nil, err
	}
	m.hello = time.Since(began)
	if o.initrd != p.hello {
		_, err = m.wait("ready")
	}
	return m, err
}

// wait reads up to a line with want in it.
func (m *plainMachine) wait(want string) (string, error) {
	_ = m.serial.SetReadDeadline(time.Now().Add(patience))
	for m.lines.Scan() {
		// The firmware may have left something on the line.
		switch line := strings.TrimSpace(m.lines.Text()); {
		case strings.Contains(line, want):
			return line, nil
		case strings.Contains(line, "failed"), strings.Contains(line, "meter:"):
			return "", errors.New(line)
		}
	}
	return "", fmt.Errorf("the plain machine did not say %q: %w", want, errors.Join(io.ErrUnexpectedEOF, m.lines.Err()))
}

// measure is microVM.measure.
func (m *plainMachine) measure(started func(), args ...string) (float64, error) {
	if _, err := fmt.Fprintln(m.serial, strings.Join(args, " ")); err != nil {
		return 0, err
	}
	if started != nil {
		if _, err := m.wait("listens"); err != nil {
			return 0, err
		}
		started()
	}
	line, err := m.wait("result ")
	if err != nil {
		return 0, err
	}
	return result(line)
}

func (m *plainMachine) stop() {
	if m.serial != nil {
		_ = m.serial.Close()
	}
	if m.monitor != nil {
		_ = m.monitor.Process.Kill()
		_ = m.monitor.Wait()
	}
	_ = os.RemoveAll(m.dir)
}
