package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/certs"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/spec/plan"
)

// Waits of a challenge.
const (
	// recordTimeout bounds how long the ledger's word may take to this node's own name
	// server.
	recordTimeout = time.Minute
	// recordSettle is how much later the other gateways may have it: nodes read the
	// domain every 5 s, of a head that may be some blocks old.
	recordSettle = 10 * time.Second
	// cleanTimeout bounds how long a record is tried to be taken away: the process may
	// be about to end.
	cleanTimeout = 10 * time.Second
	// recordTries bounds how often the ledger is asked: it may be away for a moment.
	recordTries = 3
)

// challenges puts records under the grid's domain, through the daemon and the
// ledger. It implements certs.Challenges.
type challenges struct {
	record func(context.Context, control.RecordRequest) error
	texts  *texts // that the name server answers
	settle time.Duration

	mu     sync.Mutex
	owners map[string]canon.Hash // whose contract's host ends its TLS here
}

var _ certs.Challenges = (*challenges)(nil)

func newChallenges(record func(context.Context, control.RecordRequest) error, texts *texts) *challenges {
	return &challenges{record: record, texts: texts, settle: recordSettle}
}

// serve replaces the hosts that are served.
func (c *challenges) serve(routes []control.Route) {
	owners, seen := map[string]canon.Hash{}, map[string]bool{}
	for _, r := range routes {
		if r.Host == "" || r.Problem != "" || seen[r.Host] {
			continue // the first one has it
		}
		seen[r.Host] = true
		if r.Mode == plan.ModeTerminate {
			owners[r.Host] = r.Contract
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owners = owners
}

func (c *challenges) ask(ctx context.Context, name, text string, absent bool, tries int) error {
	c.mu.Lock()
	owner, ok := c.owners[strings.TrimPrefix(name, contract.ChallengeLabel)]
	c.mu.Unlock()
	if !ok {
		return fmt.Errorf("%s is not served any more", name)
	}
	var err error
	for i := range tries {
		if err = c.record(ctx, control.RecordRequest{Contract: owner, Name: name, Text: text, Absent: absent}); err == nil || i == tries-1 {
			break
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return err
}

// Present implements certs.Challenges.
func (c *challenges) Present(ctx context.Context, name, text string) error {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	if err := c.ask(ctx, name, text, false, recordTries); err != nil {
		return fmt.Errorf("put a record at %s: %w", name, err)
	}
	if err := c.texts.await(ctx, name, text); err != nil {
		return fmt.Errorf("put a record at %s: it is on the ledger, and this node's name server has not got it: %w", name, err)
	}
	select {
	case <-time.After(c.settle):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// CleanUp implements certs.Challenges. What it can't take away expires by itself.
func (c *challenges) CleanUp(ctx context.Context, name, text string) error {
	ctx, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	return c.ask(ctx, name, text, true, 1)
}
