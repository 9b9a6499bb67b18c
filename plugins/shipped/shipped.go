// Package shipped lists the executors that ship with Cloister, for the one binary that holds them and
// for whoever writes their manifests.
package shipped

import (
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/native"
	"github.com/cloister-run/cloister/plugins/node"
	"github.com/cloister-run/cloister/plugins/python"
	"github.com/cloister-run/cloister/plugins/wasi"
)

// Executor is one of them.
type Executor struct {
	executor.Description
	// New makes one for one job.
	New func() executor.Executor
}

// All lists them, sorted by name.
func All() []Executor {
	return []Executor{
		{executor.Description{Name: native.Name, Version: native.Version}, func() executor.Executor { return &native.Executor{} }},
		{executor.Description{Name: node.Name, Version: node.Version}, func() executor.Executor { return node.New() }},
		{executor.Description{Name: python.Name, Version: python.Version}, func() executor.Executor { return python.New() }},
		{executor.Description{Name: wasi.Name, Version: wasi.Version}, func() executor.Executor { return &wasi.Executor{} }},
	}
}
