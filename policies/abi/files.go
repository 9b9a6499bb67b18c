package abi

import (
	"io"
	"io/fs"
)

// Files is what a policy finds around it, beside its request. What is nil is not there.
type Files struct {
	// Artifacts has an entry for each artifact, at [Redact] and [Egress]; under [ArtifactRoot].
	Artifacts fs.FS
	// Own has an entry for each asset of the policy's owner, at the same points; under [OwnRoot].
	// An operator's policy finds the operator's plain assets there.
	Own fs.FS
	// Redacted takes replacements, at [Redact] only; under [RedactedRoot].
	Redacted Sink
}

// Sink takes files, each written once from its beginning to its end. Names are slash-separated
// and relative, and begin with a channel's. It is not safe for concurrent use.
//
// A Sink has a quota. Errors wrap those of package fs, or syscall's ENOSPC beyond the quota.
type Sink interface {
	// Mkdir makes a folder in a folder that is there.
	Mkdir(name string) error
	// Create makes a file that is not there yet.
	Create(name string) (io.WriteCloser, error)
}

// HasFiles reports whether artifacts belong to a point.
func (p Point) HasFiles() bool { return p == Redact || p == Egress }
