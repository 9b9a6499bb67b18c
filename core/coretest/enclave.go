// Package coretest is an enclave in memory for tests: a real [core.Runner] with executors and
// policies written as Go functions, and jobs in plain folders below a temporary one.
//
// It trusts its caller, and is linked into no command.
package coretest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/core/space"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

// Memory is what jobs may use together, in bytes.
const Memory = 1 << 40

// Enclave is a runner and what it stands on.
type Enclave struct {
	*core.Runner
	Executors *Executors
	Policies  *Policies
	NSM       *NSM
	Keys      *Keys
	// Dir holds the folders of jobs, one for each by its ID.
	Dir string
	// Disk is the mounter of the folders that applications write to.
	Disk *Disk
}

// New makes an enclave. When the test ends it is closed, and nothing of any job may be left.
func New(t testing.TB, change ...func(*core.Config)) *Enclave {
	t.Helper()
	dir, err := os.MkdirTemp("", "enclave")
	if err != nil {
		t.Fatal(err)
	}
	e := &Enclave{
		Executors: &Executors{}, Policies: &Policies{Known: map[string]*Policy{}}, Dir: dir, Disk: &Disk{},
		NSM: NewNSM(t), Keys: &Keys{},
	}
	cfg := core.Config{
		Executors: e.Executors, Policies: e.Policies,
		Spaces: space.NewMakerWith(dir, false, e.Disk), Ledger: queue.NewLedger(Memory),
		NSM: e.NSM, Keys: e.Keys, ModuleID: e.NSM.ModuleID(), PCRs: PCRs().Hex(),
		Realm: string(attest.RealmLocal), Version: "0",
	}
	for _, c := range change {
		c(&cfg)
	}
	e.Runner = core.New(cfg)
	t.Cleanup(func() {
		e.Disk.Heal()
		if err := e.Close(); err != nil {
			t.Errorf("closing the runner: %v", err)
		}
		e.Empty(t)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return e
}

// Empty fails the test if anything of any job is left.
func (e *Enclave) Empty(t testing.TB) {
	t.Helper()
	entries, err := os.ReadDir(e.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		t.Errorf("the folder of job %s is left", entry.Name())
	}
	if b := e.Balance(); b.Reserved != 0 {
		t.Errorf("%d bytes are still promised", b.Reserved)
	}
	if n := e.Executors.Running(); n != 0 {
		t.Errorf("%d executors still run", n)
	}
}

// Disk mounts nothing: a file system is a folder. It fails on demand.
type Disk struct {
	mu                sync.Mutex
	noMount, noUmount error
}

// Break makes mounting and unmounting fail from now on, unless the error is nil.
func (d *Disk) Break(mount, unmount error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noMount, d.noUmount = mount, unmount
}

// Heal makes both work again.
func (d *Disk) Heal() { d.Break(nil, nil) }

// Mount makes a folder.
func (d *Disk) Mount(dir string, _ int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.noMount != nil {
		return d.noMount
	}
	return os.MkdirAll(dir, 0o700)
}

// Unmount removes it.
func (d *Disk) Unmount(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.noUmount != nil {
		return d.noUmount
	}
	return os.RemoveAll(dir)
}

// Session is what a launched executor does. Functions that are nil do what is usual; those that
// are given may ignore their context, and then hang until Kill.
type Session struct {
	Describe func(ctx context.Context) error
	Prepare  func(ctx context.Context, s *Running) (executor.Runtime, error)
	Run      func(ctx context.Context, s *Running, task executor.Task) (executor.Result, error)
	Kill     func() error
	Walls    []string
}

// Executors launches fakes of the one executor "python". It is safe for concurrent use.
type Executors struct {
	// Next gives the session of the next launch; nil launches one that succeeds at once.
	Next func(ctx context.Context, place executor.Place) (Session, error)

	mu       sync.Mutex
	launched []*Running
}

var _ core.Executors = (*Executors)(nil)

// Info is what is installed.
func Info() abi.Executor {
	return abi.Executor{Name: "python", Version: "1", Digest: "sha256:" + strings.Repeat("ab", 32)}
}

// Find knows "python".
func (e *Executors) Find(name string) (abi.Executor, error) {
	if name != "python" {
		return abi.Executor{}, fmt.Errorf("no executor %q", name)
	}
	return Info(), nil
}

// Launch launches one.
func (e *Executors) Launch(ctx context.Context, _ string, place executor.Place) (core.Session, error) {
	var session Session
	if e.Next != nil {
		var err error
		if session, err = e.Next(ctx, place); err != nil {
			return nil, err
		}
	}
	s := &Running{Place: place, Dead: make(chan struct{}), session: session}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.launched = append(e.launched, s)
	return s, nil
}

// Launched lists every session so far.
func (e *Executors) Launched() []*Running {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]*Running(nil), e.launched...)
}

