// Package nettest attacks networks of nodes in a laboratory: it holds only
// tests. What they attack are the real parts of zosd in processes (package
// netnode), on links that are captured (package netlab).
package nettest
