// Command payload is the program of workloads in the soak runs.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	args := append(os.Args[1:], "", "", "")
	switch args[0] {
	case "serve":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, unix.SIGTERM)
		serve(count())
		<-stop
		fmt.Println("asked to end")
	case "stubborn":
		signal.Ignore(unix.SIGTERM)
		serve(count())
		select {}
	case "crash": // twice
		n := count()
		if n <= 2 {
			exit(args[1])
		}
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, unix.SIGTERM)
		serve(n)
		<-stop
	case "exit":
		count()
		exit(args[1])
	case "hog":
		count()
		hog()
	case "fill":
		count()
		fmt.Println(fill("/big"))
		os.Exit(1)
	case "panic": // of a privileged one's guest
		fmt.Println(os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0))
	default:
		hostile(args)
	}
}

func exit(code string) {
	n, _ := strconv.Atoi(code)
	os.Exit(n)
}

// count is the number of this run, kept in the writable layer as databases do.
func count() int {
	b, err := os.ReadFile("/count")
	if err != nil && !os.IsNotExist(err) {
		fmt.Println("count:", err)
	}
	f, err := os.OpenFile("/count", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err == nil {
		_, err = f.WriteString(".")
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		fmt.Println("count:", err)
	}
	f.Close()
	// What the plan gives it.
	var given []string
	for i := range 4 {
		file, _ := os.ReadFile(fmt.Sprintf("/etc/given-%d", i))
		secret, _ := os.ReadFile(fmt.Sprintf("/run/secrets/s-%d", i))
		given = append(given, string(file)+string(secret)+os.Getenv(fmt.Sprintf("SECRET_%d", i)))
	}
	fmt.Printf("run %d given %s\n", len(b)+1, strings.Join(given, ","))
	return len(b) + 1
}

func serve(int) {
	go func() {
		s := &http.Server{Addr: ":8080", ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "well") })}
		fmt.Println(s.ListenAndServe())
		os.Exit(70)
	}()
}

func hog() {
	var keep [][]byte
	for {
		b := make([]byte, 4<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		keep = append(keep, b)
		if len(keep) > 1<<20 {
			return
		}
	}
}

func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for {
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
}
