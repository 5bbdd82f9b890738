package node

import (
	"context"
	"fmt"

	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/ledger/wire"
	"github.com/zero-os/zos/problem"
)

// keyLetters are what keys that are listed are written with, in their order.
const keyLetters = "-./0123456789_abcdefghijklmnopqrstuvwxyz"

// maxLists bounds the questions of one listAll.
const maxLists = 4096

// listAll lists a prefix, in several questions where it holds more than one answer
// may: anybody can reserve names, and must not keep the others from being answered
// by reserving many. The parts are of one state each, which may differ by a block.
func listAll(ctx context.Context, l ledgerLists, prefix string) ([]light.KV, error) {
	left := maxLists
	return listParts(ctx, l, prefix, &left)
}

func listParts(ctx context.Context, l ledgerLists, prefix string, left *int) ([]light.KV, error) {
	if *left--; *left < 0 {
		return nil, problem.New(wire.ProblemTooLarge, "list %.100s: it takes more than %d questions", prefix, maxLists)
	}
	all, _, err := l.List(ctx, prefix)
	if err == nil || problem.Code(err) != wire.ProblemTooLarge {
		return all, err
	}
	value, found, _, err := l.Get(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("list %.100s in parts: %w", prefix, err)
	}
	if found {
		all = append(all, light.KV{Key: prefix, Value: value})
	}
	for _, c := range keyLetters {
		part, err := listParts(ctx, l, prefix+string(c), left)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	return all, nil
}
