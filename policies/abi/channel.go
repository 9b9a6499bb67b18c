package abi

import (
	"slices"
	"strings"
)

// OutputName gives the name of the output that the channel carries; ok is false for the
// logs and the exit status.
func (c Channel) OutputName() (name string, ok bool) {
	name, ok = strings.CutPrefix(string(c), "outputs.")
	return name, ok && name != ""
}

// AnyOutput stands for every output in [Manifest].Redacts.
const AnyOutput Channel = "outputs.*"

// redactable reports whether a manifest may name the channel as one to redact. The exit status
// is a number that a policy consents to or does not.
func (c Channel) redactable() bool {
	_, output := c.OutputName()
	return output || c == Stdout || c == Stderr
}

// RedactsChannel reports whether the policy may replace the artifact of a channel.
func (m Manifest) RedactsChannel(channel Channel) bool {
	_, output := channel.OutputName()
	return slices.Contains(m.Redacts, channel) || output && slices.Contains(m.Redacts, AnyOutput)
}

// Path is where a policy finds the artifact of the channel.
func (c Channel) Path() string { return ArtifactRoot + "/" + string(c) }
