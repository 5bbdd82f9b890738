// Package control is how a running workload is asked for something: by the node
// daemon of the shim, and by the shim of a guest's agent. Each request has a
// connection of its own: one bounded Request, then frames both ways until one side
// closes. What a shim can't answer for a machine, it hands to the agent byte by byte.
//
// No request carries a path of the node, a command for the node, or another
// workload's name: whoever holds the connection can speak of one workload only.
package control
