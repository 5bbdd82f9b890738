// Command payload is what the containers of this package's tests run.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(64)
	}
	switch os.Args[1] {
	case "report":
		report()
		time.Sleep(time.Hour)
	case "serve": // numbered lines for ever
		for n := 1; ; n++ {
			if _, err := fmt.Printf("line %d\n", n); err != nil {
				os.Exit(70)
			}
			time.Sleep(20 * time.Millisecond)
		}
	case "sleep":
		time.Sleep(time.Hour)
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		fmt.Fprintf(os.Stderr, "exiting with %d\n", code)
		os.Exit(code)
	case "hog":
		hog()
	case "bomb":
		bomb()
	case "fill":
		fill(os.Args[2])
	case "flood":
		flood()
	default:
		asked(os.Args[1], os.Args[2:])
	case "append": // a line to a file, then how many it has
		appendLine(os.Args[2])
		time.Sleep(time.Hour)
	}
}

func report() {
	status, _ := os.ReadFile("/proc/self/status")
	out := map[string]any{}
	for _, l := range strings.Split(string(status), "\n") {
		if k, v, ok := strings.Cut(l, ":"); ok {
			out[k] = strings.TrimSpace(v)
		}
	}
	for _, f := range []string{"uid_map", "gid_map", "oom_score_adj"} {
		b, _ := os.ReadFile("/proc/self/" + f)
		out[f] = strings.Join(strings.Fields(string(b)), " ")
	}
	for _, f := range []string{"/proc/net/route", "/proc/net/ipv6_route", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory.swap.max", "/sys/fs/cgroup/memory.oom.group"} {
		b, _ := os.ReadFile(f)
		out[f] = strings.TrimSpace(string(b))
	}
	ifs, _ := net.Interfaces()
	names := []string{}
	for _, i := range ifs {
		names = append(names, i.Name)
	}
	out["interfaces"] = names
	_, err := net.DialTimeout("udp", "192.0.2.1:9", time.Second)
	out["dial"] = fmt.Sprint(err)
	out["hostname"], _ = os.Hostname()
	out["cwd"], _ = os.Getwd()
	out["env"] = os.Environ()
	out["uid"], out["gid"] = os.Getuid(), os.Getgid()
	out["write /"] = fmt.Sprint(os.WriteFile("/written", []byte("x"), 0o600))
	out["write /sys"] = fmt.Sprint(os.WriteFile("/sys/kernel/mm/ksm/run", []byte("0"), 0o600))
	out["write /proc/sys"] = fmt.Sprint(os.WriteFile("/proc/sys/kernel/hostname", []byte("x"), 0o600))
	out["mount"] = fmt.Sprint(unix.Mount("tmpfs", "/tmp", "tmpfs", 0, ""))
	out["userns"] = fmt.Sprint(unix.Unshare(unix.CLONE_NEWUSER))
	_, err = os.OpenFile("/dev/stdout", os.O_WRONLY, 0)
	out["open /dev/stdout"] = fmt.Sprint(err)
	dev, _ := filepath.Glob("/dev/*")
	out["dev"] = dev
	b, _ := json.Marshal(out)
	fmt.Printf("%s\n", b)
}

func hog() {
	var keep [][]byte
	for {
		b := make([]byte, 4<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		keep = append(keep, b)
	}
}

func bomb() {
	n := 0
	for {
		if err := exec.Command("/proc/self/exe", "sleep").Start(); err != nil {
			break
		}
		n++
	}
	fmt.Printf("forked %d\n", n)
	time.Sleep(time.Hour)
}

func fill(path string) {
	f, err := os.Create(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	buf := make([]byte, 256<<10)
	var n int
	for err == nil {
		var m int
		m, err = f.Write(buf)
		n += m
	}
	fmt.Printf("wrote %d, no space: %v\n", n, errors.Is(err, unix.ENOSPC))
	os.Exit(1)
}

func flood() {
	line := strings.Repeat("x", 99) + "\n"
	block := []byte(strings.Repeat(line, 300))
	for {
		if _, err := os.Stdout.Write(block); err != nil {
			os.Exit(1)
		}
	}
}

func appendLine(path string) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		_, err = f.WriteString("once more\n")
	}
	b, rerr := os.ReadFile(path)
	fmt.Printf("lines %d %v\n", strings.Count(string(b), "\n"), errors.Join(err, rerr))
}
