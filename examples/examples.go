// Package examples holds deployments to begin with.
package examples

import _ "embed"

// Hello is hello.yaml: the deployment that `zos up` plays.
//
//go:embed hello.yaml
var Hello []byte
