package nitro

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/proxy"
)

// door is the one way out of the enclave, to the KMS of the configured regions. It opens before the enclave
// runs, so that a port that is taken is found in time, and admits nobody until the enclave's CID is known.
type door struct {
	cid    atomic.Uint32
	stop   context.CancelFunc
	served chan error
}

func openDoor(on sockets, cfg Config) (*door, error) {
	d := &door{served: make(chan error, 1)}
	l, err := on.listen(image.DoorPort, d.admit)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: %w; it is the same for every image, so that one parent runs one enclave of Cloister "+
			"at a time: stop the other one first", ErrDoor, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDoor, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	served := proxy.Config{Dial: new(net.Dialer).DialContext, Allow: kmsHosts(cfg.Regions), Log: cfg.Log}
	go func() { d.served <- proxy.Serve(ctx, l, served) }()
	return d, nil
}

// open admits an enclave, and no other one; CID 0 is none.
func (d *door) open(cid uint32) { d.cid.Store(cid) }

func (d *door) admit(cid uint32) bool { return cid != 0 && cid == d.cid.Load() }

// close shuts the door and every tunnel.
func (d *door) close() error {
	d.stop()
	return <-d.served
}

// kmsHosts are what the enclave asks for in these regions (AWS general reference, "AWS Key Management Service
// endpoints"; enclave/keys forms the same names).
func kmsHosts(regions []string) []string {
	var hosts []string
	for _, region := range regions {
		suffix := ".amazonaws.com"
		if strings.HasPrefix(region, "cn-") {
			suffix = ".amazonaws.com.cn"
		}
		hosts = append(hosts, "kms."+region+suffix+":443")
	}
	return hosts
}
