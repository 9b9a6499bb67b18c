package host_test

import (
	"context"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/cloister-run/cloister/plugins/proto"
	executorv1 "github.com/cloister-run/cloister/plugins/proto/executor/v1"
)

// player answers executor.v1 badly, without the adapter that would keep it from doing so.
type player struct {
	executorv1.UnimplementedExecutorServer
	plugin.NetRPCUnsupportedPlugin
	part   string
	stdout *os.File
}

func (p *player) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	executorv1.RegisterExecutorServer(s, p)
	return nil
}

func (p *player) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, os.ErrInvalid
}

// serve plays a part that begins with a handshake as it should be.
func serve(part string) {
	p := &player{part: part, stdout: os.Stdout}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: proto.CookieKey, MagicCookieValue: proto.CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{proto.Version: {proto.PluginName: p}},
		GRPCServer:       plugin.DefaultGRPCServer,
		Logger:           hclog.NewNullLogger(),
	})
}

func (p *player) Describe(ctx context.Context, _ *executorv1.DescribeRequest) (*executorv1.DescribeResponse, error) {
	d := &executorv1.DescribeResponse{Name: "hostile", Version: "1"}
	switch p.part {
	case "other name":
		d.Name = "python"
	case "other version":
		d.Version = secret
	case "unprintable":
		d.Name = "hostile\n"
	case "large answer":
		d.Name = strings.Repeat(secret, 64<<10)
	case "large trailer":
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x", strings.Repeat(secret, 8<<10)))
	case "large header":
		_ = grpc.SendHeader(ctx, metadata.Pairs("x", strings.Repeat(secret, 8<<10)))
	case "chats":
		flood(p.stdout, secret+"\n", 512<<10)
	case "floods":
		go flood(p.stdout, secret+"\n", -1)
	case "describe hangs":
		hang()
	case "describe fails":
		return nil, status.Error(codes.NotFound+100, secret)
	case "leaves traces":
		if traces() {
			d.Name = "traced"
		}
	case "tampers":
		if tampered() {
			d.Name = "tampered"
		}
	}
	return d, nil
}

func (p *player) Prepare(context.Context, *executorv1.PrepareRequest) (*executorv1.PrepareResponse, error) {
	switch p.part {
	case "prepare hangs":
		hang()
	case "no runtime":
		return nil, status.Error(codes.FailedPrecondition, secret)
	}
	return &executorv1.PrepareResponse{RuntimeName: "r", RuntimeVersion: "1"}, nil
}

func (p *player) Run(context.Context, *executorv1.RunRequest) (*executorv1.RunResponse, error) {
	switch what, value, _ := strings.Cut(p.part, " "); what {
	case "hangs":
		hang()
	case "exits":
		os.Exit(0)
	case "status":
		n, _ := strconv.ParseInt(value, 10, 32)
		return &executorv1.RunResponse{Status: int32(n)}, nil
	case "code":
		n, _ := strconv.ParseUint(value, 10, 32)
		return nil, status.Error(codes.Code(n), secret)
	}
	return &executorv1.RunResponse{}, nil
}

func (p *player) Stop(context.Context, *executorv1.StopRequest) (*executorv1.StopResponse, error) {
	if p.part == "stop hangs" {
		hang()
	}
	return &executorv1.StopResponse{}, nil
}

// traces leaves traces at the executable that this process was started from, and reports whether
// another one has left some.
func traces() (found bool) {
	mark := unix.Timespec{Sec: 4711}
	const attribute = "user.trace"
	at, _ := unix.Seek(3, 0, io.SeekCurrent)
	flags, _ := unix.FcntlInt(3, unix.F_GETFL, 0)
	var st unix.Stat_t
	_ = unix.Fstat(3, &st)
	attributes, _ := unix.Flistxattr(3, make([]byte, 4096))
	found = at != 0 || flags&unix.O_NONBLOCK != 0 || st.Mtim == mark || st.Atim == mark || attributes > 0

	_, _ = unix.Seek(3, 4711, io.SeekStart)
	_, _ = unix.FcntlInt(3, unix.F_SETFL, unix.O_NONBLOCK)
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/3", []unix.Timespec{mark, mark}, 0)
	_ = unix.Fchmod(3, 0o777)
	_ = unix.Fsetxattr(3, attribute, []byte(secret), 0)
	return found
}

// tampered reports whether this process could change the executable that it was started from.
func tampered() bool {
	writable := func(fd int) bool {
		_, err := unix.Pwrite(fd, []byte("#!"), 0)
		return err == nil || unix.Ftruncate(fd, 0) == nil || unix.Ftruncate(fd, 1<<30) == nil
	}
	bad := writable(3)
	for _, name := range []string{"/proc/self/fd/3", "/proc/self/exe"} {
		if fd, err := unix.Open(name, unix.O_RDWR, 0); err == nil {
			bad = bad || writable(fd)
		}
	}
	_ = unix.Fchmod(3, 0) // the owner may; the next launch must not care
	return bad
}
