package main

import (
	"bytes"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// publicKey resolves the name of a key of the context, a .pub file, or a key in
// the form of authorized_keys.
func publicKey(c *client.Client, ref string) (sign.PublicKey, error) {
	for _, k := range c.Context().Keys {
		if k.Name == ref {
			return c.Public(k)
		}
	}
	if strings.Contains(ref, " ") {
		return sign.ParseAuthorizedKey(ref)
	}
	b, err := readBounded(ref, 64<<10)
	if err != nil {
		return nil, problem.New("key-unknown", "%q is neither a key of context %s nor a file: %w", ref, c.Context().Name, err).
			WithFix("list the keys with: zos key ls")
	}
	return sign.ParseAuthorizedKey(strings.TrimSpace(string(b)))
}

func sortHashes(list []canon.Hash) {
	slices.SortFunc(list, func(a, b canon.Hash) int { return bytes.Compare(a[:], b[:]) })
}
