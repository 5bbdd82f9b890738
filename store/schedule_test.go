package store

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func TestDemandIsLetInBeforeBulkThatCameFirst(t *testing.T) {
	s := &scheduler{total: 4}
	ctx := t.Context()
	var held []Priority
	for range 3 { // all that bulk work may have
		p, err := s.acquire(ctx, newLane(Bulk))
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, p)
	}
	got := make(chan string, 3)
	var wg sync.WaitGroup
	enter := func(name string, l *lane, waiting int) {
		wg.Go(func() {
			p, err := s.acquire(ctx, l)
			if err != nil {
				got <- err.Error()
				return
			}
			got <- name
			s.release(p)
		})
		if waiting >= 0 { // until it stands in line
			for {
				s.mu.Lock()
				n := len(s.waiting)
				s.mu.Unlock()
				if n == waiting {
					return
				}
			}
		}
	}
	late := newLane(Bulk)
	enter("bulk", newLane(Bulk), 1)
	enter("raised", late, 2)
	enter("demand", newLane(Demand), -1)
	if x := <-got; x != "demand" {
		t.Fatalf("%s came first, want the demand, for which a slot is kept free", x)
	}
	s.raise(late)
	if x := <-got; x != "raised" {
		t.Fatalf("%s came second, want the one that became urgent", x)
	}
	for _, p := range held {
		s.release(p)
	}
	if x := <-got; x != "bulk" {
		t.Fatalf("%s came last", x)
	}
	wg.Wait()
	if s.demands != 0 || s.bulks != 0 || len(s.waiting) != 0 {
		t.Fatalf("not empty at the end: %+v", s)
	}
}

func TestGivingUpASlotLeaksNone(t *testing.T) {
	s := &scheduler{total: 2}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			go cancel()
			if p, err := s.acquire(ctx, newLane(Priority(i%2))); err == nil {
				s.release(p)
			}
		})
	}
	wg.Wait()
	if s.demands != 0 || s.bulks != 0 || len(s.waiting) != 0 {
		t.Fatalf("not empty at the end: %+v", s)
	}
}

func TestFailuresAreBoundedAndCancellationIsNone(t *testing.T) {
	f := &Fetcher{store: &Store{log: discard()}, tracked: map[canon.Hash]*tracker{}}
	for i := range maxFailures + 10 {
		f.settle(canon.Sum([]byte(strconv.Itoa(i))), problem.New(CodeObjectMissing, "x"))
	}
	if n := len(f.Failures(canon.Hash{})); n != maxFailures {
		t.Fatalf("%d failures are remembered, want %d", n, maxFailures)
	}
	if _, ok := f.Failure(canon.Sum([]byte("0"))); ok {
		t.Fatal("the oldest is still there")
	}
	d := canon.Sum([]byte("new"))
	f.settle(d, context.Canceled)
	if _, ok := f.Failure(d); ok {
		t.Fatal("a fetch that nobody wanted any more counts as failed")
	}
	f.settle(d, errors.New("odd"))
	if x, ok := f.Failure(d); !ok || x.Code != "internal" {
		t.Fatalf("%+v", x)
	}
	f.settle(d, nil)
	if _, ok := f.Failure(d); ok || len(f.failures.order) != len(f.failures.by) {
		t.Fatal("a success did not clear its failure")
	}
}
