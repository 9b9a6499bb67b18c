package boot

import (
	"context"
	"errors"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/sandbox"
	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
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
	if unavailable, ok := errors.AsType[*sandbox.UnavailableError](err); ok {
		return nil, &core.UnavailableError{Reason: unavailable.Error(), Cure: unavailable.Cure}
	}
	if err != nil {
		return nil, err
	}
	return session, nil
}

// policyEngine is a policy engine as core wants it.
type policyEngine struct{ engine *policies.Engine }

var _ core.Policies = policyEngine{}

func (p policyEngine) Load(ctx context.Context, module []byte) (core.Policy, error) {
	policy, err := p.engine.Load(ctx, module)
	if err != nil {
		return nil, err
	}
	return policy, nil
}
