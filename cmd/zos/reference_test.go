package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/reference/cli.md anew")

// reference writes every verb with its flags, as --help shows them.
func reference(root *cobra.Command) []byte {
	var b bytes.Buffer
	fmt.Fprint(&b, "# Command line\n\nGenerated from the program: `go test ./cmd/zos -run TestReference -update`. Exit codes and error codes are in\n[errors.md](errors.md).\n")
	// Paths beside the program differ from machine to machine.
	exe, err := os.Executable()
	if err != nil {
		panic(err) // a test binary knows where it is
	}
	here := strings.NewReplacer(filepath.Dir(exe), "BIN", filepath.Dir(filepath.Dir(exe)), "BIN/..")
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			return
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", c.CommandPath(), text(c))
		if c.Runnable() && !c.HasSubCommands() {
			fmt.Fprintf(&b, "\n```\n%s\n```\n", c.UseLine())
		}
		if c.Example != "" {
			fmt.Fprintf(&b, "\n```sh\n%s\n```\n", dedent(c.Example))
		}
		flags := c.LocalFlags()
		if c.HasParent() {
			flags = c.NonInheritedFlags()
		}
		if usage := flags.FlagUsages(); usage != "" {
			fmt.Fprintf(&b, "\n```\n%s```\n", here.Replace(usage))
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return b.Bytes()
}

// text is a verb's long help; its indented lines become code.
func text(c *cobra.Command) string {
	if c.Long == "" {
		return c.Short + "."
	}
	var b strings.Builder
	code := false
	for line := range strings.Lines(strings.TrimSpace(c.Long) + "\n") {
		if in := strings.HasPrefix(line, "  "); in != code && strings.TrimSpace(line) != "" {
			b.WriteString("```\n")
			code = in
		}
		b.WriteString(line)
	}
	if code {
		b.WriteString("```\n")
	}
	return strings.TrimSpace(b.String())
}

func dedent(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}

func TestReferenceOfTheCommandLineIsCurrent(t *testing.T) {
	const path = "../../docs/reference/cli.md"
	a := &app{out: io.Discard, err: io.Discard}
	root := a.root()
	root.InitDefaultHelpCmd()
	want := reference(root)
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is stale (%v); write it anew: go test ./cmd/zos -run TestReference -update", path, err)
	}
}

// Every verb says what it does, and shows an example where it takes more than a
// name.
func TestEveryVerbExplainsItself(t *testing.T) {
	a := &app{out: io.Discard, err: io.Discard}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.Short[:1] != strings.ToUpper(c.Short[:1]) {
			t.Errorf("%s: the short help is %q", c.CommandPath(), c.Short)
		}
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			if len(strings.TrimSpace(line)) > 100 {
				t.Errorf("%s: a line of %d characters: %s", c.CommandPath(), len(line), line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(a.root())
}
