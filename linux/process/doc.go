// Package process names, watches and signals processes that this program did
// not necessarily start: by pid and start time, through pidfds, so that a reused
// pid is never mistaken for the process that once had it.
package process
