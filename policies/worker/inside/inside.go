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
	"sync"

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
	}})
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
	decisions := &decisions{ctx: ctx, policy: policy, ends: map[int]func(){}}
	for {
		var c wire.Control
		_, file, err := conn.ReceiveFile(&c, wire.MaxMessage, 0)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case file != nil:
			err = decisions.serveOn(c.Conn, file)
		case c.End:
			decisions.end(c.Conn)
		default:
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

// decisions serves the connections for decisions.
type decisions struct {
	ctx    context.Context
	policy *policies.Policy

	mu sync.Mutex
	// ends end what goes on on each connection.
	ends map[int]func()
}

// serveOn serves decisions on a connection, one after the other, until it ends.
func (d *decisions) serveOn(number int, file *os.File) error {
	conn, err := wire.New(file)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(d.ctx)
	d.mu.Lock()
	d.ends[number] = cancel
	d.mu.Unlock()
	go func() {
		defer d.end(number)
		defer conn.Close()
		for decide(ctx, d.policy, conn) == nil {
		}
	}()
	return nil
}

// end ends a connection's decision. It may be called again.
func (d *decisions) end(number int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if cancel := d.ends[number]; cancel != nil {
		cancel()
		delete(d.ends, number)
	}
}

// decide serves one decision.
func decide(ctx context.Context, policy *policies.Policy, conn *wire.Conn) error {
	var ask wire.Ask
	question, err := conn.Receive(&ask, wire.MaxMessage, wire.MaxMessage)
	if err != nil {
		return err
	}
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
	answer, err := policy.Ask(ctx, question, ask.Point, files)
	return line.done(wire.Call{Op: wire.Done, Error: text(err)}, answer)
}
