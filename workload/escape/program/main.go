// Program tries to leave the workload that it runs in, and prints what it found. It
// is test support: package escape says what is expected, this says what happens.
//
//	program attempts     one JSON object a line: {"name": …, "got": …, "detail": …}
//	program probe        what surrounds it, one line each, sorted
//	program attempt N    one attempt by name, for attempts
//
// It has no arguments that name what to attack: everything it tries is harmless if it
// is denied, and marks or removes what it made if it is not.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sort"
	"strings"
	"time"
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
	switch os.Args[1] {
	case "attempts":
		runAll()
	case "attempt":
		got, detail := attempts()[os.Args[2]]()
		fmt.Printf("%s\t%s", got, detail)
	case "probe":
		for _, line := range probe() {
			fmt.Println(line)
		}
		fmt.Println("end")
	}
}

// runAll runs all attempts. One that would take its process elsewhere if it worked
// gets a process of its own; starting one takes long where processors are emulated.
func runAll() {
	all := attempts()
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	sort.Strings(names)
	enc := json.NewEncoder(os.Stdout)
	for _, name := range names {
		r := result{Name: name}
		switch kind, _, _ := strings.Cut(name, "/"); kind {
		case "mount", "root", "unshare", "setns", "rights", "vsock":
			r = runOne(name)
		default:
			done := make(chan result, 1)
			go func() {
				runtime.LockOSThread()
				got, detail := all[name]()
				done <- result{name, got, detail}
			}()
			select {
			case r = <-done:
			case <-time.After(attemptTime):
				r.Got = "hang"
			}
		}
		_ = enc.Encode(r)
	}
	fmt.Println("end")
}

// runOne makes one attempt in another process.
func runOne(name string) result {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "attempt", name)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	r := result{Name: name}
	switch got, detail, ok := strings.Cut(string(out), "\t"); {
	case ctx.Err() != nil:
		r.Got = "hang"
	case err != nil:
		r.Got, r.Detail = "killed", fmt.Sprintf("%v: %.200s", err, said.String())
	case !ok:
		r.Got, r.Detail = "killed", "it said nothing"
	default:
		r.Got, r.Detail = got, detail
	}
	return r
}
