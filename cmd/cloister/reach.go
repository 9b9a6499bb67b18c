package main

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/enclave/client"
)

// sayEnclave says of an enclave that is SIMULATED what it is.
func (a *app) sayEnclave(name string) error {
	what := "a process on"
	if !isBrief(name) {
		s, err := findStanding(name)
		if err != nil || !s.simulated() {
			return err
		}
		if s.Backend == backendQEMU {
			what = "a virtual machine on"
		}
	}
	say(a.stderr, "SIMULATED enclave: %s this machine, which protects nothing from its owner\n", what)
	return nil
}

// open gives a client of the enclave that is named. fresh says that the job asks for keys, which are for enclaves that
// ran nothing before unless their owners say otherwise. stop ends an enclave that is for this command alone.
func (a *app) open(ctx context.Context, beside string, fresh bool) (c *client.Client, stop func() error, err error) {
	if image, ok := imageOf(a.enclave, beside); ok {
		return startLocal(ctx, image)
	}
	s, err := findRunning(ctx, a.enclave)
	if err != nil {
		return nil, nil, err
	}
	if !s.Fresh || !fresh {
		c, err = s.client()
		return c, func() error { c.Close(); return nil }, err
	}
	return a.openFresh(ctx, s.Name)
}

// openFresh is open of an enclave that is started anew for such jobs: one command at a time has it.
func (a *app) openFresh(ctx context.Context, name string) (_ *client.Client, stop func() error, err error) {
	show := a.newProgress()
	done, err := takeTurn(ctx, name, ".turn", func() { show.doing("waiting for another command to be done with the enclave") })
	show.stop()
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, done())
		}
	}()
	s, err := findRunning(ctx, name) // as it is now
	if err != nil {
		return nil, nil, err
	}
	c, err := s.client()
	if err != nil {
		return nil, nil, err
	}
	if c, err = a.freshen(ctx, s, c); err != nil {
		return nil, nil, err
	}
	return c, func() error { c.Close(); return done() }, nil
}

// freshen starts the enclave anew if it ran an application. A job that is in it stays.
func (a *app) freshen(ctx context.Context, s standing, c *client.Client) (*client.Client, error) {
	doc, err := c.Attest(ctx)
	if err == nil {
		if _, used := doc.PCRs[core.UsedPCR]; !used {
			return c, nil
		}
	}
	var busy bool
	if err == nil {
		info, failed := c.Enclave(ctx)
		busy, err = info.Memory.Reserved > 0, failed
	}
	c.Close()
	if err != nil {
		return nil, err
	}
	if busy {
		return nil, &failure{
			status: statusUnavailable, message: "the enclave holds a job, and is started anew only without",
			hint: "fetch its results, or cancel it: cloister ps says which",
		}
	}
	show := a.newProgress()
	show.doing("starting the enclave anew")
	s, err = restart(ctx, s.Name)
	show.stop()
	if err != nil {
		return nil, err
	}
	return s.client()
}

// takeTurn waits until no other command has a lock of the enclave, and says that it does. done lets the next one have it, and so
// does the end of this process.
func takeTurn(ctx context.Context, name, suffix string, waits func()) (done func() error, err error) {
	file, err := standingFile(name)
	if err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(besideFile(file, suffix), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return lock.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, lock.Close())
		}
		if waits != nil {
			waits()
			waits = nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), lock.Close())
		}
	}
}
