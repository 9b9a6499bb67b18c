package boot

import (
	"context"
	"errors"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/sandbox"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/worker"
)

// executorHost is a host of plugins as core wants it.
type executorHost struct{ host *host.Host }

var _ core.Executors = executorHost{}

func (e executorHost) Find(name string) (abi.Executor, error) {
	info, err := e.host.Find(name)
	if err != nil {
		return abi.Executor{}, err
	}
	return abi.Executor{Name: info.Name, Version: info.Version, Digest: info.Digest}, nil
}

func (e executorHost) Launch(ctx context.Context, name string, place executor.Place) (core.Session, error) {
	session, err := e.host.Launch(ctx, name, place)
	if err != nil {
		return nil, translated(err)
	}
	return session, nil
}

// translated makes the sandbox's error about a missing wall core's.
func translated(err error) error {
	if unavailable, ok := errors.AsType[*sandbox.UnavailableError](err); ok {
		return &core.UnavailableError{Reason: unavailable.Error(), Cure: unavailable.Cure}
	}
	return err
}

// policyWorkers are policy workers as core wants them.
type policyWorkers struct{ pool *worker.Pool }

var _ core.Policies = policyWorkers{}

func (p policyWorkers) Load(ctx context.Context, module []byte) (core.Policy, error) {
	policy, err := p.pool.Load(ctx, module)
	if err != nil {
		return nil, translated(err)
	}
	return policy, nil
}
