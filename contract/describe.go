package contract

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Describe shows statement bytes to a person who is about to sign them: every
// field that they hold, in lines of text, and nothing that they don't. It reads
// the bytes themselves, so what is shown can't differ from what is signed; text
// is quoted, so it can't pretend to be another line. The same bytes give the
// same lines.
func Describe(statement []byte) ([]string, error) {
	head, err := Peek(statement)
	if err != nil {
		return nil, err
	}
	d := &describer{}
	d.line(0, "statement", canon.Sum(statement).String())
	d.line(0, "kind", quote(head.Kind))
	if err := d.nested(0, statement); err != nil {
		return nil, err
	}
	return d.lines, nil
}

type describer struct{ lines []string }

func (d *describer) line(depth int, name, value string) {
	d.lines = append(d.lines, strings.TrimRight(strings.Repeat("  ", depth)+fmt.Sprintf("%-14s ", name)+value, " "))
}

// nested shows the map that b encodes.
func (d *describer) nested(depth int, b []byte) error {
	var fields map[string]any
	if err := canon.UnmarshalLimit(b, MaxStatement, &fields); err != nil {
		return problem.New("statement-invalid", "read statement: %w", err)
	}
	return d.fields(depth, fields)
}

// order is which fields come first; the others follow by name.
var order = []string{"kind", "v", "grid", "action", "group", "group_epoch", "class", "contract", "name", "label", "version", "expiry", "until", "to",
	"network", "protocol"}

func (d *describer) fields(depth int, fields map[string]any) error {
	names := make([]string, 0, len(fields))
	for name := range fields {
		if depth > 0 || name != "kind" {
			names = append(names, name)
		}
	}
	rank := func(name string) int {
		if i := slices.Index(order, name); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortFunc(names, func(a, b string) int {
		if r := rank(a) - rank(b); r != 0 {
			return r
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		if err := d.field(depth, name, fields[name]); err != nil {
			return err
		}
	}
	return nil
}

// field shows one value. Names that hold encoded bytes, keys or times are the
// same in all statements, so their values are shown as what they are.
func (d *describer) field(depth int, name string, value any) error {
	shown := name
	if !ValidName(strings.ReplaceAll(name, "_", "-")) {
		shown = quote(name) // no field of ours
	}
	switch v := value.(type) {
	case []byte:
		if name == "plan" || name == "config" {
			d.line(depth, shown, canon.Sum(v).String())
			if d.nested(depth+1, v) == nil {
				return nil
			}
			d.line(depth+1, "undecodable", hex.EncodeToString(v))
			return nil
		}
		d.line(depth, shown, showBytes(v))
	case map[string]any:
		d.line(depth, shown, "")
		return d.fields(depth+1, v)
	case []any:
		if len(v) == 0 {
			d.line(depth, shown, showEmpty(name))
		}
		for i, item := range v {
			if err := d.field(depth, fmt.Sprintf("%s-%d", name, i+1), item); err != nil {
				return err
			}
		}
	case uint64:
		d.line(depth, shown, showNumber(name, v))
	case int64:
		d.line(depth, shown, strconv.FormatInt(v, 10))
	case string:
		d.line(depth, shown, quote(v))
	case bool:
		d.line(depth, shown, showBool(name, v))
	case nil:
		d.line(depth, shown, "null")
	default: // numbers below the range of int64
		d.line(depth, shown, fmt.Sprintf("%v", v))
	}
	return nil
}

func showBytes(b []byte) string {
	if key, err := sign.ParsePublicKey(b); err == nil {
		return key.Fingerprint() + " " + key.String()
	}
	if len(b) == canon.HashSize && canon.Hash(b).IsZero() {
		return "none"
	}
	if len(b) > 64 {
		return fmt.Sprintf("%d bytes, SHA-256 %s", len(b), canon.Sum(b))
	}
	return hex.EncodeToString(b)
}

func showNumber(name string, n uint64) string {
	s := strconv.FormatUint(n, 10)
	switch name {
	case "expiry", "time", "created", "until":
		if text := utc(n); text != s {
			return s + " (" + text + ")"
		}
	case "memory", "disk", "size":
		if n >= 1<<20 {
			return fmt.Sprintf("%s (%d.%01d MiB)", s, n>>20, (n&(1<<20-1))*10>>20)
		}
	case "cpu":
		return fmt.Sprintf("%s (%d.%03d cores)", s, n/1000, n%1000)
	case "bandwidth":
		if n == 0 {
			return s + " (no limit)"
		}
		return fmt.Sprintf("%s (%d.%03d Mbit/s each way)", s, n/1_000_000, n%1_000_000/1000)
	}
	return s
}

// utc shows Unix seconds as a date and time, or as the number that they are if
// the year would not have four digits.
func utc(n uint64) string {
	const year9999 = 253402300799 // its last second
	if n > year9999 {
		return strconv.FormatUint(n, 10)
	}
	return time.Unix(int64(n), 0).UTC().Format(time.RFC3339)
}

// showEmpty shows a list of nothing. In a rule of a network that means
// everyone, which must not read as nobody.
func showEmpty(name string) string {
	if name == "peers" {
		return "everyone in the network"
	}
	return "none"
}

func showBool(name string, b bool) string {
	switch {
	case name == "open" && b:
		return "true (everyone in the network reaches every port)"
	case name == "leased" && b:
		return "true (no other contract has these addresses)"
	case name == "leased":
		return "false (these addresses are shared with other contracts)"
	case name == "open":
		return "false (others in the network reach only what allow says)"
	}
	return strconv.FormatBool(b)
}

// quote shows text in quotes, with everything but printing ASCII escaped.
func quote(s string) string { return strconv.QuoteToASCII(s) }
