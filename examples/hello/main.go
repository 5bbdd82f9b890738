// Command hello is the first image of a grid: it says one line and waits.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	host, err := os.Hostname()
	if err != nil {
		host = "a node"
	}
	greeting := os.Getenv("GREETING")
	if greeting == "" {
		greeting = "hello"
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	fmt.Printf("%s from %s, approved by its group\n", greeting, host)
	<-stop
	fmt.Println("bye")
}
