// Command hello is the least that can be process 1: what booting a kernel costs by itself.
package main

import "time"

func main() {
	println("hello")
	for {
		time.Sleep(time.Hour)
	}
}
