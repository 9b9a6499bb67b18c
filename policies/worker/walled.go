package worker

import (
	"context"
	"os"
	"sync/atomic"

	"github.com/cloister-run/cloister/plugins/sandbox"
)

// Walls says where the walls of workers are, and what they run.
type Walls struct {
	// Executable is the host path of cloister-policy, Init that of cloister-walls.
	Executable, Init string
	// Root is an empty folder on the host, the root of every worker.
	Root string
	// FirstOwner is the first of the users that workers run as; -1 runs all of them as the caller.
	FirstOwner int
}

// Memory bounds one worker, with the engine, what it compiled and its policy's own memory, which is
// bounded inside as well. Compiling 12 MB of WebAssembly takes some 190 MiB.
const Memory = 320 << 20

const (
	workerThreads = 64
	workerFiles   = 512
	// owners is how many users workers are spread over.
	owners = 4096
)

// Walled starts workers in sandboxes.
func Walled(cfg Walls) func(context.Context, *os.File) (Process, error) {
	var started atomic.Int64
	return func(ctx context.Context, end *os.File) (Process, error) {
		owner := -1
		if cfg.FirstOwner >= 0 {
			owner = cfg.FirstOwner + int(started.Add(1)%owners)
		}
		process, err := sandbox.Start(ctx, sandbox.Spec{
			Init:   cfg.Init,
			Root:   cfg.Root,
			Mounts: []sandbox.Mount{{Source: cfg.Executable, Target: "/policy"}},
			Path:   "/policy",
			Owner:  owner,
			Limits: sandbox.Limits{Memory: Memory, Processes: workerThreads, OpenFiles: workerFiles, CPUs: 1},
			Files:  []*os.File{end},
		})
		if err != nil {
			return nil, err
		}
		return process, nil
	}
}
