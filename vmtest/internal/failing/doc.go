// Package failing has tests that fail in every way in which a test in a machine
// can fail; the tests of package vmtest run them one at a time.
package failing
