// Command payload is the program of workloads in tests.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	args := append(os.Args[1:], "", "")
	switch args[0] {
	case "print":
		fmt.Println(args[1])
	case "exit":
		n, _ := strconv.Atoi(args[1])
		os.Exit(n)
	case "serve":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		b, _ := os.ReadFile("/count")
		n := len(b) + 1
		if err := os.WriteFile("/count", append(b, '.'), 0o644); err != nil {
			fmt.Println("write:", err)
		}
		fmt.Println("run", n, "secret", os.Getenv("SECRET"))
		<-c
		fmt.Println("asked to end")
	}
}
