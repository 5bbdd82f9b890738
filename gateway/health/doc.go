// Package health finds out which backends answer, by connecting to them at
// intervals and by what connections to them have met.
//
// It promises that a backend that ceases to answer is known for it within
// Interval + Timeout while at most Rate × Interval backends are watched, that
// more backends are asked less often and not faster, and that a backend that
// never answers holds a bounded number of sockets. A backend of which nothing is
// known counts as healthy.
//
// It chooses no backend; it only says what it has seen.
package health
