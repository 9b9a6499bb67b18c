//go:build race

package wasi_test

// raceDetector makes wazero's compiler ten times slower.
const raceDetector = true
