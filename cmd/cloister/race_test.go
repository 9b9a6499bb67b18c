//go:build race

package main

// raceDetector makes compiling ten times slower.
const raceDetector = true
