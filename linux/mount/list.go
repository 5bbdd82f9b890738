package mount

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Entry is one line of /proc/self/mountinfo.
type Entry struct {
	ID, Parent int
	Root       string // the part of the file system that is mounted
	Target     string
	Options    []string // of this mount
	Type       string
	Source     string
	Super      []string // options of the file system
}

// SuperOption returns the value of the file system option key, and whether it is set.
func (e Entry) SuperOption(key string) (string, bool) {
	for _, o := range e.Super {
		if o == key {
			return "", true
		}
		if v, ok := strings.CutPrefix(o, key+"="); ok {
			return v, true
		}
	}
	return "", false
}

// Limits of what is read from the kernel: a line holds all overlay layers, so it may be long.
const (
	maxLine    = 256 << 10
	maxEntries = 1 << 20
)

// Under lists the mounts at prefix and below it, in the kernel's order: a mount
// comes after what it is mounted on. Prefix "/" lists all.
func Under(prefix string) ([]Entry, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	all, err := Parse(f)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	prefix = strings.TrimRight(prefix, "/")
	var under []Entry
	for _, e := range all {
		if e.Target == prefix || strings.HasPrefix(e.Target, prefix+"/") {
			under = append(under, e)
		}
	}
	return under, nil
}

// Parse reads the format of /proc/self/mountinfo (proc(5)).
func Parse(r io.Reader) ([]Entry, error) {
	var all []Entry
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	for s.Scan() {
		if len(all) == maxEntries {
			return nil, fmt.Errorf("more than %d mounts", maxEntries)
		}
		e, err := parseLine(s.Text())
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read mount table: %w", err)
	}
	return all, nil
}

func parseLine(line string) (Entry, error) {
	bad := func(why string) (Entry, error) {
		return Entry{}, fmt.Errorf("mount table line %.200q: %s", line, why)
	}
	fields := strings.Split(line, " ")
	// 6 fields, optional ones, "-", 3 fields.
	dash := -1
	for i := 6; i < len(fields); i++ {
		if fields[i] == "-" {
			dash = i
			break
		}
	}
	if dash < 0 || len(fields) < dash+4 {
		return bad("fields are missing")
	}
	var e Entry
	var err, err2 error
	e.ID, err = strconv.Atoi(fields[0])
	e.Parent, err2 = strconv.Atoi(fields[1])
	if errors.Join(err, err2) != nil {
		return bad("bad mount number")
	}
	e.Root = unescape(fields[3])
	e.Target = unescape(fields[4])
	e.Options = splitOptions(fields[5])
	e.Type = unescape(fields[dash+1])
	e.Source = unescape(fields[dash+2])
	e.Super = splitOptions(fields[dash+3])
	return e, nil
}

// splitOptions splits at commas that no backslash escapes, then unescapes.
func splitOptions(s string) []string {
	var out []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case ',':
			out = append(out, unescape(s[start:i]))
			start = i + 1
		}
	}
	return append(out, unescape(s[min(start, len(s)):]))
}

// unescape undoes the kernel's \ooo escapes of blanks, newlines and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) && s[i+1] <= '3' {
			out.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

func octal(c byte) bool { return c >= '0' && c <= '7' }
