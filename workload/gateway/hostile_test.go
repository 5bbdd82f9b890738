package gateway

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/time/rate"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/workload"
)

func TestALineOfALogShowsNobodysTerminalAnything(t *testing.T) {
	var r rings
	id, dir := workload.ID{Contract: canon.Sum(nil), Name: "www"}, t.TempDir()
	must(t, r.open(id, dir))
	// Escapes of seven and of eight bits, a bell, a turn of the letters' order, a
	// line of its own (U+2028), no UTF-8 at all; and letters, which stay.
	must(t, r.add(id, []byte("a\x1b[2J\u009b2J\a\u202e\u2028\r\n\xffé")))
	must(t, r.forget(id))
	var all []byte
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		all = append(all, b...)
	}
	if want := "a?[2J?2J??????é"; !bytes.Contains(all, []byte(want)) {
		t.Errorf("written %q, want %q in it", all, want)
	}
}

func TestTheProcessFillsNotTheNodesLog(t *testing.T) {
	var b bytes.Buffer
	k := &Kind{cfg: Config{Log: slog.New(slog.NewTextHandler(&b, nil))}, notes: rate.NewLimiter(noteRate, noteBurst)}
	for range 100 * noteBurst {
		broker{k}.Note(control.Note{Level: int64(slog.LevelError), Text: "look at me"})
	}
	if n := strings.Count(b.String(), "look at me"); n < noteBurst || n > 2*noteBurst {
		t.Errorf("%d lines", n)
	}
	if strings.Contains(b.String(), "ERROR") {
		t.Error("the process raises alarms of the node")
	}
}
