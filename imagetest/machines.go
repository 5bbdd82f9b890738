package imagetest

// machines are the images that boot by themselves.
func machines() []recipe { return nil }
