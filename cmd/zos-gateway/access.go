package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/zero-os/zos/gateway"
	"github.com/zero-os/zos/gateway/control"
)

// sendAccess turns records into lines and gives them to the daemon, until ctx ends.
func sendAccess(ctx context.Context, from *gateway.AccessLog, to *control.Process) error {
	for {
		records, err := from.Take(ctx, control.MaxLines)
		if err != nil {
			return err
		}
		for _, r := range records {
			l := control.LogLine{Contract: r.Contract, Workload: r.Workload, Line: lineOf(r)}
			if err := to.Log(ctx, l); err != nil {
				return err
			}
		}
	}
}

// lineOf writes a record as key=value pairs; what a client chose is quoted.
func lineOf(r gateway.Record) []byte {
	_, name, _ := strings.Cut(r.Route, "/")
	_, name, _ = strings.Cut(name, "/")
	var b strings.Builder
	fmt.Fprintf(&b, "%s route=%s client=%s backend=%s outcome=%s in=%d out=%d took=%s",
		r.Time.UTC().Format("2006-01-02T15:04:05.000Z"), name, r.Client, orDash(r.Backend), r.Outcome, r.In, r.Out, r.Duration.Round(100*time.Microsecond))
	if r.Method != "" || r.Status != 0 {
		fmt.Fprintf(&b, " status=%d request=%s", r.Status, strconv.QuoteToASCII(r.Method+" "+r.Host+r.Path))
	}
	if r.Lost > 0 {
		fmt.Fprintf(&b, " lost=%d", r.Lost)
	}
	line := b.String()
	if len(line) > control.MaxLine {
		line = line[:control.MaxLine]
	}
	return []byte(line)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
