package logs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"
)

func open(t testing.TB, dir string, bound int64) *Writer {
	t.Helper()
	w, err := Open(dir, bound)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func write(t testing.TB, w *Writer, s Stream, text string) {
	t.Helper()
	if err := w.Write(s, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, dir string, from uint64) []Record {
	t.Helper()
	recs, _, err := NewReader(dir).Read(from, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return recs
}

func text(recs []Record) string {
	var b strings.Builder
	for _, r := range recs {
		fmt.Fprintf(&b, "%d %s %q", r.Seq, r.Stream, r.Data)
		if r.Partial {
			b.WriteString(" …")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestLinesComeBackInOrder(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir, 0)
	write(t, w, Stdout, "one\ntw")
	write(t, w, Stderr, "error\n")
	write(t, w, Stdout, "o\n\nbegun")
	if err := w.Flush(Stdout); err != nil {
		t.Fatal(err)
	}
	write(t, w, Stdout, " and ended\n")
	want := "1 stdout \"one\"\n2 stderr \"error\"\n3 stdout \"two\"\n4 stdout \"\"\n5 stdout \"begun\" …\n6 stdout \" and ended\"\n"
	if got := text(read(t, dir, 0)); got != want {
		t.Errorf("have\n%swant\n%s", got, want)
	}
	if got := text(read(t, dir, 5)); got != want[strings.Index(want, "5 "):] {
		t.Errorf("from 5: %s", got)
	}
	if got := read(t, dir, 7); len(got) != 0 {
		t.Errorf("beyond the end: %s", text(got))
	}
	if d := time.Since(read(t, dir, 1)[0].Time); d < 0 || d > time.Minute {
		t.Errorf("time is %v ago", d)
	}
}

func TestLongLinesAreSplit(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir, 0)
	line := strings.Repeat("0123456789", 5000)
	write(t, w, Stdout, line[:20001])
	write(t, w, Stdout, line[20001:]+"\nnext\n")
	recs := read(t, dir, 1)
	var got []byte
	for i, r := range recs[:len(recs)-1] {
		if len(r.Data) > MaxRecord || r.Partial != (i < len(recs)-2) {
			t.Errorf("record %d: %d bytes, partial %t", r.Seq, len(r.Data), r.Partial)
		}
		got = append(got, r.Data...)
	}
	if string(got) != line || string(recs[len(recs)-1].Data) != "next" {
		t.Errorf("the line came back as %d bytes, want %d", len(got), len(line))
	}
}

func size(t testing.TB, dir string) (sum int64) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		sum += st.Size()
	}
	return sum
}

func TestFloodDropsTheOldestAndStaysBounded(t *testing.T) {
	dir := t.TempDir()
	const bound = 4 * MaxRecord
	w := open(t, dir, bound)
	for i := range 5000 {
		write(t, w, Stdout, fmt.Sprintf("line %d of a flood\n", i+1))
		if i%100 == 0 && size(t, dir) > bound {
			t.Fatalf("%d bytes on disk, bound is %d", size(t, dir), bound)
		}
	}
	recs := read(t, dir, 1)
	last := recs[len(recs)-1]
	if recs[0].Seq == 1 || last.Seq != 5000 || string(last.Data) != "line 5000 of a flood" {
		t.Fatalf("records %d to %d", recs[0].Seq, last.Seq)
	}
	for i, r := range recs {
		if r.Seq != recs[0].Seq+uint64(i) || string(r.Data) != fmt.Sprintf("line %d of a flood", r.Seq) {
			t.Fatalf("record %d: %s", i, text([]Record{r}))
		}
	}
	if len(recs) < 300 {
		t.Errorf("only %d records kept in %d bytes", len(recs), bound)
	}
}

func TestTornTailIsCutAndNumbersGoOn(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir, 0)
	write(t, w, Stdout, "one\ntwo\nthree\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := segmentPath(dir, 1)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) + 1 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		kept := read(t, dir, 1)
		w, err := Open(dir, 0)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		write(t, w, Stdout, "after\n")
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got := read(t, dir, 1)
		if len(got) != len(kept)+1 || string(got[len(got)-1].Data) != "after" || got[len(got)-1].Seq != uint64(len(got)) {
			t.Fatalf("cut at %d: had\n%snow\n%s", cut, text(kept), text(got))
		}
	}
}

func TestFlippedBitIsNotServed(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir, 0)
	write(t, w, Stdout, "one\ntwo\nthree\n")
	path := segmentPath(dir, 1)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	intact := text(read(t, dir, 1))
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 0x10
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := text(read(t, dir, 1)); !strings.HasPrefix(intact, got) || got == intact {
			t.Fatalf("bit flipped in byte %d: served\n%s", i, got)
		}
	}
}

