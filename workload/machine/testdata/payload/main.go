// Command payload is the program of workloads in tests.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	args := append(os.Args[1:], "", "")
	switch args[0] {
	case "print":
		fmt.Println(args[1])
	case "exit":
		n, _ := strconv.Atoi(args[1])
		fmt.Println("exits with", n)
		os.Exit(n)
	case "balloon": // how many pages the kernel has handed back to its node
		b, _ := os.ReadFile("/proc/vmstat")
		n := 0
		for line := range strings.Lines(string(b)) {
			var by int
			if _, err := fmt.Sscanf(line, "balloon_inflate %d", &by); err == nil {
				n += by
			}
			if _, err := fmt.Sscanf(line, "balloon_deflate %d", &by); err == nil {
				n -= by
			}
		}
		fmt.Println(n)
	case "panic": // a privileged one owns its guest
		fmt.Println("panics", os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0))
	case "serve":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		b, _ := os.ReadFile("/count")
		n := len(b) + 1
		if err := write("/count", append(b, '.')); err != nil {
			fmt.Println("write:", err)
		}
		fmt.Println("run", n, "secret", os.Getenv("SECRET"))
		<-c
		fmt.Println("asked to end")
	}
}

// write returns when the file is on the disk, as databases do.
func write(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}
