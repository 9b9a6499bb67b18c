// Package inside is a policy worker: a process that loads one policy and asks it, behind the walls
// of package sandbox. It holds nothing but the engine: no key, no NSM, and of the job what the
// pool answers to its calls.
//
// Once it is set up it gives up nearly every system call: it opens nothing, starts nothing and
// connects to nothing any more. It trusts the pool, and its policy for nothing.
package inside

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/cloister-run/cloister/policies"
	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/worker/wire"
)

// control is the descriptor of the control connection, the first that a sandbox passes on.
const control = 3

// Main serves until the pool closes the control connection, and gives the exit status.
func Main() int {
	conn, err := wire.New(os.NewFile(control, "control"))
	if err != nil {
		return 2
	}
	defer conn.Close()
	if err := Confine(); err != nil {
		_ = conn.Send(wire.Loaded{Error: "the worker cannot be confined: " + err.Error()}, nil, nil)
		return 2
	}
	if err := serve(context.Background(), conn); err != nil {
		return 1
	}
	return 0
}

func serve(ctx context.Context, conn *wire.Conn) error {
	var load wire.Load
	module, err := conn.Receive(&load, wire.MaxMessage, wire.MaxModule)
	if err != nil {
		return err
	}
	l := load.Limits
	engine, err := policies.New(ctx, policies.Config{Limits: policies.Limits{
		ModuleBytes: l.ModuleBytes, MemoryBytes: l.MemoryBytes, RequestBytes: l.RequestBytes,
		CompileTime: l.CompileTime, DecideTime: l.DecideTime,
	}, Uninterruptible: true})
	if err != nil {
		return errors.Join(err, conn.Send(wire.Loaded{Error: err.Error()}, nil, nil))
	}
	policy, err := engine.Load(ctx, module)
	if err != nil {
		return errors.Join(err, conn.Send(wire.Loaded{Error: err.Error()}, nil, nil))
	}
	manifest, err := json.Marshal(policy.Manifest())
	if err != nil {
		return err
	}
	if err := conn.Send(wire.Loaded{Manifest: manifest}, nil, nil); err != nil {
		return err
	}
	for {
		var c wire.Control
		question, err := conn.Receive(&c, wire.MaxMessage, wire.MaxMessage)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if c.Ask != nil {
			err = decide(ctx, policy, conn, c.Ask, question)
		} else {
			err = conn.Send(wire.Checked{Error: text(policy.CheckConfig(c.Config))}, nil, nil)
		}
		if err != nil {
			return err
		}
	}
}

// text is what is told of an error; no error is none.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// decide serves one decision.
func decide(ctx context.Context, policy *policies.Policy, conn *wire.Conn, ask *wire.Ask, question []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	line := &line{conn: conn, lost: cancel}
	var files abi.Files
	if ask.Artifacts {
		files.Artifacts = newTree(line, wire.Artifacts)
	}
	if ask.Own {
		files.Own = newTree(line, wire.Own)
	}
	if ask.Redacted {
		files.Redacted = sink{line}
	}
	answer, err := policy.Ask(ctx, question, ask.Point, ask.Reading, files)
	return line.done(wire.Call{Op: wire.Done, Error: text(err)}, answer)
}
