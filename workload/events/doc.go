// Package events keeps what happened to a workload, the newest in a bounded ring of
// its own: starts and ends, health, updates, and who did something to it. Members of
// its group read them.
//
// A ring is one of package logs, so events survive a crash of the writer and the loss
// of power up to the last second, and old ones give way to new ones. A ring that can't
// be written loses events and nothing else. It records no standard input or output,
// and of a program only its shortened arguments.
package events