// The writer is killed with SIGKILL while it writes; what was written before is
// there, nothing is torn, and the next writer goes on.
func TestWriterKilledLosesNothingWritten(t *testing.T) {
	if dir := os.Getenv("ZOS_LOGS_WRITER"); dir != "" {
		w := open(t, dir, 4*MaxRecord)
		for i := 0; ; i++ {
			write(t, w, Stdout, strings.Repeat("x", i%700)+"\n")
			if err := os.WriteFile(dir+".next", binary.LittleEndian.AppendUint64(nil, w.Next()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "ring")
	var before uint64
	for round := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestWriterKilledLosesNothingWritten$")
		cmd.Env = append(os.Environ(), "ZOS_LOGS_WRITER="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Until it has written something in this round, then at some moment.
		deadline := time.Now().Add(30 * time.Second)
		for next(dir) <= before+10 {
			if time.Now().After(deadline) {
				t.Fatal("the writer writes nothing")
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(round*3) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		acknowledged := next(dir)
		recs := read(t, dir, 1)
		if len(recs) == 0 || recs[len(recs)-1].Seq+1 < acknowledged {
			t.Fatalf("round %d: record %d was acknowledged, the last is %s", round, acknowledged-1, text(recs[max(0, len(recs)-1):]))
		}
		for i := range recs[1:] {
			if recs[i+1].Seq != recs[i].Seq+1 {
				t.Fatalf("gap after %d", recs[i].Seq)
			}
		}
		before = acknowledged
	}
}

func next(dir string) uint64 {
	b, err := os.ReadFile(dir + ".next")
	if err != nil || len(b) != 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

func TestFollowYieldsWhatComes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not yet there")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		w, err := Open(dir, 4*MaxRecord)
		for i := 0; err == nil && i < 3000; i++ {
			err = w.Write(Stdout, fmt.Appendf(nil, "line %d\n", i+1))
			if i%500 == 0 {
				time.Sleep(20 * time.Millisecond)
			}
		}
		done <- errors.Join(err, w.Close())
	}()
	last := uint64(0)
	for r, err := range NewReader(dir).Follow(ctx, 1) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Seq <= last || string(r.Data) != fmt.Sprintf("line %d", r.Seq) {
			t.Fatalf("after %d: %s", last, text([]Record{r}))
		}
		if last = r.Seq; last == 3000 {
			break
		}
	}
	if last != 3000 {
		t.Errorf("followed up to %d", last)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// It ends with its context.
	short, stop := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer stop()
	for r, err := range NewReader(dir).Follow(short, 3001) {
		t.Fatalf("nothing was written: %v %v", r, err)
	}
}

// Whatever was written in whatever pieces, the reader gives the same bytes back,
// also in small steps and while segments are dropped.
func TestReadInStepsEqualsReadAtOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "ring")
		if err != nil {
			rt.Fatal(err)
		}
		w, err := Open(dir, 4*MaxRecord)
		if err != nil {
			rt.Fatal(err)
		}
		defer w.Close()
		stepper := NewReader(dir)
		var steps []Record
		from := uint64(1)
		for range rapid.IntRange(1, 30).Draw(rt, "writes") {
			b := bytes.Repeat([]byte(rapid.SampledFrom([]string{"x", "y\n", "long line\n"}).Draw(rt, "piece")), rapid.IntRange(1, 3000).Draw(rt, "times"))
			if err := w.Write(Stdout, b); err != nil {
				rt.Fatal(err)
			}
			recs, n, err := stepper.Read(from, rapid.IntRange(1, 5000).Draw(rt, "limit"))
			if err != nil {
				rt.Fatal(err)
			}
			steps, from = append(steps, recs...), n
		}
		rest, _, err := stepper.Read(from, 1<<20)
		if err != nil {
			rt.Fatal(err)
		}
		steps = append(steps, rest...)
		all := read(t, dir, 1)
		if len(steps) < len(all) || text(steps[len(steps)-len(all):]) != text(all) {
			rt.Fatalf("in steps %d records, at once %d", len(steps), len(all))
		}
	})
}

func TestBadBoundAndLimitAreRefused(t *testing.T) {
	if _, err := Open(t.TempDir(), 100); err == nil {
		t.Error("a bound of 100 bytes was accepted")
	}
	if _, _, err := NewReader(t.TempDir()).Read(1, 0); err == nil {
		t.Error("a limit of 0 was accepted")
	}
}

func FuzzReader(f *testing.F) {
	good := appendRecord(nil, Record{Seq: 1, Time: time.Unix(1, 2), Stream: Stdout, Data: []byte("hello")})
	good = appendRecord(good, Record{Seq: 2, Time: time.Unix(3, 4), Stream: Stderr, Data: []byte("world"), Partial: true})
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(segmentPath(dir, 1), b, 0o600); err != nil {
			t.Fatal(err)
		}
		recs := read(t, dir, 1)
		var again []byte
		for i, r := range recs {
			if r.Seq != uint64(i+1) || len(r.Data) > MaxRecord {
				t.Fatalf("record %d: seq %d, %d bytes", i, r.Seq, len(r.Data))
			}
			again = appendRecord(again, r)
		}
		if !bytes.HasPrefix(b, again) {
			t.Fatal("what was read does not encode to what was there")
		}
		w, err := Open(dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		if w.Next() != uint64(len(recs)+1) {
			t.Fatalf("the writer goes on at %d after %d records", w.Next(), len(recs))
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Reading a segment piece by piece finds the same end as reading it whole, wherever
// it is torn.
func TestScanInPiecesIsScanOfTheWhole(t *testing.T) {
	var b []byte
	for seq := uint64(3); seq < 60; seq++ {
		b = appendRecord(b, Record{Seq: seq, Stream: Stdout, Data: bytes.Repeat([]byte{'x'}, int(seq*seq*37)%MaxRecord)})
	}
	b = appendRecord(b, Record{Seq: 60, Stream: Stdout, Data: make([]byte, MaxRecord)})
	for cut := 0; cut <= len(b); cut += 997 {
		whole, next := scan(b[:cut], 3, nil)
		size, after, err := scanFile(iotest.HalfReader(bytes.NewReader(b[:cut])), 3)
		if err != nil || size != whole || after != next {
			t.Fatalf("cut at %d: %d, %d, %v, want %d, %d", cut, size, after, err, whole, next)
		}
	}
	torn := append([]byte(nil), b...)
	torn[len(b)/2] ^= 1
	whole, next := scan(torn, 3, nil)
	if size, after, err := scanFile(bytes.NewReader(torn), 3); err != nil || size != whole || after != next {
		t.Errorf("damaged: %d, %d, %v, want %d, %d", size, after, err, whole, next)
	}
}
