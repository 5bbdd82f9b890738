package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

// maxIndex is how many tags a grid's index lists.
const maxIndex = 100_000

// TagEntry is one line of a grid's tag index. The index is for suggestions and
// is not signed: what it says is checked by reading the tag itself.
type TagEntry struct {
	Publisher canon.Hash `json:"publisher"`
	Name      string     `json:"name"`
	Tag       string     `json:"tag"`
	Digest    canon.Hash `json:"digest"`
	Sequence  uint64     `json:"sequence"`
}

// PublishTag puts a signed tag where others find it and lists it in the grid's
// index. It verifies the signatures, but not whose they are: that is for
// whoever reads the tag and knows the publisher's keys. A tag never goes back:
// one with a lower sequence is refused with the code "stale-sequence", and so
// is another one with the same sequence.
func (w *Writer) PublishTag(ctx context.Context, s contract.Signed) error {
	t, err := openSigned[contract.Tag](s, contract.KindTag)
	if err != nil {
		return fmt.Errorf("publish tag: %w", err)
	}
	path, err := TagPath(t.Grid, t.Publisher, t.Name, t.Tag)
	if err != nil {
		return fmt.Errorf("publish tag: %w", err)
	}
	return w.locked(ctx, func() error {
		old, err := readSigned[contract.Tag](w, path, contract.KindTag)
		if err != nil {
			return fmt.Errorf("publish tag %s:%s: %w", t.Name, t.Tag, err)
		}
		if err := newer(s, old.Signed, t.Sequence, old.Statement.Sequence); err != nil {
			return fmt.Errorf("publish tag %s:%s: %w", t.Name, t.Tag, err)
		}
		if err := w.writeSigned(path, s); err != nil {
			return fmt.Errorf("publish tag %s:%s: %w", t.Name, t.Tag, err)
		}
		return w.index(t)
	})
}

// PublishRelease puts a signed release under its sequence, and as the latest
// when no higher sequence is there. It verifies the signatures, but not whose
// they are nor how many are needed: nodes do. Another release under a sequence
// that is taken is refused with the code "stale-sequence".
func (w *Writer) PublishRelease(ctx context.Context, s contract.Signed) error {
	r, err := openSigned[contract.Release](s, contract.KindRelease)
	if err != nil {
		return fmt.Errorf("publish release: %w", err)
	}
	if r.Sequence == 0 {
		return problem.New("release-invalid", "publish release: sequence 0, want 1 or more")
	}
	return w.locked(ctx, func() error {
		own, latest := ReleasePath(r.Grid, r.Sequence), ReleasePath(r.Grid, 0)
		old, err := readSigned[contract.Release](w, own, contract.KindRelease)
		if err != nil {
			return fmt.Errorf("publish release %d: %w", r.Sequence, err)
		}
		if err := newer(s, old.Signed, r.Sequence, old.Statement.Sequence); err != nil {
			return fmt.Errorf("publish release %d: %w", r.Sequence, err)
		}
		if err := w.writeSigned(own, s); err != nil {
			return fmt.Errorf("publish release %d: %w", r.Sequence, err)
		}
		last, err := readSigned[contract.Release](w, latest, contract.KindRelease)
		if err != nil || last.Statement.Sequence > r.Sequence {
			return err
		}
		return w.writeSigned(latest, s)
	})
}

// openSigned verifies a statement of whatever grid it says it is of: a hub
// serves them all.
func openSigned[T contract.Statement](s contract.Signed, kind string) (T, error) {
	var none T
	head, err := contract.Peek(s.Statement)
	if err != nil {
		return none, err
	}
	t, _, keys, err := contract.Open[T](s, kind, head.Grid)
	if err != nil {
		return none, err
	}
	if len(keys) == 0 {
		return none, problem.New("signature-missing", "the statement carries no signature")
	}
	return t, nil
}

// published is a statement as it lies in the hub; zero when there is none.
type published[T any] struct {
	Signed    contract.Signed
	Statement T
}

// readSigned reads what lies at path. A damaged file counts as none: it is
// worth less than what would replace it.
func readSigned[T contract.Statement](w *Writer, path, kind string) (published[T], error) {
	b, err := os.ReadFile(filepath.Join(w.dir, filepath.FromSlash(path)))
	if errors.Is(err, fs.ErrNotExist) {
		return published[T]{}, nil
	}
	if err != nil {
		return published[T]{}, err
	}
	s, err := contract.DecodeSigned(b)
	if err != nil {
		return published[T]{}, nil
	}
	t, err := openSigned[T](s, kind)
	if err != nil {
		return published[T]{}, nil
	}
	return published[T]{s, t}, nil
}

// newer tells whether s may replace old. The same statement may come again,
// with more signatures.
func newer(s, old contract.Signed, sequence, oldSequence uint64) error {
	if len(old.Statement) == 0 || sequence > oldSequence || s.ID() == old.ID() && len(s.Signatures) >= len(old.Signatures) {
		return nil
	}
	return problem.New("stale-sequence", "it has sequence %d, and the hub has another one with sequence %d", sequence, oldSequence).
		WithFix("sign it with a sequence above %d", oldSequence)
}

func (w *Writer) writeSigned(path string, s contract.Signed) error {
	b, err := s.Encode()
	if err != nil {
		return err
	}
	return w.replace(filepath.Join(w.dir, filepath.FromSlash(path)), b)
}

// index puts a tag into its grid's index. An index that cannot be read is begun
// anew.
func (w *Writer) index(t contract.Tag) error {
	full := filepath.Join(w.dir, filepath.FromSlash(TagIndexPath(t.Grid)))
	var list []TagEntry
	if b, err := os.ReadFile(full); err == nil && json.Unmarshal(b, &list) != nil {
		list = nil
	}
	entry := TagEntry{t.Publisher, t.Name, t.Tag, t.Digest, t.Sequence}
	kept := list[:0]
	for _, e := range list {
		if e.Publisher != t.Publisher || e.Name != t.Name || e.Tag != t.Tag {
			kept = append(kept, e)
		}
	}
	list = append(kept, entry)
	sort.Slice(list, func(i, j int) bool { return list[i].less(list[j]) })
	if len(list) > maxIndex {
		return problem.New("index-full", "the grid has more than %d tags; the tag is published but not listed", maxIndex)
	}
	b, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		return fmt.Errorf("write tag index: %w", err)
	}
	return w.replace(full, append(b, '\n'))
}

func (e TagEntry) less(o TagEntry) bool {
	if e.Name != o.Name {
		return e.Name < o.Name
	}
	if e.Tag != o.Tag {
		return e.Tag < o.Tag
	}
	return e.Publisher.String() < o.Publisher.String()
}
