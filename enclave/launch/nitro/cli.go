package nitro

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// Bounds of what nitro-cli prints.
const (
	maxOutput    = 1 << 20
	maxComplaint = 64 << 10 // what is over is dropped
)

// grace is what nitro-cli has to end once it was asked to.
const grace = 5 * time.Second

// cli is nitro-cli at a path. It is safe for concurrent use.
type cli struct{ path string }

// run runs an enclave. When ctx ends nitro-cli is ended, and the process that it has left behind to hold the enclave
// ends with an error as soon as it has something to report to it (enclave_proc/resource_manager.rs).
func (c cli) run(ctx context.Context, cfg Config, name string) (running, error) {
	args := []string{
		"--eif-path", cfg.Image, "--cpu-count", strconv.Itoa(cfg.CPUs), "--memory", strconv.Itoa(cfg.Memory), "--enclave-name", name,
	}
	if cfg.CID != 0 {
		args = append(args, "--enclave-cid", strconv.FormatUint(uint64(cfg.CID), 10))
	}
	if cfg.Debug {
		args = append(args, "--debug-mode")
	}
	patience := cfg.patience
	if patience == 0 {
		patience = runTimeout + time.Duration(cfg.Memory)*runPerGiB/1024
	}
	out, err := c.output(ctx, patience, "run-enclave", args...)
	if err != nil {
		return running{}, err
	}
	r, err := parseRun(out)
	if err != nil {
		return running{}, unreadable("run-enclave", err)
	}
	return r, nil
}

// noAnswer is the code of describe-enclaves where some enclave did not answer; what it prints is the others.
const noAnswer = "E39"

// describe lists the enclaves that run on this machine, whoever started them. whole says that there are no others.
func (c cli) describe(ctx context.Context) (all []running, whole bool, err error) {
	out, err := c.output(ctx, queryTimeout, "describe-enclaves")
	if says, ok := errors.AsType[*Error](err); err != nil && (!ok || says.Code != noAnswer) {
		return nil, false, err
	}
	all, unread := parseDescribe(out)
	if unread != nil {
		return nil, false, errors.Join(err, unreadable("describe-enclaves", unread))
	}
	return all, err == nil, nil
}

// free says whether a CID is no running enclave's: what nitro-cli says of one that is taken does not name it.
func (c cli) free(ctx context.Context, cid uint32) error {
	all, _, err := c.describe(ctx)
	if err != nil {
		return err
	}
	for _, found := range all {
		if found.CID == cid {
			return &Error{Verb: "run-enclave", Message: fmt.Sprintf("the CID %d is that of the enclave %s", cid, found.ID),
				Cure: "choose another, or none; or end that one: nitro-cli terminate-enclave --enclave-id " + found.ID}
		}
	}
	return nil
}

func (c cli) terminate(ctx context.Context, id string) error {
	_, err := c.output(ctx, queryTimeout, "terminate-enclave", "--enclave-id", id)
	return err
}

// console writes an enclave's console until that ends.
func (c cli) console(ctx context.Context, id string, w io.Writer) error {
	return c.exec(ctx, w, "console", "--enclave-id", id)
}

// output is what nitro-cli prints for a verb, which is an [Error] where it takes longer than patience.
func (c cli) output(ctx context.Context, patience time.Duration, verb string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, &Error{
		Verb: verb, Message: fmt.Sprintf("no answer within %v", patience),
		Cure: "nitro-cli describe-enclaves says whether it works at all, and /var/log/nitro_enclaves what it does",
	})
	defer cancel()
	var out bytes.Buffer
	b := &bounded{to: &out, left: maxOutput, sticky: true}
	err := c.exec(ctx, b, verb, args...)
	if b.over { // whatever nitro-cli made of that
		return nil, unreadable(verb, errTooMuch)
	}
	return out.Bytes(), err
}

// exec runs nitro-cli. Its errors are an [Error] with what it said, w's, or ctx's.
func (c cli) exec(ctx context.Context, w io.Writer, verb string, args ...string) error {
	var says bytes.Buffer
	cmd := exec.CommandContext(ctx, c.path, append([]string{verb}, args...)...)
	cmd.Env = append(os.Environ(), "BACKTRACE=1") // so that it says why (common/mod.rs, construct_error_message)
	cmd.Stdout, cmd.Stderr = w, &bounded{to: &says, left: maxComplaint}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	err := cmd.Run()
	_, ended := errors.AsType[*exec.ExitError](err)
	slow, late := errors.AsType[*Error](context.Cause(ctx))
	switch {
	case err == nil:
		return nil
	case late:
		return slow
	case ctx.Err() != nil:
		return fmt.Errorf("nitro-cli %s: %w", verb, context.Cause(ctx))
	case ended:
		return complaint(verb, says.String())
	}
	return fmt.Errorf("nitro-cli %s: %w", verb, err)
}

var errTooMuch = errors.New("it prints more than 1 MiB")

// bounded writes so much, and drops the rest; a sticky one fails then.
type bounded struct {
	to     io.Writer
	left   int
	sticky bool
	over   bool
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	if _, err := b.to.Write(p[:n]); err != nil {
		return 0, err
	}
	if b.over = b.over || n < len(p); b.over && b.sticky {
		return n, errTooMuch
	}
	return len(p), nil
}

// RandomName is a name of an enclave that nobody else has.
func RandomName() string {
	name := make([]byte, 8)
	_, _ = rand.Read(name) // it never fails (crypto/rand)
	return "cloister-" + hex.EncodeToString(name)
}
