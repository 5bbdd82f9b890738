// Package supervise keeps long-running functions ("runnables") running: a tree in
// which each runnable may start children, and whatever fails is started again
// with growing pauses, for ever.
//
// A runnable is a function of a context. It uses that context to start children
// (Run, RunGroup) and to say how it is (Signal). When it returns an error, panics,
// or returns without having signalled Done, its children and the siblings of its
// group are cancelled and waited for, and the whole group starts again after a
// pause. The children of a runnable never outlive it.
//
// The tree keeps no log and decides nothing else: States tells what runs, since
// when, and what the last error was.
package supervise
