package certs_test

import (
	"strings"
	"testing"

	"github.com/zero-os/zos/gateway/certs"
)

func TestKeysAreWordsWithSlashes(t *testing.T) {
	for key, want := range map[string]bool{
		"a": true, "a/b": true, "a/b.c/d_*": true, strings.Repeat("k", certs.MaxKey): true,
		"": false, "/a": false, "a/": false, "a//b": false, "a/../b": false, "a/.": false, "a b": false, "a\n": false, "é": false,
		strings.Repeat("k", certs.MaxKey+1): false,
	} {
		if certs.ValidKey(key) != want {
			t.Errorf("key %.20q: %t", key, !want)
		}
	}
}
