// Package spec is what people write: the deployment spec in YAML, its published
// JSON Schema, and the planner that resolves it to the bytes that are approved.
//
// It promises that every mistake is reported with file, line, column and a way
// to mend it, and that planning is a pure function of the spec and the facts it
// is given. It reads no network and no file.
package spec
