// Package abi is the one definition of what the border and a policy say to each other.
//
// A policy is a WASI preview-1 command. It reads one [Request] as JSON from standard
// input and writes one [Decision] as JSON to standard output. Once the application has ended
// it finds the artifacts that it judges under [ArtifactRoot], its owner's assets under
// [OwnRoot], and may put other files in the place of artifacts under [RedactedRoot].
//
// The package imports the standard library only, so that a guest can share it. It holds
// shapes and the rules that can be checked without a policy engine; it decides nothing.
package abi

import "encoding/json"

// Version is the ABI version that this package speaks. A policy states the version that
// it was written for in its [Manifest]; an unknown or newer one is a denial.
const Version = 1

// SectionName is the WebAssembly custom section that carries a [Manifest] as JSON.
const SectionName = "cloister.policy"

// MaxCodes bounds the denial codes that a policy may declare: with "denied" and
// "allowed" a run then tells the operator one of few values (invariant I7).
const MaxCodes = 15

// Where a policy finds files; see [Files].
const (
	// ArtifactRoot holds what would leave: the artifact of channel C is at ArtifactRoot/C, a file
	// or a folder.
	ArtifactRoot = "/artifact"
	// OwnRoot holds the assets of the policy's own owner by their names, each a file or a folder.
	OwnRoot = "/self"
	// RedactedRoot takes replacements, under the same names as ArtifactRoot has.
	RedactedRoot = "/redacted"
)

// Point is a place on a job's way where every policy decides.
type Point string

// The points, in the order in which a job meets them.
const (
	// Admit comes first: the policy sees the job and claims. It consents to channels.
	Admit Point = "admit"
	// Ingress comes when every asset has arrived: the same request on verified facts.
	Ingress Point = "ingress"
	// Redact comes when the application is dead and its outputs are frozen. Only policies that
	// declare channels to redact are asked, one after the other, each about what the one before left.
	Redact Point = "redact"
	// Egress comes last: every policy judges exactly the bytes that would leave.
	Egress Point = "egress"
)

// Channel names one way out of the enclave, spelt as its path in the job file:
// "outputs.NAME", "logs.stdout", "logs.stderr" or "exit".
type Channel string

// The channels that are not outputs.
const (
	Stdout Channel = "logs.stdout"
	Stderr Channel = "logs.stderr"
	Exit   Channel = "exit"
)

// Output is the channel of the output called name.
func Output(name string) Channel { return Channel("outputs." + name) }

// Request is what a policy is asked.
type Request struct {
	ABI   int   `json:"abi"`
	Point Point `json:"point"`
	// Job is the canonical job (package jobspec), JobDigest its "sha256:…".
	Job       json.RawMessage `json:"job"`
	JobDigest string          `json:"job_digest"`
	Executor  Executor        `json:"executor"`
	// Assets is sorted by name. At admit the facts are claims; from ingress on they are verified.
	Assets []Asset `json:"assets"`
	// Policies names every policy in the job, in the order in which they are asked.
	Policies []PolicyRef `json:"policies"`
	// Self says which of Policies is being asked.
	Self int `json:"self"`
	// Config is the configuration of the policy being asked; "null" if it has none.
	Config json.RawMessage `json:"config"`
	// Channels is what the job asks for at admit, and what every policy consented to afterwards.
	Channels []Channel `json:"channels"`
	// Time is RFC 3339, UTC, whole seconds.
	Time string `json:"time"`
	// PCRs maps "0", "1", … to lower-case hex; empty where the enclave is not attested.
	PCRs map[string]string `json:"pcrs"`
	// Boot counts since this enclave booted.
	Boot Boot `json:"boot"`
	// Sharing is the number of other jobs in the enclave at this moment.
	Sharing int `json:"sharing"`
	// Artifacts is what the decision is about; at redact and egress only. Sorted by channel.
	Artifacts []Artifact `json:"artifacts,omitempty"`
}

// Executor is the plugin that runs the application.
type Executor struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Digest is the "sha256:…" of the executable, taken by the host.
	Digest string `json:"digest"`
}

