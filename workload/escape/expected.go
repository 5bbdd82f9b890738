package escape

// Expected is what a class's attempts must come to, by their names.
func Expected(class Class) map[string]Outcomes { return map[string]Outcomes{} }
