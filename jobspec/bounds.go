package jobspec

import "time"

// What a reader of jobs must be ready to hold.
const (
	// MaxFile bounds a job file in bytes.
	MaxFile = 256 << 10
	// MaxCanonical bounds the JSON of a canonical job in bytes.
	MaxCanonical = 1 << 20
)

// Bounds on the file as such. Aliases count as often as they are used.
const (
	maxDepth    = 32
	maxNodes    = 10_000
	maxAliases  = 64
	maxExpanded = 1 << 20 // bytes of text
	maxProblems = 100
)

// Bounds on what a job holds; lengths are in bytes.
const (
	maxName         = 63
	maxInputs       = 32
	maxOutputs      = 32
	maxRecipients   = 16 // of an output
	maxRecipient    = 2048
	maxPolicies     = 16
	maxArgs         = 256
	maxArg          = 4096
	maxEnv          = 64
	maxEnvName      = 128
	maxEnvValue     = 4096
	maxParameters   = 32
	maxEnvironments = 16
	maxValue        = 1024 // of a parameter
	maxPattern      = 256
	maxHostPath     = 4096 // PATH_MAX, linux/limits.h
	maxPlace        = 1024 // of an entrypoint or an output, inside
	maxPlaceStep    = 255  // NAME_MAX, linux/limits.h
	maxPlaceDepth   = 16
	maxConfig       = 64 << 10
	maxNumber       = 64
	// maxPatternSteps bounds a pattern with its repetitions written out, since that is what
	// matching costs per byte of a value.
	maxPatternSteps = 2000
	// maxExpandedArg and maxExpandedArgs bound arguments after expansion: Linux takes 128 KiB
	// for one (MAX_ARG_STRLEN) and a quarter of the stack, 2 MiB by default, for all.
	maxExpandedArg  = 64 << 10
	maxExpandedArgs = 1 << 20
)

// Bounds on limits.
const (
	maxCPUs      = 256
	minMemory    = 1 << 20
	maxMemory    = 1 << 40
	minDisk      = 1 << 20
	maxDisk      = 1 << 40
	maxProcesses = 32768 // PID_MAX_DEFAULT, linux/threads.h
	maxQueue     = 7 * 24 * time.Hour
	minRun       = time.Millisecond
	maxRun       = 7 * 24 * time.Hour
	minKeep      = time.Minute
	maxKeep      = 7 * 24 * time.Hour
)

// DefaultExecutor runs a command that names none.
const DefaultExecutor = "python"

// DefaultKeep is how long results wait for an operator who says nothing else.
const DefaultKeep = 15 * time.Minute

// DefaultLimits are the limits of a job that states none.
func DefaultLimits() Limits {
	return Limits{CPUs: 1, Memory: 1 << 30, Disk: 1 << 30, Processes: 256, Queue: time.Hour, Run: time.Hour}
}

// Spellings, shared by the rules and the schema. All are anchored and mean the same to RE2
// and to ECMA 262.
const (
	kebabPattern    = `^[a-z0-9]+(-[a-z0-9]+)*$`
	namePattern     = `^[a-z][a-z0-9_]*$`
	envPattern      = `^[A-Za-z_][A-Za-z0-9_]*$`
	usePattern      = `^library/[a-z0-9]+(-[a-z0-9]+)*$`
	sizePattern     = `^(0|[1-9][0-9]*)(B|KB|KiB|MB|MiB|GB|GiB|TB|TiB)?$`
	durationPattern = `^([0-9]+(ms|s|m|h))+$`
	digestPattern   = `^sha256:[0-9a-f]{64}$`
	// numberPattern is a JSON number (RFC 8259, section 6).
	numberPattern = `^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`
	wholePattern  = `^-?(0|[1-9][0-9]*)$`
)