// Asset is an application, a model or a data set, or the operator's own input.
type Asset struct {
	// Name is "application", "environment" or "inputs.NAME", as in the job file.
	Name string `json:"name"`
	// Kind is "application", "environment" (what the application runs in, always plain), "model",
	// "dataset" or "input" (plain, kind not stated).
	Kind string `json:"kind"`
	// Form is "file" or "tree": whether the application is given a file or a folder.
	Form string `json:"form"`
	// Digest is the tree digest of a plain asset (a file is a tree of one entry); empty at admit.
	Digest string `json:"digest"`
	// Owner is the key ARN of a sealed asset; empty for the operator's own.
	Owner string `json:"owner"`
	// Sealed says that the asset came as a sealed bundle.
	Sealed bool `json:"sealed"`
	// Verified says that Digest, Owner and Bytes were established inside the enclave.
	Verified bool `json:"verified"`
	// Bytes is the size of the content: as claimed at admit, as counted afterwards.
	Bytes int64 `json:"bytes"`
}

// PolicyRef names one policy of a job.
type PolicyRef struct {
	// Owner is the key ARN of the asset that the policy is sealed to; empty for the operator's own.
	Owner string `json:"owner"`
	// Asset is the name of that asset; empty for the operator's own policy.
	Asset string `json:"asset"`
	// Module and Config are "sha256:…" of the module and of the canonical configuration.
	Module string `json:"module"`
	Config string `json:"config"`
}

// Boot counts what happened since the enclave booted.
type Boot struct {
	Runs    int `json:"runs"`
	Denials int `json:"denials"`
}

// Artifact describes one frozen output; its content is under [ArtifactRoot].
type Artifact struct {
	Channel Channel `json:"channel"`
	// Kind is "file" or "tree".
	Kind string `json:"kind"`
	// Digest is the "sha256:…" of a file's bytes, or the tree digest.
	Digest string `json:"digest"`
	// Bytes sums the content of all files; Files counts them.
	Bytes int64 `json:"bytes"`
	Files int   `json:"files"`
	// Recipients are the age recipients to whom it is sealed before it leaves; nil for one that
	// leaves plain. A policy judges what is sealed; a receipt has the kind, digest and size of the
	// age file.
	Recipients []string `json:"recipients,omitempty"`
}

// Decision is a policy's answer. The zero Decision denies.
type Decision struct {
	Allow bool `json:"allow"`
	// Code is one of the policy's declared codes, for a denial; empty otherwise.
	Code string `json:"code,omitempty"`
	// Channels, at admit, is what the policy may ever release: a subset of the request's.
	Channels []Channel `json:"channels,omitempty"`
	// Caps, at admit, bounds the bytes of a consented channel.
	Caps map[Channel]int64 `json:"caps,omitempty"`
	// Recipients, at admit, restricts whom outputs go to: each must be sealed to some of them and to
	// nobody else. Nil leaves it open, plain outputs too; an empty list accepts nobody (so it is
	// written, and only nil is left out).
	Recipients []string `json:"recipients,omitzero"`
	// Redacted, at redact, names the channels whose artifact is to be replaced by what the policy
	// wrote under [RedactedRoot].
	Redacted []Channel `json:"redacted,omitempty"`
}

// Manifest is the content of the custom section [SectionName].
type Manifest struct {
	ABI int `json:"abi"`
	// Name is for people: "csv-columns".
	Name string `json:"name"`
	// Codes lists at most [MaxCodes] denial codes.
	Codes []Code `json:"codes,omitempty"`
	// ConfigSchema is a JSON Schema (2020-12) for the configuration; absent means none is accepted.
	ConfigSchema json.RawMessage `json:"config_schema,omitempty"`
	// Redacts lists the channels that the policy may redact: "outputs.NAME", "logs.stdout",
	// "logs.stderr", or [AnyOutput]. Without one it is never asked at [Redact].
	Redacts []Channel `json:"redacts,omitempty"`
	// Environments says that the policy knows that an application may run in an environment, an asset of
	// that kind, which can do what the application can. A sealed asset whose policy does not say so is not
	// used by a plain application in an environment.
	Environments bool `json:"environments,omitempty"`
	// Rego is for a module that OPA built, and for no other.
	Rego *Rego `json:"rego,omitempty"`
}

// Rego says how a module that OPA built is asked.
type Rego struct {
	// Entrypoint is the path of the rule whose value is the decision, "cloister/decision". Empty: the only one.
	Entrypoint string `json:"entrypoint"`
}

// Code is a reason for a denial that the operator may be told.
type Code struct {
	// Code is lower-case kebab, at most 32 bytes.
	Code string `json:"code"`
	// Hint is one line of printable text, at most 200 bytes: how to cure it. It is static,
	// fixed when the policy was packed, so it tells nothing about the data.
	Hint string `json:"hint"`
}
