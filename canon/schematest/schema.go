// Package schematest keeps the schemas in docs/reference and the structs that are
// encoded the same. It is test support only.
package schematest

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Rules of a schema that are maps or groups, as they are written in these files: the
// name, a line for each field, the end.
var rule = regexp.MustCompile(`(?m)^([a-z-]+) = [{(]\n((?:  .*\n)*)[})]$`)

// Compare fails t unless each rule of the schema docs/reference/FILE below root names
// exactly the fields of its struct in bodies, in their order. An embedded struct is the
// group "header". It returns the maps and groups of the schema that bodies does not name.
func Compare(t testing.TB, root, file string, bodies map[string]any) (rest []string) {
	t.Helper()
	rules := read(t, filepath.Join(root, "docs", "reference", file))
	for name, body := range bodies {
		if want := fields(reflect.TypeOf(body)); !slices.Equal(rules[name], want) {
			t.Errorf("rule %s has %v, the struct %v", name, rules[name], want)
		}
		delete(rules, name)
	}
	for name := range rules {
		rest = append(rest, name)
	}
	return rest
}

func read(t testing.TB, file string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string][]string{}
	for _, m := range rule.FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(m[2]) {
			if strings.HasPrefix(line, "   ") || strings.HasPrefix(line, "  }") {
				continue // of a map inside
			}
			name, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			name, _, _ = strings.Cut(name, ",")
			rules[m[1]] = append(rules[m[1]], name)
		}
	}
	return rules
}

func fields(typ reflect.Type) []string {
	var names []string
	for f := range typ.Fields() {
		if f.Anonymous {
			names = append(names, "header")
		} else {
			names = append(names, f.Tag.Get("cbor"))
		}
	}
	return names
}
