package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/zero-os/zos/problem"
)

// codeForms are the ways in which sources write problem codes. What is passed
// on in a variable is found where the variable gets its value.
var codeForms = []*regexp.Regexp{
	regexp.MustCompile(`problem\.New\("([a-z][a-z-]*)"[,)]`),
	regexp.MustCompile(`fresh\([a-zA-Z.]+, "([a-z][a-z-]*)"`),
	regexp.MustCompile(`refuse\("([a-z][a-z-]*)"`),
	regexp.MustCompile(`\bCode: +"([a-z][a-z-]*)"`),
	regexp.MustCompile(`(?m)^\s*(?:const )?(?:[cC]ode|Reason|Problem)[A-Z]\w* += +"([a-z][a-z-]*)"`),
	regexp.MustCompile(`\bcode(?:, \w+)? :?= "([a-z][a-z-]*)"`),
}

// sourceCodes finds every problem code in the tree, with a place of each.
func sourceCodes(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, kind := range []string{"account", "group", "farm", "contract", "proposal", "node"} {
		found[kind+"-unknown"] = "client/names.go" // made of two parts there
	}
	err := filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "test/") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, form := range codeForms {
			for _, m := range form.FindAllStringSubmatch(string(b), -1) {
				found[m[1]] = path
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// documented reads the table: code and exit code of every row, in order.
func documented(t *testing.T) (codes []string, exit map[string]int) {
	t.Helper()
	b, err := os.ReadFile("../../docs/reference/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	exit = map[string]int{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| [^|]+ \\| [^|]+ \\| ([0-9]+) \\|$").FindAllStringSubmatch(string(b), -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := exit[m[1]]; twice {
			t.Errorf("code %s has two rows", m[1])
		}
		codes, exit[m[1]] = append(codes, m[1]), n
	}
	return codes, exit
}

func TestEveryCodeInTheTreeIsDocumentedWithItsExitCode(t *testing.T) {
	found := sourceCodes(t)
	if len(found) < 100 {
		t.Fatalf("only %d codes found: the search is broken", len(found))
	}
	codes, exit := documented(t)
	if !slices.IsSorted(codes) {
		t.Error("the rows of docs/reference/errors.md are not sorted by code")
	}
	for code, where := range found {
		if _, ok := exit[code]; !ok {
			t.Errorf("%s: code %s has no row in docs/reference/errors.md, or one without an exit code", where, code)
		}
	}
	for code, want := range exit {
		if _, ok := found[code]; !ok && code != "usage" {
			t.Errorf("docs/reference/errors.md has code %s, which no source has", code)
		}
		var err error = problem.New(code, "test")
		if code == "usage" {
			err = usageError{fmt.Errorf("test")}
		}
		if got := exitCode(err); got != want {
			t.Errorf("code %s ends with %d, docs/reference/errors.md says %d", code, got, want)
		}
	}
	for code := range exits {
		if _, ok := exit[code]; !ok {
			t.Errorf("exit.go has code %s, which nothing gives", code)
		}
	}
}
