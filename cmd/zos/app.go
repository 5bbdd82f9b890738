package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"

	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/problem"
)

// app is what every verb shares: where to write, and the global flags.
type app struct {
	out, err    io.Writer
	format      string
	as          string
	contextName string
	noColor     bool
	verbose     bool
}

// client opens the grid of the context.
func (a *app) client(ctx context.Context) (*client.Client, error) {
	config, err := client.OpenConfig()
	if err != nil {
		return nil, err
	}
	c, err := config.Load(a.contextName)
	if err != nil {
		return nil, err
	}
	return client.Open(ctx, config, c, a.logger())
}

// logger writes to standard error, warnings and worse unless -v.
func (a *app) logger() *slog.Logger {
	level := slog.LevelError
	if a.verbose {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
}

// progress tells a person on standard error what goes on.
func (a *app) progress(format string, args ...any) {
	fmt.Fprintf(a.err, format+"\n", args...)
}

// json writes v as the verb's data.
func (a *app) json(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// table writes rows under headings, or v as JSON with -o json.
func (a *app) table(v any, headings []string, rows [][]string) error {
	if a.format == "json" {
		return a.json(v)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(headings, "\t"))
	for _, r := range rows {
		for i := range r {
			r[i] = printable(r[i])
		}
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// printable keeps what others wrote from steering a person's terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '·'
		}
		return r
	}, s)
}

// printableLines is printable for text of several lines, with its tabs.
func printableLines(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexAny(s, "\n\t")
		if i < 0 {
			return b.String() + printable(s)
		}
		b.WriteString(printable(s[:i]))
		b.WriteByte(s[i])
		s = s[i+1:]
	}
}

// Colours of the terminal, by meaning.
const (
	good  = "32"
	bad   = "31"
	quiet = "2"
	loud  = "1"
	care  = "1;33"
)

// paint colours s for a person; never for a pipe, a file, or with NO_COLOR.
func (a *app) paint(w io.Writer, color, s string) string {
	f, ok := w.(*os.File)
	if a.noColor || os.Getenv("NO_COLOR") != "" || !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

// fail shows why a verb failed: the problem, its code, and what mends it.
func (a *app) fail(err error) {
	if a.format == "json" {
		enc := json.NewEncoder(a.err)
		enc.SetEscapeHTML(false)
		if enc.Encode(map[string]any{"error": err.Error(), "code": codeOf(err), "fix": problem.Fix(err), "exit": exitCode(err)}) == nil {
			return
		}
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(a.err, "zos: interrupted")
		return
	}
	// Others' words are in it: a hub's, a node's.
	fmt.Fprintf(a.err, "%s %s", a.paint(a.err, bad, "zos:"), printableLines(err.Error()))
	if code := codeOf(err); code != "" {
		fmt.Fprintf(a.err, " %s", a.paint(a.err, quiet, "["+code+"]"))
	}
	fmt.Fprintln(a.err)
	if fix := problem.Fix(err); fix != "" {
		fmt.Fprintf(a.err, "  fix: %s\n", printableLines(fix))
	}
}

// jsonLine writes v on one line, for streams.
func (a *app) jsonLine(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
