package abi

import "strings"

// OutputName gives the name of the output that the channel carries; ok is false for the
// logs and the exit status.
func (c Channel) OutputName() (name string, ok bool) {
	name, ok = strings.CutPrefix(string(c), "outputs.")
	return name, ok && name != ""
}

// Path is where a policy finds the artifact of the channel.
func (c Channel) Path() string { return ArtifactRoot + "/" + string(c) }
