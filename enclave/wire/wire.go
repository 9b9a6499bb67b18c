// Package wire is the enclave's HTTP API as both of its ends must agree on it: paths, shapes,
// bounds and error codes. Beside strict decoding it holds no behaviour.
//
// The API is HTTP/1.1 over one listener: JSON for control, raw bodies for bulk. Every call
// about a job carries the job's token.
package wire

import (
	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/policies/abi"
)

// The paths. ID is a job's name, DIGEST a module's "sha256:…", ASSET "application" or
// "inputs.NAME", CHANNEL a channel.
const (
	EnclavePath = "/v1/enclave"              // GET: Enclave
	JobsPath    = "/v1/jobs"                 // POST Submit: Submitted
	ModulePath  = "/v1/jobs/{id}/modules/"   // PUT DIGEST, the module
	AdmitPath   = "/v1/jobs/{id}/admission"  // GET: Admission, once it is decided
	AssetPath   = "/v1/jobs/{id}/assets/"    // PUT ASSET, a tar stream
	PhasesPath  = "/v1/jobs/{id}/phases"     // GET: one Progress a line, until the job is done
	RecordPath  = "/v1/jobs/{id}/record"     // GET: the record
	ReleasePath = "/v1/jobs/{id}/channels/"  // GET CHANNEL: a file's bytes or a tar stream
	JobPath     = "/v1/jobs/{id}"            // DELETE: cancels and wipes
	TokenHeader = "Cloister-Token"           //nolint:gosec // the name of a header, not a token
	EndTrailer  = "Cloister-End"             // trailer of a release: "whole" if nothing is missing
	EndWhole    = "whole"                    //
	BulkType    = "application/octet-stream" //
	PhasesType  = "application/x-ndjson"     //
	JSONType    = "application/json"         //
	ErrorMedia  = "application/problem+json" // of an Error (RFC 9457)
)

// Bounds.
const (
	// MaxControl bounds the JSON of a request or an answer that is no record.
	MaxControl = 4 << 20
	// MaxModule bounds a policy's module.
	MaxModule = 16 << 20
)

// Enclave is what an enclave says of itself.
type Enclave struct {
	Version string `json:"version"`
	// Realm is "aws" for a Nitro Enclave and nothing else.
	Realm string `json:"realm"`
	// Executors are those installed, by name.
	Executors []abi.Executor `json:"executors"`
	Memory    queue.Balance  `json:"memory"`
}

// Submit asks for a job.
type Submit struct {
	ID string `json:"id"`
	// Job is the canonical job: text, so that not one byte of it changes on its way.
	Job    string       `json:"job"`
	Assets []core.Claim `json:"assets"`
}

// Submitted is the answer.
type Submitted struct {
	Token string `json:"token"`
	// Modules are the digests of the policies' modules, to be sent now.
	Modules []string `json:"modules"`
}

// Admission says that every policy admitted the job.
type Admission struct {
	Consented []abi.Channel `json:"consented"`
	Need      queue.Need    `json:"need"`
	Memory    queue.Balance `json:"memory"`
}

// Progress is one phase; with the last one comes the result.
type Progress struct {
	Phase  core.Phase   `json:"phase"`
	Result *core.Result `json:"result,omitempty"`
}

// Code says what kind of error it is.
type Code string

// The codes.
const (
	Invalid  Code = "invalid"
	Conflict Code = "conflict"
	NotFound Code = "not-found"
	Order    Code = "order"
	Over     Code = "over" // the job is over; its result says why
	Method   Code = "method"
	NoRoom   Code = "no-room"
	Stopping Code = "stopping"
	Nothing  Code = "nothing-released"
	Internal Code = "internal"
)

// Error is the body of every answer that is no success.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// DecodeSubmit decodes a Submit, strictly (see [abi.DecodeExact]). Whether it makes a job is
// for package core to say.
func DecodeSubmit(raw []byte) (Submit, error) {
	var s Submit
	if err := abi.DecodeExact(raw, MaxControl, &s); err != nil {
		return Submit{}, err
	}
	return s, nil
}
