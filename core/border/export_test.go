package border

import "github.com/cloister-run/cloister/policies/abi"

// SinkFor is what the policy with a manifest writes replacements of artifacts into, of so many names at most.
func SinkFor(l Leaving, m abi.Manifest, artifacts []abi.Artifact, entries int) (abi.Sink, error) {
	return newSink(l, "sink", m, artifacts, entries)
}