// Running counts the sessions that were launched and not killed.
func (e *Executors) Running() (n int) {
	for _, s := range e.Launched() {
		select {
		case <-s.Dead:
		default:
			n++
		}
	}
	return n
}

// Running is one launched executor.
type Running struct {
	// Place is what it was given. Dead is closed when it is killed.
	Place executor.Place
	Dead  chan struct{}

	session Session
	kill    sync.Once
	err     error
}

var _ core.Session = (*Running)(nil)

// Describe describes the executor.
func (s *Running) Describe(ctx context.Context) (executor.Description, error) {
	if s.session.Describe != nil {
		if err := s.session.Describe(ctx); err != nil {
			return executor.Description{}, err
		}
	}
	return executor.Description{Name: "python", Version: "1"}, nil
}

// Prepare prepares it.
func (s *Running) Prepare(ctx context.Context) (executor.Runtime, error) {
	if s.session.Prepare != nil {
		return s.session.Prepare(ctx, s)
	}
	return executor.Runtime{Name: "CPython", Version: "3"}, nil
}

// Run runs the application.
func (s *Running) Run(ctx context.Context, task executor.Task) (executor.Result, error) {
	if s.session.Run != nil {
		return s.session.Run(ctx, s, task)
	}
	return executor.Result{}, nil
}

// Stop does nothing.
func (s *Running) Stop(context.Context) error { return nil }

// Kill ends it.
func (s *Running) Kill() error {
	s.kill.Do(func() {
		close(s.Dead)
		if s.session.Kill != nil {
			s.err = s.session.Kill()
		}
	})
	return s.err
}

// Walls are the walls.
func (s *Running) Walls() []string { return append([]string{"none: a test"}, s.session.Walls...) }

// Path is where a path inside the sandbox is.
func (s *Running) Path(inside string) string {
	if rest, ok := strings.CutPrefix(inside, executor.AssetsDir); ok {
		return filepath.Join(s.Place.Assets, rest)
	}
	return filepath.Join(s.Place.Work, strings.TrimPrefix(inside, executor.WorkDir))
}

// Write writes a file of the application's, by its path below the folder of outputs.
func (s *Running) Write(output, content string) error {
	name := filepath.Join(s.Place.Work, space.Outputs, output)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(content), 0o600)
}

// Log writes to a log if the task has it.
func (s *Running) Log(inside, content string) error {
	if inside == "" {
		return nil
	}
	return os.WriteFile(s.Path(inside), []byte(content), 0o600)
}

// Policies are modules whose whole content is a name in Known. It is safe for concurrent use
// once Known is filled.
type Policies struct {
	Known map[string]*Policy
	// Loading, if it is not nil, is called before a module is loaded.
	Loading func(ctx context.Context, module string) error
}

var _ core.Policies = (*Policies)(nil)

// Load finds a policy.
func (p *Policies) Load(ctx context.Context, module []byte) (core.Policy, error) {
	if p.Loading != nil {
		if err := p.Loading(ctx, string(module)); err != nil {
			return nil, err
		}
	}
	if known, ok := p.Known[string(module)]; ok {
		return known, nil
	}
	return nil, errors.New("no policy")
}

// Policy decides by At, and allows where that says nothing. It is safe for concurrent use.
type Policy struct {
	At      map[abi.Point]func(ctx context.Context, r abi.Request, files abi.Files) (abi.Decision, error)
	Codes   []abi.Code
	Redacts []abi.Channel
	Config  func(json.RawMessage) error
	// Environments says that it knows them.
	Environments bool

	mu    sync.Mutex
	asked []abi.Request
}

var _ core.Policy = (*Policy)(nil)

// Asked lists what it was asked at a point.
func (p *Policy) Asked(point abi.Point) (asked []abi.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.asked {
		if r.Point == point {
			asked = append(asked, r)
		}
	}
	return asked
}

// Decide decides.
func (p *Policy) Decide(ctx context.Context, r abi.Request, files abi.Files) (abi.Decision, error) {
	p.mu.Lock()
	p.asked = append(p.asked, r)
	p.mu.Unlock()
	if at := p.At[r.Point]; at != nil {
		return at(ctx, r, files)
	}
	return Allow(r), nil
}

// Allow allows, and consents to every channel.
func Allow(r abi.Request) abi.Decision {
	d := abi.Decision{Allow: true}
	if r.Point == abi.Admit {
		d.Channels = r.Channels
	}
	return d
}

// Manifest declares Codes and Redacts.
func (p *Policy) Manifest() abi.Manifest {
	return abi.Manifest{ABI: abi.Version, Name: "fake", Codes: p.Codes, Redacts: p.Redacts, Environments: p.Environments}
}

// CheckConfig asks Config.
func (p *Policy) CheckConfig(_ context.Context, config json.RawMessage) error {
	if p.Config == nil {
		return nil
	}
	return p.Config(config)
}

// Clock is a clock that stands still.
func Clock() time.Time { return time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC) }
