package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

func (a *app) genesisCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "genesis", Short: "Found a grid"}
	cmd.AddCommand(a.genesisCreateCommand())
	return cmd
}

func (a *app) genesisCreateCommand() *cobra.Command {
	var o genesisOptions
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Write the statement that founds a grid; its hash is the grid's id",
		Long: `Write the statement that founds a grid: its first validators and its release
keys. --validator-key makes the key file if it is not there; validators of others
are named by their public keys.`,
		Example: `  zos genesis create work --out genesis.cbor --validator-key a.seed \
    --validator b=HEX --release-key r1.pub --release-key r2.pub --release-threshold 2`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.createGenesis(args[0], o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.out, "out", "genesis.cbor", "file to write")
	f.StringArrayVar(&o.keys, "validator-key", nil, "file with a validator's seed; repeat it")
	f.StringArrayVar(&o.others, "validator", nil, "NAME=64 hex digits of another validator's public key; repeat it")
	f.StringArrayVar(&o.release, "release-key", nil, "public key file of a release key; repeat it")
	f.Uint64Var(&o.threshold, "release-threshold", 1, "how many release keys sign a release")
	_ = cmd.MarkFlagRequired("release-key")
	return cmd
}

type genesisOptions struct {
	out                   string
	keys, others, release []string
	threshold             uint64
}

// votingPower is the same for every founding validator.
const votingPower = 10

func (a *app) createGenesis(name string, o genesisOptions) error {
	if exists(o.out) {
		return problem.New("already-exists", "%s is there already", o.out).WithFix("name another file with --out")
	}
	g := contract.Genesis{V: contract.Version, Kind: contract.KindGenesis, Name: name, Created: uint64(time.Now().Unix()),
		Nonce: contract.NewNonce(), ReleaseThreshold: o.threshold}
	for i, path := range o.keys {
		key, err := validatorKey(path)
		if err != nil {
			return err
		}
		g.Validators = append(g.Validators, contract.Validator{Name: fmt.Sprintf("validator-%d", i+1), Key: key, Power: votingPower})
		a.progress("validator-%d is %x", i+1, key)
	}
	for _, other := range o.others {
		who, text, _ := strings.Cut(other, "=")
		key, err := hex.DecodeString(text)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return usageError{fmt.Errorf("--validator %s: write NAME= and 64 hex digits", other)}
		}
		g.Validators = append(g.Validators, contract.Validator{Name: who, Key: key, Power: votingPower})
	}
	for _, path := range o.release {
		b, err := readBounded(path, 64<<10)
		if err != nil {
			return fmt.Errorf("read a release key: %w", err)
		}
		key, err := sign.ParseAuthorizedKey(strings.TrimSpace(string(b)))
		if err != nil {
			return fmt.Errorf("read the release key %s: %w", path, err)
		}
		g.ReleaseKeys = append(g.ReleaseKeys, key)
	}
	b, err := contract.EncodeGenesis(g)
	if err != nil {
		return err
	}
	if err := boot.WriteFile(o.out, b, 0o644); err != nil {
		return fmt.Errorf("write the genesis: %w", err)
	}
	return a.created("grid", name, canon.Sum(b))
}

// validatorKey reads a validator's seed, making the file when it is absent, and
// returns the public key.
func validatorKey(path string) (ed25519.PublicKey, error) {
	seed, err := readSeed(path)
	if errors.Is(err, os.ErrNotExist) {
		seed = make([]byte, ed25519.SeedSize)
		_, _ = rand.Read(seed) // never fails, by its documentation
		err = os.WriteFile(path, seed, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("make the validator's key: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey), nil
}
