// Command meter is what bench/run measures with: the same program on the host, in a
// micro-VM, and as process 1 of a plain machine, so that what differs is what is around
// it. Each measure prints one line, "result " and MB/s (of 10^6 bytes).
//
//	seq FILE MS        reads a file from its beginning again and again, after once to warm it
//	rand FILE MS       reads 4 KiB at random places of it
//	cold FILE          reads it once, from wherever it is
//	write FILE MIB     writes a file and waits until it is on the disk
//	direct FILE MS     reads a file past this kernel's page cache
//	recv ADDRESS       takes one TCP connection and reads to its end
//	send ADDRESS MS    fills a TCP connection
//	hello              prints a line with the time, CLOCK_MONOTONIC in ns, and waits
package main

import (
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() == 1 && len(os.Args) > 0 && os.Args[0] == "/init" {
		if err := machine(); err != nil {
			fmt.Println("meter:", err)
		}
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		return
	}
	if err := do(os.Args[1:], os.Stdout); err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
}

// do takes one measure.
func do(args []string, out io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("no measure named")
	}
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	number, _ := strconv.Atoi(arg(2))
	length := time.Duration(number) * time.Millisecond
	var bytes int64
	var took time.Duration
	var err error
	switch args[0] {
	case "seq":
		bytes, took, err = sequential(arg(1), length)
	case "rand":
		bytes, took, err = random(arg(1), length)
	case "cold":
		began := time.Now()
		bytes, err = through(arg(1), make([]byte, 1<<20), 0)
		took = time.Since(began)
	case "write":
		bytes, took, err = write(arg(1), number)
	case "direct":
		bytes, took, err = direct(arg(1), length)
	case "recv":
		bytes, took, err = receive(arg(1), out)
	case "send":
		bytes, took, err = send(arg(1), length)
	case "hello":
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			return err
		}
		fmt.Fprintln(out, "hello", now.Nano())
		for {
			time.Sleep(time.Hour)
		}
	default:
		return fmt.Errorf("no measure %q", args[0])
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "result %.3f\n", float64(bytes)/1e6/took.Seconds())
	return err
}

// through reads a file once.
func through(path string, buf []byte, flags int) (n int64, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	for {
		m, err := unix.Read(fd, buf)
		if err != nil {
			return n, fmt.Errorf("read %s: %w", path, err)
		}
		if m == 0 {
			return n, nil
		}
		n += int64(m)
	}
}

func sequential(path string, length time.Duration) (n int64, took time.Duration, err error) {
	buf := make([]byte, 128<<10)
	if _, err := through(path, buf, 0); err != nil {
		return 0, 0, err
	}
	return again(length, func() (int64, error) { return through(path, buf, 0) })
}

// again repeats f until length has passed.
func again(length time.Duration, f func() (int64, error)) (n int64, took time.Duration, err error) {
	for began := time.Now(); took < length; took = time.Since(began) {
		m, err := f()
		if err != nil {
			return n, took, err
		}
		n += m
	}
	return n, took, nil
}

func random(path string, length time.Duration) (n int64, took time.Duration, err error) {
	buf := make([]byte, 4096)
	if _, err := through(path, make([]byte, 1<<20), 0); err != nil {
		return 0, 0, err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, 0, err
	}
	r := rand.New(rand.NewSource(1))
	return again(length, func() (n int64, err error) {
		for range 256 {
			m, err := unix.Pread(fd, buf, r.Int63n(st.Size/4096)*4096)
			if err != nil {
				return n, err
			}
			n += int64(m)
		}
		return n, nil
	})
}

func write(path string, mib int) (int64, time.Duration, error) {
	_ = os.Remove(path)
	buf := make([]byte, 1<<20)
	_, _ = rand.New(rand.NewSource(2)).Read(buf)
	began := time.Now()
	f, err := os.Create(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	for range mib {
		if _, err := f.Write(buf); err != nil {
			return 0, 0, err
		}
	}
	if err := f.Sync(); err != nil {
		return 0, 0, err
	}
	return int64(mib) << 20, time.Since(began), nil
}

func direct(path string, length time.Duration) (int64, time.Duration, error) {
	buf := make([]byte, 260<<10)
	at := 4096 - int(uintptr(unsafe.Pointer(&buf[0]))%4096)
	return again(length, func() (int64, error) { return through(path, buf[at:at+256<<10], unix.O_DIRECT) })
}

// receive counts from the first byte to the last.
func receive(address string, out io.Writer) (n int64, took time.Duration, err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return 0, 0, err
	}
	defer l.Close()
	fmt.Fprintln(out, "listens")
	c, err := l.Accept()
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	var began time.Time
	for {
		m, err := c.Read(buf)
		if m > 0 && began.IsZero() {
			began = time.Now()
		}
		n += int64(m)
		if err == io.EOF {
			return n, time.Since(began), nil
		}
		if err != nil {
			return n, 0, err
		}
	}
}

func send(address string, length time.Duration) (n int64, took time.Duration, err error) {
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	return again(length, func() (int64, error) {
		m, err := c.Write(buf)
		return int64(m), err
	})
}
