// Package network says what a private network of a deployment is, as pure
// functions of the approved plan: its id, and its topology as one node sees it.
//
// It holds no state, opens no socket and decides nothing: every address and
// rule stands in the plan. The folders below it are the mechanisms.
package network
