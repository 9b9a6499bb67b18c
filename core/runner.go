package core

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies/abi"
)

// maxJobs bounds the jobs that a runner knows, those included that wait to be fetched.
const maxJobs = 1024

// Runner runs jobs. It is safe for concurrent use.
type Runner struct {
	cfg Config

	mu     sync.Mutex
	closed bool
	jobs   map[string]*Job
	// runs, denials and sequence count since the enclave booted; active counts jobs that have room and
	// are not done.
	runs, denials, sequence, active int
	boot                            boot
	all                             sync.WaitGroup
}

// New makes a runner.
func New(cfg Config) *Runner {
	if cfg.Idle == 0 {
		cfg.Idle = 5 * time.Minute
	}
	if cfg.Keep == 0 {
		cfg.Keep = 7 * 24 * time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Runner{cfg: cfg, jobs: map[string]*Job{}, boot: boot{nsm: cfg.NSM}}
}

// Claim is what the operator says of an asset before it arrives.
type Claim struct {
	// Name is "application", "environment" or "inputs.NAME".
	Name string `json:"name"`
	// Form is "file" or "tree".
	Form string `json:"form"`
	// Bytes bounds the content of all files. What arrives may have less, never more.
	Bytes int64 `json:"bytes"`
	// Entries bounds files and folders, which take memory too.
	Entries int `json:"entries"`
	// Front names what stands in the open in a sealed bundle, "sha384:…" (package envelope). It is
	// empty for a plain asset.
	Front string `json:"front,omitempty"`
}

// sealed reports whether the asset comes as a sealed bundle.
func (c Claim) sealed() bool { return c.Front != "" }

// Submission asks for a job.
type Submission struct {
	// ID is the operator's name for this one job: 1 to 64 of a-z, 0-9 and '-'.
	ID string
	// Job is the canonical job (package jobspec).
	Job []byte
	// Assets claims the application, the environment if the job has one, and every input, sorted by name.
	Assets []Claim
}

// Submit begins a job, which waits for room if its limits.queue says so. The same submission again
// gives the same job, another one with its ID is [ErrConflict]. Further errors wrap [ErrInvalid],
// [queue.ErrNoRoom], [queue.ErrTooLarge] or [ErrClosed].
func (r *Runner) Submit(s Submission) (*Job, error) {
	spec, err := s.check()
	if err != nil {
		return nil, err
	}
	info, err := r.cfg.Executors.Find(spec.Command.Executor)
	if err != nil {
		return nil, fmt.Errorf("%w: command.executor: %w", ErrInvalid, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.jobs[s.ID]; ok {
		if !known.is(s) {
			return nil, fmt.Errorf("%w: job %s was submitted with other content", ErrConflict, s.ID)
		}
		return known, nil
	}
	switch {
	case r.closed:
		return nil, ErrClosed
	case len(r.jobs) >= maxJobs:
		return nil, fmt.Errorf("%w: %d jobs are here, or wait to be fetched", queue.ErrNoRoom, maxJobs)
	}
	reserved, err := r.cfg.Ledger.Reserve(need(spec, s.Assets), spec.Limits.Queue > 0)
	if err != nil {
		return nil, err
	}
	r.sequence++
	j := newJob(r, s, spec, info, reserved)
	r.jobs[s.ID] = j
	r.all.Go(j.run)
	return j, nil
}

// Job finds a job by its ID and token; without the right token there is none.
func (r *Runner) Job(id, token string) (*Job, error) {
	r.mu.Lock()
	j, ok := r.jobs[id]
	r.mu.Unlock()
	if !ok || subtle.ConstantTimeCompare([]byte(token), []byte(j.token)) != 1 {
		return nil, ErrNotFound
	}
	return j, nil
}

// Balance says how much memory jobs have been promised.
func (r *Runner) Balance() queue.Balance { return r.cfg.Ledger.Balance() }

// Close cancels every job, and returns when all of them have ended and are wiped.
func (r *Runner) Close() error {
	r.mu.Lock()
	r.closed = true
	left := make([]*Job, 0, len(r.jobs))
	for _, j := range r.jobs {
		left = append(left, j)
	}
	r.mu.Unlock()
	for _, j := range left {
		j.Cancel() // all at once, so that they end side by side
	}
	var errs []error
	for _, j := range left {
		errs = append(errs, j.Delete())
	}
	r.all.Wait()
	return errors.Join(errs...)
}

// forget makes a job's ID free again.
func (r *Runner) forget(j *Job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.jobs[j.sub.ID] == j {
		delete(r.jobs, j.sub.ID)
	}
}

// counts gives those for a request, and how many other jobs there are.
func (r *Runner) counts() (abi.Boot, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return abi.Boot{Runs: r.runs, Denials: r.denials}, r.active - 1
}

// entered counts a job that has room.
func (r *Runner) entered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active++
}

// began counts a run.
func (r *Runner) began() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs++
}

// ended counts out a job that had room. denied says that a denial was recorded, whatever became of
// the job then: to cancel it in time spares nobody the count.
func (r *Runner) ended(denied bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active--
	if denied {
		r.denials++
	}
}

// check holds a submission against the rules that need no other party.
func (s Submission) check() (*jobspec.Canonical, error) {
	if len(s.ID) == 0 || len(s.ID) > 64 || !plainID(s.ID) {
		return nil, fmt.Errorf("%w: id: not 1 to 64 of a-z, 0-9 and '-'", ErrInvalid)
	}
	spec, err := jobspec.ParseCanonical(s.Job)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	want := []string{applicationName}
	if spec.Environment {
		want = append(want, environmentName)
	}
	for _, name := range spec.Inputs {
		want = append(want, inputName(name))
	}
	var names []string
	for _, c := range s.Assets {
		names = append(names, c.Name)
		if c.Bytes < 0 || c.Entries < 0 || c.Entries > maxEntries || c.Form != formFile && c.Form != formTree {
			return nil, fmt.Errorf("%w: asset %.80q: no form, size or number of entries", ErrInvalid, c.Name)
		}
		if c.sealed() && !frontDigest.MatchString(c.Front) {
			return nil, fmt.Errorf("%w: asset %.80q: front: not sha384: and 96 hexadecimal digits", ErrInvalid, c.Name)
		}
		if (c.Name == applicationName || c.Name == environmentName) && c.Form != formTree {
			return nil, fmt.Errorf("%w: the %s is no folder", ErrInvalid, c.Name)
		}
		if c.Name == environmentName && c.sealed() {
			return nil, fmt.Errorf("%w: the environment is sealed", ErrInvalid)
		}
	}
	if !slices.Equal(names, want) {
		return nil, fmt.Errorf("%w: the assets are not the application, the environment and the inputs of the job, in order", ErrInvalid)
	}
	return spec, nil
}

// frontDigest is how package envelope names what stands in the open.
var frontDigest = regexp.MustCompile(`^sha384:[0-9a-f]{96}$`)

func plainID(id string) bool {
	for _, c := range []byte(id) {
		if c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// is reports whether j was submitted as s.
func (j *Job) is(s Submission) bool {
	return bytes.Equal(j.sub.Job, s.Job) && slices.Equal(j.sub.Assets, s.Assets)
}

// entryBytes is what a file or folder takes in memory beside its content: the rest of its last
// page, the kernel's own notes about it, and its name while it arrives ([tree.Limits]).
const entryBytes = 6 << 10

// assetBytes is what the names of an asset may have beside that.
const assetBytes = 256 << 10

// moduleShare is how many of the largest modules a job's own policies may have together.
const moduleShare = 4

// unsealBytes is what it takes to open a sealed bundle: its front, held twice, and the segments on
// their way (package envelope).
const unsealBytes = 40 << 20

// need is what a job takes.
func need(spec *jobspec.Canonical, assets []Claim) queue.Need {
	n := queue.Need{Disk: spec.Limits.Disk, Sealed: sealedRoom(spec), Memory: spec.Limits.Memory, Notes: modulesRoom(spec) + namesRoom(spec)}
	for _, c := range assets {
		n.Assets = queue.Need{Assets: n.Assets, Disk: c.Bytes, Memory: int64(c.Entries)*entryBytes + assetBytes}.Total()
		if c.sealed() {
			n.Assets = queue.Need{Assets: n.Assets, Memory: unsealBytes}.Total()
		}
	}
	return n
}

// keeps is what a job takes that has something to release.
func keeps(spec *jobspec.Canonical) int64 {
	return spec.Limits.Disk + sealedRoom(spec) + namesRoom(spec)
}

// sealedRoom is what the sealed outputs of a job take at most: age adds 16 bytes to every 64 KiB and
// 2 KiB for a recipient, and a tar its headers, which a file system has in other places.
func sealedRoom(spec *jobspec.Canonical) int64 {
	if len(spec.SealTo) == 0 {
		return 0
	}
	return spec.Limits.Disk + spec.Limits.Disk/1024 + 4<<20
}

// modulesRoom is what the modules of the job's own policies may have together. Those of bundles are in their fronts.
func modulesRoom(spec *jobspec.Canonical) int64 {
	modules := map[string]bool{}
	for _, p := range spec.Policies {
		modules[p.Module] = true
	}
	return int64(min(len(modules), moduleShare)) * envelope.MaxModule
}

// namesRoom is what the enclave notes of outputs that are folders, in memory of its own: nothing limits it there.
func namesRoom(spec *jobspec.Canonical) int64 {
	for _, place := range spec.Command.Outputs {
		if strings.HasSuffix(place, "/") {
			return border.NotesBytes
		}
	}
	return 0
}

// newToken makes the 256-bit token of a job.
func newToken() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails: it ends the process where there is no randomness
	return hex.EncodeToString(raw[:])
}
