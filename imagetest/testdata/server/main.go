// Server is a static Go program without anything around it: it serves a page that
// tells what it finds itself in.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"runtime"
	"time"
)

func main() {
	name, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	started := time.Now()
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "go %s on %s, pid %d, up %s\n", runtime.Version(), name, os.Getpid(), time.Since(started).Round(time.Second))
	})
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: 10 * time.Second}
	fmt.Println("serving on port 8080")
	log.Fatal(server.ListenAndServe())
}
