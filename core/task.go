package core

import (
	"fmt"
	"path"
	"strings"

	"github.com/cloister-run/cloister/core/space"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/policies/abi"
)

// place is what the executor is given of the enclave.
func (c *course) place() executor.Place {
	limits := c.job.spec.Limits
	return executor.Place{
		Assets: c.space.Assets, Work: c.space.Work, Socket: c.space.Socket, Owner: c.space.Owner,
		Memory: limits.Memory, CPUs: limits.CPUs, Processes: limits.Processes, FileSize: limits.Disk,
	}
}

// makeTask makes the folders that outputs need and fills in the command.
func (c *course) makeTask() (executor.Task, error) {
	command := c.job.spec.Command
	values := jobspec.Values{Inputs: map[string]string{}, Outputs: map[string]string{}}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range c.job.spec.Inputs {
		values.Inputs[name] = c.given[inputName(name)]
	}
	for name, place := range command.Outputs {
		folder, isTree := strings.CutSuffix(place, "/")
		values.Outputs[name] = path.Join(executor.WorkDir, space.Outputs, folder)
		if !isTree {
			folder = path.Dir(folder)
		}
		if err := c.space.MakeWork(path.Join(space.Outputs, folder)); err != nil {
			return executor.Task{}, &faultError{FaultMachine, fmt.Errorf("making the folder of output %s: %w", name, err)}
		}
	}
	args, err := c.job.spec.Expand(values)
	if err != nil {
		return executor.Task{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	task := executor.Task{
		Application: path.Join(executor.AssetsDir, applicationName),
		Entrypoint:  command.Entrypoint,
		Args:        args,
		Env:         command.Env,
		Dir:         path.Join(executor.WorkDir, space.Temp),
	}
	if c.job.spec.Environment {
		task.Environment = path.Join(executor.AssetsDir, environmentName)
	}
	logs := path.Join(executor.WorkDir, space.Logs)
	collected := c.border.Consented() // a log without consent is not even collected
	if c.job.runner.cfg.Rehearsal {
		collected = append(collected, abi.Stdout, abi.Stderr)
	}
	for _, ch := range collected {
		switch ch {
		case abi.Stdout:
			task.Stdout = path.Join(logs, "stdout")
		case abi.Stderr:
			task.Stderr = path.Join(logs, "stderr")
		}
	}
	return task, nil
}
