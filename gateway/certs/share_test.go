package certs

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// asked counts what a Store is asked, and takes its time.
type asked struct {
	Store
	values sync.Map
	gets   atomic.Int64
}

func (a *asked) Get(_ context.Context, key string) ([]byte, error) {
	a.gets.Add(1)
	time.Sleep(time.Millisecond)
	if v, ok := a.values.Load(key); ok {
		return v.([]byte), nil
	}
	return nil, fs.ErrNotExist
}

func (a *asked) Put(_ context.Context, key string, value []byte) error {
	a.values.Store(key, value)
	return nil
}

func TestAFloodOfChallengesKeepsNoAuthorityFromItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		store := &asked{}
		m.Set([]Publication{{ID: "shop", Hosts: []string{"www.shop.test"}, Store: store}})
		ask := func(token string) bool {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodGet, "http://www.shop.test"+challengePath+token, nil)
			return m.ServeChallenge(w, r) && w.Body.String() == "right.key"
		}
		flood := func() {
			for i := range 500 {
				if ask(fmt.Sprint("wrong-", i)) {
					t.Fatal("a wrong token is answered")
				}
			}
		}
		flood()
		c := acme.Challenge{Type: acme.ChallengeTypeHTTP01, Token: "right", KeyAuthorization: "right.key", Identifier: acme.Identifier{Type: "dns", Value: "www.shop.test"}}
		if err := (storeSolver{store}).Present(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery + time.Millisecond) // of a clock that is the test's
		flood()
		if !ask("right") {
			t.Error("whoever floods a host's challenges keeps it from a certificate")
		}
		if n := store.gets.Load(); n > 50 {
			t.Errorf("the store was asked %d times", n)
		}
	})
}

func TestOnePublicationDoesNotOrderForAll(t *testing.T) {
	m, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("a%02d.greedy.test", i))
	}
	m.Set([]Publication{{ID: "greedy", Hosts: many, Store: &asked{}}, {ID: "shop", Hosts: []string{"www.shop.test"}, Store: &asked{}}})
	due, _ := m.due(maxOrders)
	of := map[string]int{}
	for _, e := range due {
		of[e.publication]++
	}
	if of["shop"] != 1 || of["greedy"] != maxOrdersOf {
		t.Errorf("orders of %v", of)
	}
	if due, _ := m.due(maxOrders); len(due) != 0 {
		t.Errorf("%d more", len(due))
	}
}
