// Command payload is what the containers of this package's tests run.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	switch os.Args[1] {
	case "serve": // says who it is, at a port that only a privileged user had
		ln, err := net.Listen("tcp", ":80")
		fmt.Println("listening:", err)
		for err == nil {
			c, err := ln.Accept()
			if err != nil {
				break
			}
			name, _ := os.Hostname()
			fmt.Fprintf(c, "this is %s", name)
			c.Close()
		}
	case "call": // asks each of the others until it answers
		for _, at := range os.Args[2:] {
			for {
				c, err := net.DialTimeout("tcp", at, 2*time.Second)
				if err != nil {
					fmt.Println("waiting:", err)
					time.Sleep(200 * time.Millisecond)
					continue
				}
				b, _ := io.ReadAll(c)
				c.Close()
				fmt.Printf("%s: %s\n", at, b)
				break
			}
		}
		report()
		time.Sleep(time.Hour)
	}
}

// report prints what this container is and may.
func report() {
	out := map[string]string{}
	status, _ := os.ReadFile("/proc/self/status")
	for l := range strings.Lines(string(status)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.HasPrefix(k, "Cap") {
			out[k] = strings.TrimSpace(v)
		}
	}
	for _, f := range []string{"/etc/resolv.conf", "/etc/hosts", "/sys/class/net/eth0/mtu"} {
		b, err := os.ReadFile(f)
		out[f] = string(b)
		if err != nil {
			out[f] = err.Error()
		}
	}
	entries, err := os.ReadDir("/sys/class/net")
	out["sysfs"] = fmt.Sprint(names(entries), err)
	ifs, _ := net.Interfaces()
	for _, i := range ifs {
		addrs, _ := i.Addrs()
		out["interface "+i.Name] = fmt.Sprint(addrs)
	}
	out["write resolv.conf"] = fmt.Sprint(os.WriteFile("/etc/resolv.conf", []byte("nameserver 192.0.2.1\n"), 0o644))
	out["write sysfs"] = fmt.Sprint(os.WriteFile("/sys/class/net/eth0/mtu", []byte("1000"), 0))
	out["write sysctl"] = fmt.Sprint(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	out["link down"] = fmt.Sprint(linkDown())
	_, err = syscall.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0x0300)
	out["packet socket"] = fmt.Sprint(err)
	_, err = syscall.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	out["raw socket"] = fmt.Sprint(err)
	_, err = syscall.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	out["ping socket"] = fmt.Sprint(err)
	out["user namespace"] = fmt.Sprint(unix.Unshare(unix.CLONE_NEWUSER | unix.CLONE_NEWNET))
	_, err = net.DialTimeout("tcp", "203.0.113.9:80", time.Second)
	out["outside"] = fmt.Sprint(err)
	net1, _ := os.Readlink("/proc/self/ns/net")
	out["namespace"] = net1
	b, _ := json.Marshal(out)
	fmt.Printf("%s\n", b)
}

func names(entries []os.DirEntry) (out []string) {
	for _, e := range entries {
		if e.Name() != "bonding_masters" {
			out = append(out, e.Name())
		}
	}
	return out
}

// linkDown asks the kernel to switch eth0 off.
func linkDown() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("eth0")
	if err != nil {
		return err
	}
	r.SetUint16(0)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}
