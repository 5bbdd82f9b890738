package engine

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/types"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/wire"
)

// appState is the form in which a genesis is CometBFT's app_state, which must be
// JSON: its canonical bytes as a base64 string.
func appState(genesis []byte) ([]byte, error) { return json.Marshal(genesis) }

// genesisDoc makes CometBFT's genesis from the grid's. Every node makes it for
// itself, so nothing in it may come from elsewhere.
func genesisDoc(genesis []byte) (*types.GenesisDoc, error) {
	g, err := contract.DecodeGenesis(genesis)
	if err != nil {
		return nil, err
	}
	state, err := appState(genesis)
	if err != nil {
		return nil, fmt.Errorf("read genesis: %w", err)
	}
	params := types.DefaultConsensusParams()
	params.Block.MaxBytes = wire.MaxBlock
	params.Block.MaxGas = -1
	params.Validator.PubKeyTypes = []string{types.ABCIPubKeyTypeEd25519}
	params.Version.App = appVersion
	doc := &types.GenesisDoc{
		ChainID:         wire.ChainID(canon.Sum(genesis)),
		GenesisTime:     time.Unix(int64(g.Created), 0).UTC(),
		InitialHeight:   1,
		ConsensusParams: params,
		AppState:        state,
	}
	for _, v := range g.Validators {
		key := ed25519.PubKey(v.Key)
		doc.Validators = append(doc.Validators, types.GenesisValidator{
			Address: key.Address(), PubKey: key, Power: int64(v.Power), Name: v.Name,
		})
	}
	if err := doc.ValidateAndComplete(); err != nil {
		return nil, fmt.Errorf("read genesis: %w", err)
	}
	return doc, nil
}
