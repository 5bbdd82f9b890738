package contract

import (
	"fmt"
	"math"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// State is the ledger's key-value store as the rules see it. Get returns nil
// for a key that isn't there; its result must not be changed.
type State interface {
	Get(key string) []byte
	Set(key string, value []byte)
	Delete(key string)
}

// Load reads the record at key into a T. It tells whether there is one; an
// error means that the bytes are not a T, which no correct ledger holds.
func Load[T any](st State, key string) (T, bool, error) {
	var v, none T
	b := st.Get(key)
	if b == nil {
		return none, false, nil
	}
	if err := canon.Unmarshal(b, &v); err != nil {
		return none, false, fmt.Errorf("read ledger record %s: %w", key, err)
	}
	return v, true, nil
}

// store writes the record v at key.
func store(st State, key string, v any) error {
	b, err := canon.Marshal(v)
	if err != nil {
		return fmt.Errorf("write ledger record %s: %w", key, err)
	}
	st.Set(key, b)
	return nil
}

// Init founds the ledger's state from canonical Genesis bytes and returns
// nothing else than an error, code "genesis-invalid".
func Init(st State, genesis []byte) error {
	if _, err := DecodeGenesis(genesis); err != nil {
		return err
	}
	return store(st, KeyGrid, GridRecord{ID: canon.Sum(genesis), Genesis: genesis})
}

// loadGrid returns the grid's id and genesis.
func loadGrid(st State) (canon.Hash, Genesis, error) {
	rec, ok, err := Load[GridRecord](st, KeyGrid)
	if err != nil {
		return canon.Hash{}, Genesis{}, err
	}
	if !ok {
		return canon.Hash{}, Genesis{}, fmt.Errorf("the ledger's state was not founded: no genesis")
	}
	g, err := DecodeGenesis(rec.Genesis)
	return rec.ID, g, err
}

// claimName makes id the owner of the name at key, or says who came first.
func claimName(st State, key, name string, id canon.Hash) error {
	if !ValidName(name) {
		return problem.New("name-invalid", "name %.80q: want [a-z0-9-], 1 to 63 characters", name)
	}
	if owner, taken, err := Load[NameRecord](st, key); err != nil {
		return err
	} else if taken {
		return problem.New("name-taken", "name %s belongs to %s", name, owner.ID.Short()).
			WithFix("choose another name")
	}
	return store(st, key, NameRecord{ID: id})
}

// plus returns c + d; ok is false if a sum overflows.
func (c Capacity) plus(d Capacity) (sum Capacity, ok bool) {
	ok = c.CPU <= math.MaxUint64-d.CPU && c.Memory <= math.MaxUint64-d.Memory && c.Disk <= math.MaxUint64-d.Disk
	return Capacity{CPU: c.CPU + d.CPU, Memory: c.Memory + d.Memory, Disk: c.Disk + d.Disk}, ok
}

// minus returns c - d; ok is false if d exceeds c anywhere.
func (c Capacity) minus(d Capacity) (rest Capacity, ok bool) {
	return Capacity{CPU: c.CPU - d.CPU, Memory: c.Memory - d.Memory, Disk: c.Disk - d.Disk}, d.Within(c)
}

// Within tells whether c exceeds limit in no resource.
func (c Capacity) Within(limit Capacity) bool {
	return c.CPU <= limit.CPU && c.Memory <= limit.Memory && c.Disk <= limit.Disk
}

// IsZero tells whether c is nothing at all.
func (c Capacity) IsZero() bool { return c == Capacity{} }

// String shows c for people.
func (c Capacity) String() string {
	return fmt.Sprintf("%d.%03d cpu, %d MiB memory, %d MiB disk", c.CPU/1000, c.CPU%1000, c.Memory>>20, c.Disk>>20)
}
