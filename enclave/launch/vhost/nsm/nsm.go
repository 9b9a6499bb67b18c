// Package nsm is the Nitro Security Module as a virtio device, for a guest that is started here: what the kernel's
// driver asks (linux/drivers/misc/nsm.c) is asked of an [attest.Handler].
//
// It owns the device. It trusts the handler, and nothing of the guest: a request is bounded before it is read.
package nsm

import (
	"context"
	"fmt"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/launch/vhost"
)

// ID is the device's among virtio devices (virtio 1.3, 5, "Nitro Secure Module"; linux/virtio_ids.h).
const ID = 33

// maxRequest is the driver's limit (linux/drivers/misc/nsm.c, NSM_REQUEST_MAX_SIZE).
const maxRequest = 0x1000

// New is a device on whose other end handler is.
func New(handler attest.Handler) *vhost.Device {
	var device *vhost.Device
	m := &module{handler: handler}
	device = vhost.New(vhost.Config{Queues: 1, Kicked: func(ctx context.Context, _ int) error {
		return m.serve(ctx, device.Queue(0))
	}})
	return device
}

type module struct{ handler attest.Handler }

// serve answers what is in the queue. The driver puts a request and the room for its answer there as two buffers, and
// is told once both are used: it would not look again.
func (m *module) serve(ctx context.Context, q *vhost.Queue) error {
	for q.Pending() >= 2 {
		var request []byte
		taken, err := q.Take(func(c *vhost.Chain) (int, error) {
			if c.Writable() > 0 || c.Readable() == 0 || c.Readable() > maxRequest {
				return 0, fmt.Errorf("nsm: %w: a request of %d bytes", vhost.ErrGuest, c.Readable())
			}
			request = make([]byte, c.Readable())
			c.Read(request)
			return 0, nil
		})
		if err != nil || !taken {
			return err
		}
		answer := attest.Answer(ctx, m.handler, request)
		if _, err := q.Take(func(c *vhost.Chain) (int, error) {
			if c.Readable() > 0 || c.Writable() < len(answer) {
				return 0, fmt.Errorf("nsm: %w: %d bytes of room for an answer", vhost.ErrGuest, c.Writable())
			}
			return c.Write(answer), nil
		}); err != nil {
			return err
		}
		q.Notify()
	}
	return nil
}
