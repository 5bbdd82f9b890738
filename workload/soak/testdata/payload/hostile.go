package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// hostile are the neighbours' run: one who serves, and those who do what they can.
func hostile(args []string) {
	switch args[0] {
	case "victim":
		fmt.Println(victim())
	case "idle":
		time.Sleep(time.Hour)
	case "forks": // as many as there can be, for ever
		for {
			if exec.Command("/proc/self/exe", "idle").Start() != nil {
				runtime.Gosched()
			}
		}
	case "memory":
		hog()
	case "descriptors":
		descriptors()
	case "inodes":
		inodes()
	case "disk":
		for {
			_ = fill("/big")
			_ = os.Remove("/big")
		}
	case "logs":
		block := bytes.Repeat([]byte("a line that nobody needs, again and again and again\n"), 600)
		for {
			_, _ = os.Stdout.Write(block)
			_, _ = os.Stderr.Write(block)
		}
	case "io":
		saturate()
	case "cpu":
		runtime.GOMAXPROCS(8)
		for range 8 {
			go func() {
				for n := uint64(1); n != 0; n = n*6364136223846793005 + 1 {
				}
			}()
		}
		select {}
	default:
		os.Exit(64)
	}
	os.Exit(1)
}

// Of a request of the victim's.
const (
	pause    = 20 * time.Millisecond // between one and the next
	hashed   = 16 << 10              // bytes that an answer is computed from
	answered = 4096                  // bytes that it returns
)

// victim answers small requests, one after the other, and writes how long each took,
// by the client that asks, into a file: when it was over and how long it took, both in
// nanoseconds of the machine's monotonic clock. A request is a round trip over TCP, a
// digest, a read from a file of the writable layer and a line of an access log there.
func victim() error {
	out, err := os.Create("/tmp/latencies") // in memory
	if err != nil {
		return err
	}
	if err := os.WriteFile("/page", make([]byte, 1<<20), 0o644); err != nil {
		return err
	}
	page, err := os.Open("/page")
	if err != nil {
		return err
	}
	access, err := os.OpenFile("/access.log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		return err
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		work, ask, answer := make([]byte, hashed), make([]byte, 8), make([]byte, answered)
		for {
			if _, err := io.ReadFull(c, ask); err != nil {
				return
			}
			copy(work, ask)
			sum := sha256.Sum256(work)
			at := int64(binary.LittleEndian.Uint64(sum[:]) % (1<<20 - answered))
			_, rerr := page.ReadAt(answer, at)
			_, werr := fmt.Fprintf(access, "GET /%x 200\n", sum[:8])
			if err := errors.Join(rerr, werr); err != nil {
				fmt.Println(err)
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	}()
	c, err := net.Dial("tcp", "127.0.0.1:8080")
	if err != nil {
		return err
	}
	ask, answer, line := make([]byte, 8), make([]byte, answered), make([]byte, 16)
	for n := uint64(0); ; n++ {
		if n%(60*uint64(time.Second/pause)) == 0 {
			_ = access.Truncate(0)
		}
		binary.LittleEndian.PutUint64(ask, n)
		began := monotonic()
		if _, err := c.Write(ask); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			return err
		}
		ended := monotonic()
		binary.LittleEndian.PutUint64(line, uint64(ended))
		binary.LittleEndian.PutUint64(line[8:], uint64(ended-began))
		if _, err := out.Write(line); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// descriptors opens all that it may, lets go, and begins again.
func descriptors() {
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 524288, Max: 524288})
	for {
		var open []int
		for {
			var p [2]int
			if err := unix.Pipe(p[:]); err != nil {
				break
			}
			open = append(open, p[0], p[1])
		}
		for _, fd := range open {
			_ = unix.Close(fd)
		}
	}
}

// inodes makes files until there can be no more, deletes them, and begins again.
func inodes() {
	for {
		n := 0
		for ; ; n++ {
			f, err := os.Create(fmt.Sprintf("/f-%d", n))
			if err != nil {
				break
			}
			f.Close()
		}
		for ; n > 0; n-- {
			_ = os.Remove(fmt.Sprintf("/f-%d", n-1))
		}
	}
}

// saturate writes here and there, past the page cache and with it, and waits for the
// disk each time, in several threads.
func saturate() {
	runtime.GOMAXPROCS(4)
	for i := range 4 {
		go func() {
			flags := os.O_CREATE | os.O_RDWR
			if i%2 == 0 {
				flags |= unix.O_DIRECT
			}
			f, err := os.OpenFile(fmt.Sprintf("/io-%d", i), flags, 0o644)
			if err != nil {
				fmt.Println(err)
				return
			}
			raw, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
			if err != nil {
				return
			}
			for {
				n := 4096 << rand.IntN(9)
				if _, err := f.WriteAt(raw[:n], int64(rand.IntN(2000))*4096); err != nil {
					fmt.Println(err)
				}
				if i%2 == 1 {
					_ = f.Sync()
				}
			}
		}()
	}
	select {}
}
