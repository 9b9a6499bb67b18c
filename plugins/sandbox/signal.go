package sandbox

import (
	"errors"
	"fmt"
	"os"
)

// Pid is the number of the sandbox's first process, as the caller sees it.
func (p *Process) Pid() int { return p.init.Pid }

// Signal sends a signal to the first process of the sandbox, which for a nested enclave is the
// program. One that has ended needs none.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.init.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sandbox: signalling: %w", err)
	}
	return nil
}
