package engine

import (
	"errors"
	"fmt"
	"os"

	"github.com/cometbft/cometbft/crypto/ed25519"
	cometjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/privval"
	"github.com/cometbft/cometbft/types"
)

// validator makes the signer of blocks from a seed. The key itself never goes to
// disk; what it signed last does, in stateFile, because signing two blocks of
// one height is the one thing that a validator must never do. With a nil seed it
// is a signer that is in no validator set.
func validator(seed []byte, stateFile string, doc *types.GenesisDoc) (types.PrivValidator, error) {
	if seed == nil {
		return types.NewMockPVWithParams(ed25519.GenPrivKey(), false, false), nil
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("validator key: seed has %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	key := ed25519.PrivKey(privateKey(seed))
	known := false
	for _, v := range doc.Validators {
		known = known || v.PubKey.Equals(key.PubKey())
	}
	if !known {
		return nil, errors.New("validator key: the genesis does not name it as a validator's")
	}
	pv := privval.NewFilePV(key, "", stateFile)
	b, err := os.ReadFile(stateFile)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return pv, nil
	case err != nil:
		return nil, fmt.Errorf("read what the validator signed last: %w", err)
	}
	var last privval.FilePVLastSignState
	if err := cometjson.Unmarshal(b, &last); err != nil {
		return nil, fmt.Errorf("read what the validator signed last from %s: %w", stateFile, err)
	}
	// Not assigned whole: NewFilePV has put the file's name into an unexported field.
	pv.LastSignState.Height, pv.LastSignState.Round, pv.LastSignState.Step = last.Height, last.Round, last.Step
	pv.LastSignState.Signature, pv.LastSignState.SignBytes = last.Signature, last.SignBytes
	return pv, nil
}
