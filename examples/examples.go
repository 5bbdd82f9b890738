// Package examples holds deployments to begin with.
package examples

import _ "embed"

// Hello is hello.yaml: the deployment that `zos up` plays.
//
//go:embed hello.yaml
var Hello []byte

// Shop is shop/shop.yaml: a page on the internet and its database, which is not.
//
//go:embed shop/shop.yaml
var Shop []byte
