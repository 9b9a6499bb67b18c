//go:build race

package policies_test

// raceDetector: wazero's compiler is ten times slower under it.
const raceDetector = true
