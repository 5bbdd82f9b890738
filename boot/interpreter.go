package boot

import "path"

// IsInterpreter tells whether a file's name is that of a program that runs text
// which somebody wrote, or of a part of one. AuditOS does not rely on it.
func IsInterpreter(name string) bool { return interpreterRE.MatchString(path.Base(name)) }
