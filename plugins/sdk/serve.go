// Package sdk is for authors of executor plugins: implement [executor.Executor], call [Serve]
// from main, install the binary with a manifest, and have it pass executortest.Run.
//
// It owns the plugin's end of executor.v1. It runs inside the sandbox, in the one trust domain
// of plugin and application, and so it guards nothing: what an enclave relies on is checked by
// plugins/host. An executor is one file that needs nothing beside it but the runtime in the
// image; it is started from a memory file, so its own path means nothing.
package sdk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/proto"
)

// executableFD is the descriptor that the host starts a plugin from.
const executableFD = 3

// Serve answers the enclave with impl until the sandbox is torn down. Where no enclave started
// the process it says so on stderr and exits with status 2. The methods of impl are called in
// the order that [executor.Executor] states; of an error that they return only the sentinel
// crosses.
//
// Whatever impl prints goes nowhere: from the first call on, stdout and stderr are /dev/null.
func Serve(impl executor.Executor) {
	if os.Getenv(proto.CookieKey) != proto.CookieValue {
		fmt.Fprint(os.Stderr, byHand(filepath.Base(os.Args[0])))
		os.Exit(2)
	}
	unix.CloseOnExec(executableFD) // no application inherits it
	// go-plugin points os.Stdout and os.Stderr elsewhere. Without a reference the first files
	// would be collected, and descriptors 1 and 2 would become whatever is opened next.
	std := []*os.File{os.Stdout, os.Stderr}
	defer runtime.KeepAlive(std)
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{
			MagicCookieKey:   proto.CookieKey,
			MagicCookieValue: proto.CookieValue,
		},
		VersionedPlugins: map[int]plugin.PluginSet{
			proto.Version: {proto.PluginName: &served{impl: &silent{Executor: impl}}},
		},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts,
				grpc.MaxRecvMsgSize(proto.MaxRequest),
				grpc.MaxHeaderListSize(proto.MaxHeaders),
			)...)
		},
		Logger: hclog.NewNullLogger(),
	})
}

// byHand is what a person reads who starts an executor from a shell.
func byHand(command string) string {
	return fmt.Sprintf(`%[1]s: error: this is an executor plugin: an enclave starts it, not a person
%[1]s: hint: install it in an enclave image with a manifest, and name it as "executor" in a job
`, command)
}

// served is impl in go-plugin's shape, server side only.
type served struct {
	plugin.NetRPCUnsupportedPlugin
	impl executor.Executor
}

var _ plugin.GRPCPlugin = (*served)(nil)

func (p *served) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	proto.Register(s, p.impl)
	return nil
}

// GRPCClient is for hosts, which have package host.
func (p *served) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, os.ErrInvalid
}

// silent gives prints somewhere to go. go-plugin points os.Stdout and os.Stderr at pipes for
// a host that reads them; an enclave's does not, and full pipes would block the plugin.
type silent struct {
	executor.Executor
	once sync.Once
}

func (s *silent) Describe(ctx context.Context) (executor.Description, error) {
	s.once.Do(func() {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return
		}
		os.Stdout, os.Stderr = null, null
		for _, fd := range []int{1, 2} { // for what does not print through package os
			_ = unix.Dup3(int(null.Fd()), fd, 0)
		}
	})
	return s.Executor.Describe(ctx)
}
