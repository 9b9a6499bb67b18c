// Package jobspec owns the files that people write, the job file, the bundle file and the image recipe: their
// shapes, their rules, and the digest of a job.
//
// An operator writes a [Job] as YAML. The enclave gets its [Canonical] form as JSON: the same
// job without the places on the operator's disk. Policies judge the canonical job and receipts
// name its digest, so two spellings of one job are one job. An owner writes a [Bundle], whoever builds
// images a [Recipe].
//
// The package trusts nothing that it parses, opens no file that a job names, and imports no
// other package of this module.
package jobspec

import (
	"encoding/json"
	"strings"
	"time"
)

// Version is the version of the job file that this package reads.
const Version = 1

// Job is a parsed and valid job file.
type Job struct {
	// Name is lower-case kebab, at most 63 bytes.
	Name string
	// Environment is the folder of a dependency environment, as written in the file; empty if the
	// application needs none.
	Environment string
	Application Application
	// Inputs by name; names are lower-case with '_', at most 63 bytes.
	Inputs map[string]Input
	// Parameters are the values that the job supplies for the command's declared parameters.
	Parameters map[string]string
	Outputs    map[string]Output
	Logs       Logs
	// ExitTo is where the number of the exit status goes; empty if it is not asked for.
	ExitTo   string
	Policies []Policy
	Limits   Limits
	// Keep is how long results wait to be fetched; 0 means the default.
	Keep time.Duration

	// file and positions say where the job stands; empty for a job made without [Parse].
	file      string
	positions map[path]position
}

// Fault is a problem that only the reader of the job's files can see, such as a missing
// input, at its place in the job file. at is a path such as "inputs.scans.from".
func (j *Job) Fault(at, message, hint string) Problem {
	return fault{message, hint}.at(j.file, j.positions, path(at))
}

// Application is the code to run.
type Application struct {
	// From is a folder or a sealed bundle, as written in the file (relative to the job file).
	From string
	// Command is the job's for a plain application. A sealed one has its own, which
	// [Job.Adopt] puts here.
	Command Command
}

// Sealed reports whether the application is a sealed bundle.
func (a Application) Sealed() bool { return sealed(a.From) }

// Command is how an application is run: in the job for a plain application, in the bundle
// for a sealed one.
type Command struct {
	// Executor is the name of the plugin: "python" unless told otherwise.
	Executor string `json:"executor"`
	// Entrypoint is a clean relative slash path inside the application.
	Entrypoint string `json:"entrypoint"`
	// Environments are the digests, sorted, of the environments that the application may run in. An
	// empty list lets a plain application run in any, and a sealed one in none: what it runs in can do
	// all that it can.
	Environments []string `json:"environments"`
	// Args may hold ${inputs.N}, ${outputs.N} and ${parameters.N}; "$${" is a literal "${".
	Args []string          `json:"args"`
	Env  map[string]string `json:"env"`
	// Outputs maps an output's name to its place under the output folder. A place that ends
	// in "/" is a folder.
	Outputs    map[string]string    `json:"outputs"`
	Parameters map[string]Parameter `json:"parameters"`
}

// Parameter is a value that a job may set.
type Parameter struct {
	// Default is used when the job sets none; nil makes the parameter required.
	Default *string `json:"default"`
	// Pattern is an RE2 expression that the whole value must match.
	Pattern string `json:"pattern"`
}

// Input is a model, a data set or any other file or folder that the application reads, plain
// or as a sealed bundle.
type Input struct{ From string }

// Sealed reports whether the input is a sealed bundle.
func (in Input) Sealed() bool { return sealed(in.From) }

// SealedSuffix ends the name of a sealed bundle, and of nothing else that a job names.
const SealedSuffix = ".sealed"

func sealed(from string) bool { return strings.HasSuffix(from, SealedSuffix) }

// Output is a declared output and where it lands.
type Output struct {
	SaveTo string
	// SealTo are the age recipients that it is encrypted to before it leaves; nil leaves it plain. A
	// sealed folder lands as one file, the encryption of a tar.
	SealTo []string
}

// LandsAsFolder reports whether an output lands as a folder, once the job has its command.
func (j *Job) LandsAsFolder(output string) bool {
	return strings.HasSuffix(j.Application.Command.Outputs[output], "/") && j.Outputs[output].SealTo == nil
}

// Logs says which logs are wanted, and where they land; empty means not wanted.
type Logs struct{ Stdout, Stderr string }

// Policy is one of the operator's own.
type Policy struct {
	// Exactly one of Use ("library/NAME") and Module (a path) is set.
	Use, Module string
	// Config is canonical JSON; "null" if absent.
	Config json.RawMessage
}

// Limits bound a run.
type Limits struct {
	CPUs      int   `json:"cpus"`
	Memory    int64 `json:"memory"`
	Disk      int64 `json:"disk"`
	Processes int   `json:"processes"`
	// Queue is how long a job may wait for room, Run how long its application may run: nanoseconds in
	// JSON. A Queue of 0 waits for nothing.
	Queue time.Duration `json:"queue"`
	Run   time.Duration `json:"run"`
}

// Canonical is the job as the enclave, its policies and its receipt know it: every default
// filled in, no path of the operator's disk. Its JSON (package-internal field order, sorted
// maps, no spaces) is what [Canonical.Digest] hashes.
type Canonical struct {
	Version int     `json:"version"`
	Name    string  `json:"name"`
	Command Command `json:"command"`
	// Environment says that the application runs in a dependency environment. What it holds is known
	// by the digest of the asset "environment".
	Environment bool              `json:"environment"`
	Inputs      []string          `json:"inputs"`     // sorted
	Parameters  map[string]string `json:"parameters"` // every declared parameter, defaults filled in
	Outputs     []string          `json:"outputs"`    // sorted
	// SealTo maps an output to the age recipients that it is encrypted to, sorted. An output
	// that is not in it leaves plain.
	SealTo   map[string][]string `json:"seal_to"`
	Logs     CanonicalLogs       `json:"logs"`
	Exit     bool                `json:"exit"`
	Policies []CanonicalPolicy   `json:"policies"`
	Limits   Limits              `json:"limits"`
	Keep     time.Duration       `json:"keep"` // nanoseconds
}

// CanonicalLogs says which logs are asked for.
type CanonicalLogs struct {
	Stdout bool `json:"stdout"`
	Stderr bool `json:"stderr"`
}

// CanonicalPolicy names a policy by content.
type CanonicalPolicy struct {
	// Module is the "sha256:…" of the module's bytes.
	Module string          `json:"module"`
	Config json.RawMessage `json:"config"`
}
