// Program tries to leave the workload that it runs in, and prints what it found. It
// is test support: package escape says what is expected, this says what happens.
//
//	program attempts     one JSON object a line: {"name": …, "got": …, "detail": …}
//	program probe        what surrounds it, one line each, sorted
//	program all          the probe, a line "probed", the attempts: where starts take long
//	program attempt N    one attempt by name
//
// It has no arguments that name what to attack: everything it tries is harmless if it
// is denied, and marks or removes what it made if it is not.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// attemptTime bounds one attempt: one that hangs is reported so, and ended.
const attemptTime = 20 * time.Second

type result struct {
	Name   string `json:"name"`
	Got    string `json:"got"`
	Detail string `json:"detail,omitempty"`
}

func main() {
	// Namespaces, filters and capabilities belong to threads.
	runtime.LockOSThread()
	if len(os.Args) < 2 {
		os.Args = append(os.Args, "attempts")
	}
	// Some attempts succeed for root on a machine: they would change its addresses, its
	// mounts, its clock. The workload's image has this program and nothing else.
	if _, err := os.Stat("/etc/passwd"); err == nil && os.Args[1] != "probe" {
		fmt.Fprintln(os.Stderr, "escape: there is an /etc/passwd here: this runs only in a workload made of it alone")
		os.Exit(1)
	}
	switch os.Args[1] {
	case "attempts":
		runAll()
	case "attempt":
		got, detail := attempts()[os.Args[2]]()
		fmt.Printf("%s\t%s", got, detail)
	case "all":
		for _, line := range probe() {
			fmt.Println(line)
		}
		fmt.Println("probed")
		// In the same process, which may be the first of its namespace, and without
		// the descriptors and threads that the probe needed.
		fmt.Println("exec:", unix.Exec("/proc/self/exe", []string{os.Args[0], "attempts"}, os.Environ()))
	case "probe":
		for _, line := range probe() {
			fmt.Println(line)
		}
		fmt.Println("end")
	}
}

// runAll runs all attempts, each on a thread of its own that ends with it: what it
// changed of namespaces, rights and filters, and of root and working directory, goes
// with it. A process for each would take minutes where processors are emulated.
func runAll() {
	all := attempts()
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	sort.Strings(names) // by which what is left of "setns" and the like comes after "leak"
	enc := json.NewEncoder(os.Stdout)
	for _, name := range names {
		r := result{Name: name}
		done := make(chan result, 1)
		go func() {
			runtime.LockOSThread() // never unlocked
			// Where a filter denies this, it denies all that would need it.
			_ = unix.Unshare(unix.CLONE_FS)
			got, detail := all[name]()
			done <- result{name, got, detail}
		}()
		select {
		case r = <-done:
		case <-time.After(attemptTime):
			r.Got = "hang"
		}
		_ = enc.Encode(r)
	}
	fmt.Println("end")
}
