// Package policies runs WebAssembly policies: it loads a module, reads what it declares, and
// asks it for decisions, each in a fresh instance.
//
// It owns the walls around a policy. A module comes from a party that everybody else mistrusts,
// so the package trusts nothing in it: it is walked before wazero's decoder sees it (package
// module), it gets no memory, table, file, clock, randomness, environment or argument but what
// [Policy.Decide] gives it, and its answer is decoded strictly and checked against what it
// declared and was asked. The package trusts its caller, the request, and that the file
// system handed to Decide does not change.
//
// It never allows anything of its own accord: every error comes with the zero
// [abi.Decision], which denies.
//
// # What bounds compilation
//
// wazero cannot be interrupted while it compiles on one goroutine, and with several it
// compiles on goroutines of its own, where a panic over a hostile module would end the
// process. So the package compiles on one goroutine that it owns, recovers from panics, and
// stops waiting after [Limits].CompileTime; a compilation given up on runs to its end and
// keeps its place among the two that may run at once. What bounds its work is what package
// module admits: the size of the module and of each function, and its loops and branches.
//
// # What bounds memory
//
// [Limits].MemoryBytes bounds the linear memory. Beside it an instance has a table of
// functions (at most 8 MB, it cannot grow), a native stack that wazero lets grow to about
// 100 MB before a recursion traps, and at most [Limits].OpenFiles files. [Limits].Parallel
// bounds how many instances there are at once.
package policies

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/module"
)

// Sentinels for the outcomes that a caller branches on. All of them deny.
var (
	// ErrInvalid: the module is no policy, or none that this engine can run.
	ErrInvalid = errors.New("not a valid policy")
	// ErrConfig: the configuration is not one that the policy accepts.
	ErrConfig = errors.New("configuration refused")
	// ErrTrap: the policy trapped, or broke the engine's rules.
	ErrTrap = errors.New("policy trapped")
	// ErrTimeout: the policy was not done by its deadline.
	ErrTimeout = errors.New("policy timed out")
	// ErrMemory: the policy failed after it was refused memory over its limit.
	ErrMemory = errors.New("policy ran out of memory")
	// ErrAnswer: the policy ended with another status than 0, or its answer is oversized, no
	// decision, or none that answers the request.
	ErrAnswer = errors.New("policy gave no valid answer")
	// ErrClosed: the engine is closed.
	ErrClosed = errors.New("policy engine is closed")
)

// Config configures an [Engine].
type Config struct {
	// Limits bound what policies may use; a zero field means its default.
	Limits Limits
	// Uninterruptible leaves out what lets a decision be ended from the outside: a call into Go in
	// every turn of every loop, with which a policy reads a file twenty times as slowly. Whoever sets
	// it asks one question at a time and ends the process where a policy does not end.
	Uninterruptible bool
}

// Limits bound what a policy may use.
type Limits struct {
	// ModuleBytes bounds a module. Default 16 MiB; a policy written in Go has about 3.
	ModuleBytes int64
	// MemoryBytes bounds the linear memory of an instance. Default 64 MiB; a multiple of
	// 64 KiB, at most 2 GiB.
	MemoryBytes int64
	// CompileTime bounds how long Load waits for a compilation. Default 2 min; a policy written
	// in Go takes about 1.
	CompileTime time.Duration
	// DecideTime bounds one decision, start function included, but for the time to read
	// ([abi.Request.ReadTime]). Default 30 s.
	DecideTime time.Duration
	// RequestBytes bounds the JSON of a request. Default 4 MiB.
	RequestBytes int64
	// DecisionBytes bounds what a policy may write. Default and maximum abi.MaxDecisionBytes.
	DecisionBytes int64
	// OpenFiles bounds the artifacts that one decision holds open. Default 64.
	OpenFiles int
	// DirEntries bounds a folder that a policy can list. Default 65,536.
	DirEntries int
	// Parallel bounds the decisions that run at once; more wait. Default the number of CPUs.
	Parallel int
	// Cached bounds the compiled policies that are kept for the next Load. Default 16.
	Cached int
}

// withDefaults fills in the defaults and reports every problem.
func (l Limits) withDefaults() (Limits, error) {
	var problems []error
	report := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf("policies: limits."+format, args...))
		}
	}
	fill(&l.ModuleBytes, 16<<20)
	fill(&l.MemoryBytes, 64<<20)
	fill(&l.CompileTime, 2*time.Minute)
	fill(&l.DecideTime, 30*time.Second)
	fill(&l.RequestBytes, 4<<20)
	fill(&l.DecisionBytes, abi.MaxDecisionBytes)
	fill(&l.OpenFiles, 64)
	fill(&l.DirEntries, 65_536)
	fill(&l.Parallel, runtime.NumCPU())
	fill(&l.Cached, 16)
	report(l.ModuleBytes > 0 && l.ModuleBytes <= 1<<30, "module_bytes: %d is not 1 to 1 GiB", l.ModuleBytes)
	report(l.MemoryBytes > 0 && l.MemoryBytes <= 2<<30 && l.MemoryBytes%module.PageBytes == 0,
		"memory_bytes: %d is not a multiple of 64 KiB up to 2 GiB", l.MemoryBytes)
	report(l.CompileTime > 0, "compile_time: %s is negative", l.CompileTime)
	report(l.DecideTime > 0, "decide_time: %s is negative", l.DecideTime)
	report(l.RequestBytes > 0, "request_bytes: %d is negative", l.RequestBytes)
	report(l.DecisionBytes > 0 && l.DecisionBytes <= abi.MaxDecisionBytes,
		"decision_bytes: %d is not 1 to %d", l.DecisionBytes, abi.MaxDecisionBytes)
	report(l.OpenFiles > 0, "open_files: %d is negative", l.OpenFiles)
	report(l.DirEntries > 0, "dir_entries: %d is negative", l.DirEntries)
	report(l.Parallel > 0, "parallel: %d is negative", l.Parallel)
	report(l.Cached > 0, "cached: %d is negative", l.Cached)
	return l, errors.Join(problems...)
}

func fill[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}
