package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/boot/machine"
	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/vsock"
)

// alone says whether there is nothing beneath the enclave but a kernel.
func (p *profile) alone() bool { return p.Listen == listenVsock }

// runAlone brings up the machine, and serves on it.
func (p *profile) runAlone(ctx context.Context, console io.Writer) error {
	if err := machine.ComeUp(); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	nsm, err := p.openNSM()
	if err != nil {
		return fmt.Errorf("boot: %w; the image's kernel may lack its driver", err)
	}
	ask := func(ctx context.Context) (time.Time, error) { return moduleTime(ctx, nsm) }
	err = settle(ctx, nsm, ask, beneath{machine.Seed, machine.SetClock})
	if err != nil {
		return errors.Join(fmt.Errorf("boot: %w", err), nsm.Close())
	}
	var group errgroup.Group
	ctx, end := context.WithCancel(ctx)
	group.Go(func() error { defer end(); return machine.KeepClock(ctx, ask) })
	group.Go(func() error { machine.ReapOrphans(ctx); return nil })
	group.Go(func() error { defer end(); return p.runWith(ctx, nsm, console) })
	return errors.Join(group.Wait(), nsm.Close())
}

// beneath is what settles: the machine's generator and its clock.
type beneath struct {
	seed     func(context.Context, machine.Source) error
	setClock func(time.Time) error
}

// settle comes before any key exists and before anything has a time: both are the module's.
func settle(ctx context.Context, nsm machine.Source, ask func(context.Context) (time.Time, error), m beneath) error {
	if err := m.seed(ctx, nsm); err != nil {
		return err
	}
	now, err := ask(ctx)
	if err != nil {
		return fmt.Errorf("asking the NSM for the time: %w", err)
	}
	return m.setClock(now)
}

// moduleTime is what the module's clock says. Its answer comes from the hypervisor, which needs no proof here.
func moduleTime(ctx context.Context, nsm attest.Attester) (time.Time, error) {
	document, err := nsm.Attest(ctx, attest.Request{Nonce: make([]byte, attest.MinNonce)})
	if err != nil {
		return time.Time{}, err
	}
	return attest.ClaimedTime(document)
}

// listen is where clients find the enclave. Over AF_VSOCK its parent alone is let in: neither what runs inside
// by way of the loopback device, nor another enclave.
func (p *profile) listen() (net.Listener, error) {
	if p.alone() {
		return vsock.ListenPort(image.APIPort, admit)
	}
	return vsock.ListenUnix(image.Socket)
}

// admit says who may connect.
func admit(cid uint32) bool { return cid == image.ParentCID }

// door connects to the one way out.
func (p *profile) door(ctx context.Context) (net.Conn, error) {
	if p.alone() {
		return vsock.DialPort(ctx, image.ParentCID, image.DoorPort)
	}
	return new(net.Dialer).DialContext(ctx, "unix", image.Door)
}

// heartbeatTime bounds the heartbeat.
const heartbeatTime = 10 * time.Second

// comeForward tells the parent that the enclave came up, which nitro-cli waits for.
func (p *profile) comeForward(ctx context.Context) error {
	if !p.alone() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, heartbeatTime)
	defer cancel()
	conn, err := vsock.DialPort(ctx, image.ParentCID, image.HeartbeatPort)
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	defer conn.Close()
	return beat(ctx, conn)
}

// beat sends the byte and takes it back.
func beat(ctx context.Context, conn net.Conn) error {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := conn.Write([]byte{image.Heartbeat}); err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	if answer[0] != image.Heartbeat {
		return fmt.Errorf("heartbeat: the parent answers %#x", answer[0])
	}
	return nil
}
