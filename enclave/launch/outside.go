package launch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/proxy"
	"github.com/cloister-run/cloister/enclave/vsock"
	"github.com/cloister-run/cloister/plugins/sandbox"
)

// outside is what a local enclave finds outside of itself: the module that vouches for it, and the one
// door. Both are sockets that this user alone can reach, and that lose their names once the enclave has
// them.
type outside struct {
	dir     string
	stop    context.CancelFunc
	servers errgroup.Group
}

// The names of the sockets in their folder.
const (
	nsmSocket  = "nsm"
	doorSocket = "door"
)

func serveOutside(cfg Config) (*outside, error) {
	dir, err := os.MkdirTemp("", "cloister-")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	o := &outside{dir: dir, stop: stop}
	for name, serve := range map[string]func(context.Context, net.Listener) error{
		nsmSocket:  func(ctx context.Context, l net.Listener) error { return attest.Serve(ctx, l, cfg.NSM) },
		doorSocket: func(ctx context.Context, l net.Listener) error { return proxy.Serve(ctx, l, cfg.Door) },
	} {
		l, err := vsock.ListenUnix(filepath.Join(dir, name))
		if err != nil {
			o.unname()
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrStart, err), o.close())
		}
		o.servers.Go(func() error { return serve(ctx, l) })
	}
	return o, nil
}

// mounts shows both sockets to the enclave.
func (o *outside) mounts() []sandbox.Mount {
	return []sandbox.Mount{
		{Source: filepath.Join(o.dir, nsmSocket), Target: image.NSM},
		{Source: filepath.Join(o.dir, doorSocket), Target: image.Door},
	}
}

// unname takes the names away: what is mounted stays.
func (o *outside) unname() { _ = os.RemoveAll(o.dir) } // a folder of our own making

// close ends both. It may be called again.
func (o *outside) close() error {
	o.stop()
	return o.servers.Wait()
}
