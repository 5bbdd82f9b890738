// Package examples holds deployments to begin with.
package examples

import _ "embed"

// Hello is hello.yaml: the deployment that `zos up` plays.
//
//go:embed hello.yaml
var Hello []byte

// Shop is shop.yaml: a page, its database and a client on a private network.
//
//go:embed shop.yaml
var Shop []byte
