package abi

import (
	"io"
	"io/fs"
	"time"
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

// readRate is how many bytes a policy has a second more for. A slow one reads twice as many.
const readRate = 10 << 20

// ReadTime is the time that a policy gets for a request on top of what it gets for any: a second for
// every 10 MiB of what it may have to read, which is the artifacts and the assets of its own owner. It
// is a day at most.
func (r Request) ReadTime() time.Duration {
	if !r.Point.HasFiles() {
		return 0
	}
	var bytes float64 // which has no overflow
	for _, a := range r.Artifacts {
		bytes += float64(a.Bytes)
	}
	for _, a := range r.Assets {
		if r.Self >= 0 && r.Self < len(r.Policies) && a.Owner == r.Policies[r.Self].Owner {
			bytes += float64(a.Bytes)
		}
	}
	return time.Duration(min(max(0, bytes/readRate), 24*60*60)) * time.Second
}

// HasFiles reports whether artifacts belong to a point.
func (p Point) HasFiles() bool { return p == Redact || p == Egress }
