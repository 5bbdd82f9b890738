// Command scan proves that nothing listens on a node: it attaches to the
// node's own layer-2 segment and probes every TCP and UDP port of every address.
//
//	go run ./vmtest/cmd/scan -segment S -control
//
// Exit codes: 0, the control port was found and the node answered nothing; 1,
// something is open, or the control was not found; 2, nothing can be said.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/zero-os/zos/vmtest/portscan"
)

func main() {
	os.Exit(run())
}

func run() int {
	o := portscan.Options{Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, "scan: "+format+"\n", args...) }}
	flag.StringVar(&o.Segment, "segment", "", "socket of the node's segment (zos up prints it)")
	flag.BoolVar(&o.Control, "control", false, "first find a port that is opened on purpose on the same segment")
	flag.StringVar(&o.MAC, "mac", "", "the node's MAC, if there are several machines on the segment")
	subnet := flag.String("subnet", "10.0.2.0/24", "where to look for the node")
	output := flag.String("o", "table", "table or json")
	timeout := flag.Duration("timeout", 10*time.Minute, "give up after this time")
	flag.Parse()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "scan:", err)
		return 2
	}
	var err error
	if o.Subnet, err = netip.ParsePrefix(*subnet); err != nil {
		return fail(err)
	}
	if o.Segment == "" || *output != "table" && *output != "json" || flag.NArg() > 0 {
		flag.Usage()
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	rep, err := portscan.Scan(ctx, o)
	if err != nil {
		return fail(err)
	}
	if *output == "json" {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(rep)
	} else {
		err = table(os.Stdout, rep)
	}
	if err != nil {
		return fail(err)
	}
	if !rep.OK {
		return 1
	}
	return 0
}

func table(w io.Writer, rep portscan.Report) error {
	var b strings.Builder
	line := func(what string, r portscan.Result, note string) {
		fmt.Fprintf(&b, "%-8s %-26s %-9s %-12d %-12d %-9s %-8.1f %s\n", what, r.Address, ports(r.TCPOpen), r.TCPClosed, r.TCPSilent, ports(r.UDPReplies), r.Seconds, note)
	}
	fmt.Fprintf(&b, "%-8s %-26s %-9s %-12s %-12s %-9s %-8s\n", "WHAT", "ADDRESS", "TCP OPEN", "TCP REFUSED", "TCP SILENT", "UDP", "SECONDS")
	if c := rep.Control; c != nil {
		note := "NOT FOUND"
		if c.Found {
			note = "found"
		}
		line("control", c.Result, fmt.Sprintf("opened tcp %d, udp %d: %s", c.TCPWanted, c.UDPWanted, note))
	}
	for _, r := range rep.Node {
		line("node", r, "")
	}
	verdict := "NOT SILENT"
	if rep.OK {
		verdict = "nothing listens"
	}
	fmt.Fprintln(&b, verdict)
	_, err := io.WriteString(w, b.String())
	return err
}

// ports lists the first few.
func ports(p []int) string {
	if len(p) > 5 {
		return fmt.Sprintf("%d ports", len(p))
	}
	if len(p) == 0 {
		return "0"
	}
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(p), " ", ","), "[]")
}
