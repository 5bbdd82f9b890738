package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/spec/plan"
)

func shopRoute() control.Route {
	return control.Route{Host: "shop.grid.example", Mode: plan.ModeTerminate, Contract: canon.Sum([]byte("c"))}
}

const shopName = "_acme-challenge.shop.grid.example"

// An authority is told to look only when this node's name server has the record, and
// others had their time.
func TestARecordIsAwaitedAtTheNameServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		texts := newTexts()
		var asked []control.RecordRequest
		c := newChallenges(func(_ context.Context, r control.RecordRequest) error {
			asked = append(asked, r)
			if len(asked) == 1 {
				return errors.New("the ledger is away for a moment")
			}
			return nil
		}, texts)
		c.serve([]control.Route{shopRoute()})
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- c.Present(t.Context(), shopName, "one") }()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		texts.set(map[string][]string{shopName: {"another"}})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("it does not wait: %v", err)
		default:
		}
		texts.set(map[string][]string{shopName: {"another", "one"}})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 10*time.Second+recordSettle {
			t.Errorf("it took %s", took)
		}
		want := control.RecordRequest{Contract: canon.Sum([]byte("c")), Name: shopName, Text: "one"}
		if len(asked) != 2 || asked[0] != want || asked[1] != want {
			t.Errorf("asked for %+v", asked)
		}
		if err := c.CleanUp(t.Context(), shopName, "one"); err != nil {
			t.Fatal(err)
		}
		want.Absent = true
		if asked[2] != want {
			t.Errorf("asked for %+v", asked[2])
		}
	})
}

func TestARecordThatNeverComesEndsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChallenges(func(context.Context, control.RecordRequest) error { return nil }, newTexts())
		c.serve([]control.Route{shopRoute()})
		began := time.Now()
		if err := c.Present(t.Context(), shopName, "one"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != recordTimeout {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		// A daemon that does not answer holds up neither an order nor the process' end.
		hung := newChallenges(func(ctx context.Context, _ control.RecordRequest) error { <-ctx.Done(); return ctx.Err() }, newTexts())
		hung.serve([]control.Route{shopRoute()})
		began = time.Now()
		if err := hung.CleanUp(t.Context(), shopName, "one"); err == nil || time.Since(began) != cleanTimeout {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestNoRecordIsAskedForWhatDoesNotEndHere(t *testing.T) {
	asked := 0
	c := newChallenges(func(context.Context, control.RecordRequest) error { asked++; return nil }, newTexts())
	passed, broken, second := shopRoute(), shopRoute(), shopRoute()
	passed.Host, passed.Mode = "app.grid.example", plan.ModePassthrough
	broken.Host, broken.Problem = "old.grid.example", "name-expired it ended"
	second.Host = "app.grid.example" // the first one has it
	c.serve([]control.Route{passed, broken, second, {Mode: plan.ModeTCP, Port: 5432}})
	for _, name := range []string{"_acme-challenge.app.grid.example", "_acme-challenge.old.grid.example", shopName, "", "_acme-challenge."} {
		if err := c.Present(t.Context(), name, "x"); err == nil {
			t.Errorf("%s: a record was asked for", name)
		}
	}
	if asked > 0 {
		t.Errorf("the daemon was asked %d times", asked)
	}
}
