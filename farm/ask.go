package farm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// AskConfig is what a booting node knows of itself.
type AskConfig struct {
	Conn       *bus.Conn // with the role bus.AsNode(Slot)
	Grid       canon.Hash
	Farm       canon.Hash
	FarmKey    sign.PublicKey // from the grid's archive
	Slot       canon.Hash
	Signer     sign.Signer // the node's key
	SealingKey []byte
	BootNonce  [16]byte
	Hints      []string
	// Proven tells whether the ledger, as the node itself has verified it, binds
	// these keys, and at which epoch. With it, a node that is bound needs no agent,
	// and the agent's word alone makes none. May be nil.
	Proven func(ctx context.Context) (epoch uint64, ok bool)
	// On is told each verified answer, for the console. May be nil.
	On     func(Answer)
	Logger *slog.Logger
}

// Times of a node that asks.
const (
	askDeadline = 10 * time.Second // for one answer
	askMost     = time.Minute      // pause between asking, at most
)

// Ask asks the farm's agent until the node's keys are bound, and returns their
// epoch. It needs no clock and gives up only with ctx. Without cfg.Proven it rests
// on the agent's word, which is not proof: the caller goes on to read the binding
// from the ledger.
func Ask(ctx context.Context, cfg AskConfig) (epoch uint64, err error) {
	if cfg.Conn == nil || cfg.Signer == nil || len(cfg.FarmKey) == 0 {
		return 0, errors.New("ask to join: bus, signer and the farm's key are needed")
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	// The agent says which epoch and delegation to sign and what time it is; the
	// first statement is there to prove the key.
	n := contract.Node{
		Header:     contract.Header{V: contract.Version, Kind: contract.KindNode, Grid: cfg.Grid},
		Slot:       cfg.Slot,
		Epoch:      1,
		SigningKey: cfg.Signer.Public(),
		SealingKey: cfg.SealingKey,
		BootNonce:  cfg.BootNonce[:],
	}
	signed := false // the last answer was "sign", and we did
	for {
		if cfg.Proven != nil {
			if epoch, ok := cfg.Proven(ctx); ok {
				return epoch, nil
			}
		}
		a, err := askOnce(ctx, cfg, n)
		if ctx.Err() != nil {
			return 0, fmt.Errorf("ask to join: %w", ctx.Err())
		}
		pause := time.Second
		switch {
		case err != nil:
			log.Info("the farm's agent does not answer", "error", err)
		case a.Outcome == ReplyBound:
			if cfg.Proven == nil {
				tell(cfg, a)
				return a.Epoch, nil
			}
		case a.Outcome == ReplySign:
			n.Epoch, n.Delegation, n.Expiry = a.Epoch, a.Delegation, a.Time+bindingLife
			if !signed {
				pause = 0
			}
		default:
			log.Info("not joined yet", "outcome", a.Outcome, "code", a.Code, "message", a.Message, "again_in", a.Retry)
			pause = max(time.Second, min(askMost, time.Duration(min(a.Retry, 3600))*time.Second))
		}
		if err == nil {
			tell(cfg, a)
		}
		signed = err == nil && a.Outcome == ReplySign
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, fmt.Errorf("ask to join: %w", ctx.Err())
		}
	}
}

func tell(cfg AskConfig, a Answer) {
	if cfg.On != nil {
		cfg.On(a)
	}
}

// askOnce sends one join and waits for a verified answer.
func askOnce(ctx context.Context, cfg AskConfig, n contract.Node) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askDeadline)
	defer cancel()
	node, err := contract.Sign(ctx, n, contract.KindNode, cfg.Signer)
	if err != nil {
		return Answer{}, err
	}
	var id [idSize]byte
	rand.Read(id[:])
	join, err := contract.Sign(ctx, Join{
		Header: contract.Header{V: contract.Version, Kind: KindJoin, Grid: cfg.Grid},
		Farm:   cfg.Farm,
		ID:     id[:],
		Hints:  cfg.Hints[:min(len(cfg.Hints), MaxHints)],
		Node:   node,
	}, KindJoin, cfg.Signer)
	if err != nil {
		return Answer{}, err
	}
	data, err := join.Encode()
	if err != nil {
		return Answer{}, err
	}
	var a Answer
	var refused error
	err = cfg.Conn.Ask(ctx, bus.JoinSubject(cfg.Farm), data, func(b []byte) bool {
		got, err := openAnswer(cfg.Grid, cfg.Farm, cfg.FarmKey, cfg.Slot, join.ID(), b)
		if err != nil {
			refused = err
			return false
		}
		a = got
		return true
	})
	if err != nil {
		return Answer{}, problem.New("agent-silent", "ask the farm's agent: %w", errors.Join(err, refused)).
			WithFix("check that the farm's agent runs and reaches the same bus")
	}
	return a, nil
}
