// Package wire is the enclave's HTTP API as both of its ends must agree on it: paths, shapes,
// bounds and error codes. Beside strict decoding it holds no behaviour.
//
// The API is HTTP/1.1 over one listener: JSON for control, raw bodies for bulk. Every call
// about a job carries the job's token.
package wire

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/policies/abi"
)

// The paths. NONCE is 32 to 1024 lower-case hexadecimal digits, ID a job's name, DIGEST a module's
// "sha256:…", ASSET "application", "environment" or "inputs.NAME", CHANNEL a channel.
const (
	EnclavePath     = "/v1/enclave"               // GET: Enclave
	AttestPath      = "/v1/attestation/"          // GET NONCE: an attestation document for a client
	JobsPath        = "/v1/jobs"                  // POST Submit: Submitted
	ModulePath      = "/v1/jobs/{id}/modules/"    // PUT DIGEST, the module
	FrontPath       = "/v1/jobs/{id}/fronts/"     // PUT ASSET, what stands in the open in its bundle
	AdmitPath       = "/v1/jobs/{id}/admission"   // GET: Admission, once it is decided
	CredentialsPath = "/v1/jobs/{id}/credentials" //nolint:gosec // PUT Credentials, once the job is admitted: a path, no secret
	AssetPath       = "/v1/jobs/{id}/assets/"     // PUT ASSET, a tar stream or a sealed bundle
	PhasesPath      = "/v1/jobs/{id}/phases"      // GET [?after=N]: one Progress a line, until the job is done
	StatusPath      = "/v1/jobs/{id}/status"      // GET: the last Progress so far
	ReceiptPath     = "/v1/jobs/{id}/receipt"     // GET: the receipt
	ReleasePath     = "/v1/jobs/{id}/channels/"   // GET CHANNEL: a file's bytes or a tar stream
	RehearsalPath   = "/v1/jobs/{id}/rehearsal/"  // GET CHANNEL: the beginning of a log, in an image for rehearsals
	JobPath         = "/v1/jobs/{id}"             // DELETE: cancels and wipes
	TokenHeader     = "Cloister-Token"            //nolint:gosec // the name of a header, not a token
	EndTrailer      = "Cloister-End"              // trailer of a release: "whole" if nothing is missing
	EndWhole        = "whole"                     //
	AfterQuery      = "after"                     // the number of the last Progress that the caller has seen
	BulkType        = "application/octet-stream"  //
	DocumentType    = "application/cbor"          // of an attestation document
	PhasesType      = "application/x-ndjson"      //
	JSONType        = "application/json"          //
	ErrorMedia      = "application/problem+json"  // of an Error (RFC 9457)
)

// Bounds.
const (
	// MaxControl bounds the JSON of a request or an answer that is no receipt.
	MaxControl = 4 << 20
	// MaxModule bounds a policy's module.
	MaxModule = 16 << 20
	// MaxFront bounds what stands in the open in a sealed bundle.
	MaxFront = envelope.MaxHeader + envelope.MaxModule + 64
	// MaxCredentials bounds the JSON of Credentials. AWS bounds a session token nowhere and advises
	// against any bound (IAM user guide, "Temporary security credentials"); this is far above any seen.
	MaxCredentials = 32 << 10
)

// Enclave is what an enclave says of itself.
type Enclave struct {
	Version string `json:"version"`
	// Realm is "aws" for a Nitro Enclave and nothing else.
	Realm string `json:"realm"`
	// Partition is the AWS partition of whose keys it asks for data keys.
	Partition string `json:"partition"`
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
	// Fronts are the names of the sealed assets whose fronts are to be sent now.
	Fronts []string `json:"fronts"`
	// Queued says that the job waits for room, and that nothing may be sent before its next phase.
	Queued bool `json:"queued"`
}

// Credentials are AWS's, with which the enclave asks for the data keys of one job. They print as
// nothing.
type Credentials struct {
	AccessKeyID     string `json:"access_key_id"`
	SecretAccessKey string `json:"secret_access_key"`
	SessionToken    string `json:"session_token"`
}

// Format hides the values from package fmt, whatever the verb.
func (Credentials) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "credentials") }

// LogValue hides the values from package slog.
func (Credentials) LogValue() slog.Value { return slog.StringValue("credentials") }

// DecodeCredentials decodes Credentials, strictly (see [abi.DecodeExact]). Its errors quote nothing.
func DecodeCredentials(raw []byte) (Credentials, error) {
	var c Credentials
	if err := abi.DecodeExact(raw, MaxCredentials, &c); err != nil {
		return Credentials{}, errors.New("credentials: not as they are to be") // the cause may quote them
	}
	if c.AccessKeyID == "" || c.SecretAccessKey == "" {
		return Credentials{}, errors.New("credentials: access_key_id or secret_access_key is empty")
	}
	return c, nil
}

// Admission says that every policy admitted the job.
type Admission struct {
	Consented []receipt.Consent `json:"consented"`
	Need      queue.Need        `json:"need"`
	Memory    queue.Balance     `json:"memory"`
}

// Progress is one phase; with the last one comes the result.
type Progress struct {
	// Number counts from 1.
	Number int        `json:"number"`
	Phase  core.Phase `json:"phase"`
	// Seconds since it began; of a status only.
	Seconds float64      `json:"seconds,omitempty"`
	Result  *core.Result `json:"result,omitempty"`
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
	TooLarge Code = "too-large"
	Stopping Code = "stopping"
	Nothing  Code = "nothing-released"
	NoKey    Code = "no-key" // of a KMS; the job's result says more
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
