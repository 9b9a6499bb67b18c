//go:build !race

package main

import "github.com/cloister-run/cloister/policies/worker"

// workerMemory is what an enclave gives a policy worker.
const workerMemory = worker.Memory
