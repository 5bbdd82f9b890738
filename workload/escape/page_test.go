//go:build !invm

package escape

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThePageNamesTestsThatExist: every promise of docs/reference/isolation.md names a
// test, or says that there is none.
func TestThePageNamesTestsThatExist(t *testing.T) {
	const root = "../.."
	page, err := os.ReadFile(filepath.Join(root, "docs/reference/isolation.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	begin := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "build" || d.Name() == ".git"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(path)
		for _, m := range begin.FindAllSubmatch(b, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`\bTest[A-Z]\w+`)
	for _, n := range name.FindAllString(string(page), -1) {
		if !tests[n] {
			t.Errorf("the page names %s, which is no test", n)
		}
	}
	promises := 0
	for _, section := range strings.Split(string(page), "**Promised**")[1:] {
		section, _, _ = strings.Cut(section, "**Not promised**")
		for _, promise := range strings.Split(section, "\n- ")[1:] {
			promises++
			if !name.MatchString(promise) && !strings.Contains(promise, "*not tested*") {
				t.Errorf("no test is named for: %s", promise)
			}
		}
	}
	if promises < 20 {
		t.Errorf("the page has %d promises: this test no longer finds them", promises)
	}
}
