// Package executor is the contract between the enclave and a runtime plugin: what an
// executor is told, and what it may answer.
//
// An executor and the application that it runs are one trust domain, and that domain is
// hostile: nothing that an executor says is believed by the border. The package holds
// shapes and sentinels only. It imports nothing of go-plugin, gRPC or the sandbox.
package executor

import (
	"context"
	"errors"
)

// Executor runs one job and is then thrown away. Methods are called in the order
// Describe, Prepare, Run; Stop may come at any time, from another goroutine.
type Executor interface {
	// Describe says what the plugin is. It must answer before anything is prepared.
	Describe(ctx context.Context) (Description, error)
	// Prepare readies the runtime while assets are still on their way. No asset is visible.
	Prepare(ctx context.Context) (Runtime, error)
	// Run runs the task to its end. A task whose application failed is no error: it is a
	// Result. ErrEntrypoint and ErrRuntime tell the two ways in which it cannot start.
	Run(ctx context.Context, task Task) (Result, error)
	// Stop asks the application to end. The host kills the sandbox afterwards in any case.
	Stop(ctx context.Context) error
}

// Description is what a plugin says of itself.
type Description struct {
	// Name is the name in the manifest: "python".
	Name string
	// Version is the plugin's own, at most 64 bytes of printable ASCII.
	Version string
}

// Runtime is the interpreter or loader that a plugin found when it prepared.
type Runtime struct {
	// Name and Version: "CPython", "3.11.2". At most 64 bytes of printable ASCII each.
	Name    string
	Version string
}

// Task is one run of an application. All paths are absolute and inside the sandbox.
type Task struct {
	// Application is the folder of the application, read-only.
	Application string
	// Entrypoint is a path relative to Application, slash-separated, that stays inside it.
	Entrypoint string
	// Args follow the entrypoint, already expanded.
	Args []string
	// Environment is the folder of a dependency environment, read-only; empty if there is none. See
	// [Environment].
	Environment string
	// Env holds the variables that the job sets, beside what the executor itself provides.
	Env map[string]string
	// Dir is the working directory, writable and empty.
	Dir string
	// Stdout and Stderr are files to create and write; empty means discard.
	Stdout string
	Stderr string
}

// Result is how an application ended.
type Result struct {
	// Status is the exit status, 0 to 255; 128+n if signal n ended it.
	Status int
}

// Succeeded reports whether the application ended with status 0.
func (r Result) Succeeded() bool { return r.Status == 0 }

// Sentinels for the outcomes that a caller branches on.
var (
	// ErrEntrypoint: the entrypoint does not exist in the application, or cannot be run.
	ErrEntrypoint = errors.New("entrypoint cannot be run")
	// ErrRuntime: the runtime (the interpreter) is missing or broken.
	ErrRuntime = errors.New("runtime is missing")
	// ErrEnvironment: the environment is none that the executor can use.
	ErrEnvironment = errors.New("environment cannot be used")
	// ErrGone: the plugin ended, or broke its protocol, before it answered.
	ErrGone = errors.New("executor is gone")
	// ErrOrder: the caller's own mistake; Describe, Prepare and Run come in this order, and
	// the latter two once.
	ErrOrder = errors.New("called out of order")
)
