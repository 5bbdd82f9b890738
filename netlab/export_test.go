package netlab

// Dissect is dissect, for fuzzing.
func Dissect(frame []byte) (Flow, int) { return dissect(frame) }
