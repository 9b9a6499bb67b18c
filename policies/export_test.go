package policies

// WASIFunctions is what a policy may import.
func WASIFunctions() []string { return wasiFunctions }
