package client

import (
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// TestAnotherStatementUnderAnIdIsRefused plays validators who put another key
// under a person's id.
func TestAnotherStatementUnderAnIdIsRefused(t *testing.T) {
	id := canon.Sum([]byte("red"))
	if err := sameID("account", id, id); err != nil {
		t.Fatal(err)
	}
	if err := sameID("account", canon.Sum([]byte("another")), id); problem.Code(err) != "record-mismatch" {
		t.Fatalf("%v", err)
	}
}
