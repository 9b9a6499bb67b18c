// Package boot is what PID 1 of an enclave does: it reads the measured profile, wires the
// runner to executors, policies and the listener, and serves until it is told to end.
//
// It ignores its arguments and its environment: everything that it goes by is at the fixed
// paths of package image. Nothing simulated is linked into it. Where the profile says that the enclave
// meets its parent over AF_VSOCK there is nothing beneath it but a kernel, and it brings up that first (package
// machine).
package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/core/space"
	"github.com/cloister-run/cloister/enclave/api"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/boot/machine"
	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/worker"
)

// Run boots the enclave and serves until ctx ends. The console takes a few lines of text and
// is read by whoever runs the enclave: nothing of a job goes there but its ID. Of an enclave that boots by
// itself the machine ends as Run does.
func Run(ctx context.Context, console io.Writer) error {
	p, err := readProfile(filepath.Join(image.Dir, image.Profile))
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	if !p.alone() {
		return p.run(ctx, console)
	}
	if err := p.runAlone(ctx, console); err != nil {
		_, _ = fmt.Fprintln(console, "cloisterd: error:", err) // a console that is gone has nobody to tell
	}
	return machine.Down()
}

// run serves once everything beneath is there. Its errors carry the prefix.
func (p *profile) run(ctx context.Context, console io.Writer) error {
	nsm, err := p.openNSM()
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	return errors.Join(p.runWith(ctx, nsm, console), nsm.Close())
}

// runWith is run with a module.
func (p *profile) runWith(ctx context.Context, nsm attest.Device, console io.Writer) (err error) {
	log := slog.New(slog.NewTextHandler(console, nil))
	executors, err := host.New(p.executors())
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	defer func() { err = errors.Join(err, executors.Close()) }()
	m, err := p.readMachine()
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	workers, err := m.policyWorkers()
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	defer func() { err = errors.Join(err, workers.Close()) }()
	moduleID, pcrs, err := identify(ctx, nsm)
	if err != nil {
		return fmt.Errorf("boot: asking the NSM who this enclave is: %w", err)
	}
	asks, err := p.openKMS(nsm)
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	defer func() { err = errors.Join(err, asks.Close()) }()
	runner := core.New(core.Config{
		Executors: executorHost{executors},
		Policies:  policyWorkers{workers},
		Spaces:    space.NewMaker(image.State, m.distinct),
		Ledger:    queue.NewLedger(m.forJobs()),
		NSM:       nsm,
		Keys:      kms{asks},
		ModuleID:  moduleID,
		PCRs:      pcrs.Hex(),
		Realm:     string(p.Realm),
		Version:   image.Version,
		Rehearsal: p.Rehearsal,
		Now:       (&steady{now: time.Now}).time,
	})
	defer func() { err = errors.Join(err, runner.Close()) }()
	enclave := wire.Enclave{Version: image.Version, Realm: string(p.Realm), Partition: p.KMS.Partition, Executors: installed(executors)}
	return p.serve(ctx, api.New(api.Config{Runner: runner, Enclave: enclave, NSM: nsm, Log: log}), console)
}

// executors is where the image has executors, and what their walls must have. In a Nitro Enclave a limit for
// each process alone would leave other owners' jobs without memory.
func (p *profile) executors() host.Config {
	return host.Config{
		Dir: filepath.Join(image.Dir, image.Executors), Rootfs: image.Root, Init: filepath.Join(image.Dir, image.Walls),
		Together: p.Realm == attest.RealmAWS,
	}
}

// serve listens, and says so: to the parent, and on the console.
func (p *profile) serve(ctx context.Context, server *api.Server, console io.Writer) error {
	l, err := p.listen()
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	var serving errgroup.Group
	serving.Go(func() error { return server.Serve(l) })
	if err := p.comeForward(ctx); err != nil {
		return errors.Join(fmt.Errorf("boot: %w", err), server.Close(), serving.Wait())
	}
	if _, err := fmt.Fprintln(console, image.Ready); err != nil {
		return errors.Join(fmt.Errorf("boot: %w", err), server.Close(), serving.Wait())
	}
	return serving.Wait()
}

// firstWorker is the first of the users that policy workers run as, below those of jobs (package space).
const firstWorker = 0x70000000 - 4096

// policyWorkers makes the pool that policies are asked in.
func (m surroundings) policyWorkers() (*worker.Pool, error) {
	empty := filepath.Join(image.Run, "empty")
	if err := os.Mkdir(empty, 0o555); err != nil {
		return nil, err
	}
	owner := -1
	if m.distinct {
		owner = firstWorker
	}
	return worker.New(worker.Config{Workers: m.workers(), Start: worker.Walled(worker.Walls{
		Executable: filepath.Join(image.Dir, image.PolicyWorker), Init: filepath.Join(image.Dir, image.Walls),
		Root: empty, FirstOwner: owner,
	})}), nil
}

func installed(executors *host.Host) []abi.Executor {
	var all []abi.Executor
	for _, info := range executors.List() {
		all = append(all, abi.Executor{Name: info.Name, Version: info.Version, Digest: info.Digest})
	}
	return all
}
