// Package core takes a job through its phases: admit, receive and unseal, ingress, execute, egress,
// receipt.
//
// It owns the order of things and the life of a job's files. It trusts the operator for
// nothing but the operator's own assets, an executor for nothing at all, and a policy for its
// own verdict alone; what crosses the border is decided and released in package border. It
// declares the small interfaces that it consumes and knows no plugin, WebAssembly or cloud
// library. It never writes plaintext outside the folders that [Spaces] gives it.
package core

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/core/space"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

// Config configures a [Runner]. Every field is required unless its comment says otherwise.
type Config struct {
	Executors Executors
	Policies  Policies
	Spaces    Spaces
	Ledger    *queue.Ledger
	// NSM measures and vouches for this enclave.
	NSM NSM
	// Keys reaches the KMS that unwraps the data keys of sealed assets.
	Keys Keys
	// ModuleID and PCRs are the NSM's, for records and requests: PCRs by decimal index, lower-case hex.
	ModuleID string
	PCRs     map[string]string
	// Realm and Version go into every record: "aws" is for Nitro Enclaves alone.
	Realm, Version string
	// Rehearsal shows the operator the application's logs, whatever policies say, and every record says
	// so. The measured profile of an image fixes it: owners release no key to such an image but those of
	// stand-ins.
	Rehearsal bool
	// Idle bounds how long a job waits for the next thing that its operator must send [5 min].
	Idle time.Duration
	// Keep is how long results wait for the operator at most, whatever a job asks for [7 days].
	Keep time.Duration
	// Now is the clock of requests and records [time.Now].
	Now func() time.Time
}

// Executors launches plugins.
type Executors interface {
	// Find says what is installed under a name.
	Find(name string) (abi.Executor, error)
	// Launch starts one in walls of its own. Where the machine cannot give a wall the error
	// is an [UnavailableError].
	Launch(ctx context.Context, name string, place executor.Place) (Session, error)
}

// Session is one launched executor, good for one job.
type Session interface {
	executor.Executor
	// Kill ends the executor and everything that it started, and returns when nothing runs.
	Kill() error
	// Walls says what enforces each limit.
	Walls() []string
}

// Policies loads policies.
type Policies interface {
	// Load makes a policy of a module. An error is the module's fault, and its text is for whoever
	// sent it, unless ctx ended or it is an [UnavailableError].
	Load(ctx context.Context, module []byte) (Policy, error)
}

// Policy is a loaded policy.
type Policy interface {
	border.Judge
	Manifest() abi.Manifest
	// CheckConfig says what is wrong with a configuration, unless ctx ended.
	CheckConfig(ctx context.Context, config json.RawMessage) error
}

// NSM is what core uses of a Nitro Security Module. It is safe for concurrent use.
type NSM interface {
	attest.Attester
	attest.Registers
}

// Keys reaches a KMS.
type Keys interface {
	// Login takes the operator's credentials for one job, as package wire has them, and asks for
	// nothing yet. Its errors quote nothing of them.
	Login(credentials []byte) (Unwrapper, error)
}

// Unwrapper has the data keys of one job unwrapped. It is safe for concurrent use.
type Unwrapper interface {
	// Unwrap has the KMS unwrap a data key that the key keyARN wrapped under an encryption context.
	// It answers only if the KMS names that key as the one that it used. The caller owns the data
	// key. Errors are a [KeyError], or the context's, or the machine's.
	Unwrap(ctx context.Context, keyARN string, wrapped []byte, encryptionContext map[string]string) (dataKey []byte, requestID string, err error)
}

// KeyError says why there is no data key.
type KeyError struct {
	// Refused: the KMS says no, or its answer is none to what was asked. Else it cannot be reached,
	// or has no time.
	Refused bool
	// Asset is set by this package, Reason by whoever asked: one printable line.
	Asset, Reason string
}

func (e *KeyError) Error() string { return e.Asset + ": " + e.Reason }

// Spaces makes the folders of jobs.
type Spaces interface {
	Make(id string, disk, sealed int64) (*space.Space, error)
}

// UnavailableError says that the machine cannot give what a job needs, and how to cure it.
type UnavailableError struct{ Reason, Cure string }

func (e *UnavailableError) Error() string { return e.Reason }

// Sentinels for the outcomes that a caller branches on.
var (
	// ErrInvalid: what the operator sent is not what a job may be.
	ErrInvalid = errors.New("invalid")
	// ErrConflict: the same thing was sent before, with other content or at another time.
	ErrConflict = errors.New("conflict")
	// ErrNotFound: no such job, or the token is not its own.
	ErrNotFound = errors.New("no such job")
	// ErrOrder: it is too early or too late for this call.
	ErrOrder = errors.New("not at this point of the job")
	// ErrOver: the job takes nothing any more, or gives nothing; its result says why.
	ErrOver = errors.New("the job is over")
	// ErrClosed: the runner takes no more jobs.
	ErrClosed = errors.New("enclave is stopping")
)

// The causes with which a job's context ends.
var (
	errCancelled = errors.New("cancelled")
	errTimedOut  = errors.New("timed out")
	errNoTurn    = errors.New("no room in time")
	errIdle      = errors.New("nothing arrived for too long")
	errBroken    = errors.New("an upload broke off")
)

// Phase is where a job is. The set is closed: nothing of the job's own can become a phase.
type Phase string

// The phases, in order.
const (
	// Queued: the job waits for room. A job that finds room at once begins with Admitting.
	Queued    Phase = "queued"
	Admitting Phase = "admitting"
	Receiving Phase = "receiving"
	Ingress   Phase = "ingress"
	Executing Phase = "executing"
	Egress    Phase = "egress"
	Done      Phase = "done"
)

// Fault says why a job's outcome is [receipt.Broken]. The set is closed.
type Fault string

// The faults.
const (
	// FaultMachine: the machine cannot give the walls, or the enclave itself failed.
	FaultMachine Fault = "machine"
	// FaultExecutor: the executor did not start, or broke its protocol before it ran anything.
	FaultExecutor Fault = "executor"
	// FaultRuntime: the interpreter is missing or broken.
	FaultRuntime Fault = "runtime"
	// FaultEntrypoint: the entrypoint cannot be run.
	FaultEntrypoint Fault = "entrypoint"
	// FaultEnvironment: the executor cannot use the environment.
	FaultEnvironment Fault = "environment"
	// FaultGone: the executor died, or broke its protocol, while the application ran.
	FaultGone Fault = "gone"
	// FaultKMS: the KMS of a sealed asset cannot be reached, or has no time.
	FaultKMS Fault = "kms"
)

// Result is what the operator is told of a job that is done.
type Result struct {
	Outcome receipt.Outcome `json:"outcome"`
	// Fault is set where Outcome is Broken.
	Fault Fault `json:"fault,omitempty"`
	// Denial is set where Outcome is Denied.
	Denial *border.Denial `json:"denial,omitempty"`
	// Detail and Hint are in the enclave's own words: from the moment at which the executor could
	// see an asset, they are of a closed set, but for what package border says of a denial or an
	// output.
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"`
}
