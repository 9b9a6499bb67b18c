//go:build race

package main

import "github.com/cloister-run/cloister/policies/worker"

// workerMemory: the race detector takes many times as much for itself.
const workerMemory = 32 * worker.Memory
