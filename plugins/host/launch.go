package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/proto"
	"github.com/cloister-run/cloister/plugins/sandbox"
)

// executablePath is where a sandbox finds its executable: the first descriptor that it
// inherits. It is the sealed copy that was hashed; there is no path that could be swapped.
const executablePath = "/proc/self/fd/3"

// openFiles bounds the descriptors of one process of an executor.
const openFiles = 1024

// Launch starts the executor called name in a sandbox of its own, with the folders and limits
// of place, and returns when it said where it listens. ctx bounds the launch alone: the session
// lives until Kill, which the caller owes it. Errors are ErrNotFound, executor.ErrGone, the
// cause of ctx, or the sandbox's own.
func (h *Host) Launch(ctx context.Context, name string, place executor.Place) (*Session, error) {
	p, err := h.find(name)
	if err != nil {
		return nil, err
	}
	s, err := h.launch(ctx, p, place)
	if err != nil {
		return nil, fmt.Errorf("executor(%s): %w", name, err)
	}
	return s, nil
}

func (h *Host) launch(ctx context.Context, p *installed, place executor.Place) (*Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, h.cfg.StartTimeout, breach("no handshake within %v", h.cfg.StartTimeout))
	defer cancel()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	exe, err := p.image.descriptor()
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	sockets, err := openSockets(place.Socket)
	if err != nil {
		return nil, err
	}
	w := &walled{
		start:   h.start,
		spec:    h.spec(p.manifest, place, exe),
		sockets: sockets,
		done:    make(chan struct{}),
	}
	var endLife context.CancelFunc
	w.ctx, endLife = context.WithCancel(context.WithoutCancel(ctx))
	giveUp := context.AfterFunc(ctx, func() { endLife(); _ = w.Kill(ctx) })

	// go-plugin's own clock must never be the first to ring: it cannot say why.
	cfg, err := clientConfig(w, place.Socket, 2*h.cfg.StartTimeout+time.Second)
	if err == nil {
		_, err = plugin.NewClient(cfg).Start()
	}
	if !giveUp() {
		err = context.Cause(ctx)
	}
	var conn *grpc.ClientConn
	if err == nil {
		conn, err = connect(cfg, sockets)
	}
	if err != nil {
		endLife()
		_ = w.Kill(ctx)
		sockets.Close()
		return nil, w.explain(ctx, err)
	}
	return newSession(h.cfg, p.manifest, w, conn, endLife), nil
}

// explain chooses the error of a launch. go-plugin's own may quote what the plugin wrote, so
// it is told only where no plugin had started.
func (w *walled) explain(ctx context.Context, err error) error {
	w.mu.Lock()
	started := w.proc != nil
	w.mu.Unlock()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if problem := w.problem(); problem != nil {
		return problem
	}
	if !started {
		return err
	}
	return breach("its handshake was refused")
}

// clientConfig is go-plugin's part: versions, certificates, the handshake.
func clientConfig(w *walled, socketDir string, timeout time.Duration) (*plugin.ClientConfig, error) {
	ours, certificate, err := newTLS()
	if err != nil {
		return nil, err
	}
	return &plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: proto.CookieKey, MagicCookieValue: proto.CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{proto.Version: {}},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, tmpDir string) (runner.Runner, error) {
			// go-plugin makes a folder for sockets of the plugin; ours is another one.
			if err := os.Remove(tmpDir); err != nil {
				return nil, err
			}
			w.spec.Env = environment(cmd.Env, certificate)
			return w, nil
		},
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: socketDir},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		TLSConfig:        ours,
		SkipHostEnv:      true,
		StartTimeout:     timeout,
		Logger:           hclog.NewNullLogger(),
	}, nil
}

// environment is the whole environment of a plugin, built from nothing: the variables of go-plugin's
// handshake and the fixed ones.
func environment(handshake []string, certificate string) []string {
	env := []string{
		"HOME=" + executor.WorkDir + "/tmp",
		"LANG=C.UTF-8",
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"PLUGIN_CLIENT_CERT=" + certificate,
		"PLUGIN_UNIX_SOCKET_DIR=" + executor.SocketDir,
		"TMPDIR=" + executor.WorkDir + "/tmp",
	}
	for _, v := range handshake {
		name, _, _ := strings.Cut(v, "=")
		if slices.Contains([]string{proto.CookieKey, "PLUGIN_PROTOCOL_VERSIONS"}, name) {
			env = append(env, v)
		}
	}
	return env
}

func (h *Host) spec(m proto.Manifest, place executor.Place, exe *os.File) sandbox.Spec {
	return sandbox.Spec{
		Init: h.cfg.Init,
		Root: h.cfg.Rootfs,
		Mounts: append(slices.Clone(h.cfg.Mounts),
			sandbox.Mount{Source: place.Assets, Target: executor.AssetsDir},
			sandbox.Mount{Source: place.Work, Target: executor.WorkDir, Writable: true},
			sandbox.Mount{Source: place.Socket, Target: executor.SocketDir, Writable: true},
		),
		Path:  executablePath,
		Args:  m.Args,
		Dir:   "/",
		Owner: place.Owner,
		Limits: sandbox.Limits{
			Memory:    place.Memory,
			Together:  h.cfg.Together,
			Processes: place.Processes,
			OpenFiles: openFiles,
			FileSize:  place.FileSize,
			CPUs:      float64(place.CPUs),
		},
		Files: []*os.File{exe},
	}
}

// connect opens the session's own connection. go-plugin's client would also open streams for
// its broker, which keeps a goroutine for whatever a plugin sends, and for the plugin's stdio,
// and would wait without end for a plugin to agree to its shutdown; none of them exists here.
func connect(cfg *plugin.ClientConfig, s *sockets) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///executor",
		grpc.WithTransportCredentials(credentials.NewTLS(cfg.TLSConfig)),
		grpc.WithContextDialer(s.dial),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithMaxHeaderListSize(proto.MaxHeaders),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(proto.MaxReply),
			grpc.MaxCallSendMsgSize(proto.MaxRequest),
		),
	)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	conn.Connect()
	return conn, nil
}
