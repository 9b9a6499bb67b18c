// Package sdk is for authors of executor plugins: implement [executor.Executor], call [Serve]
// from main, install the binary with a manifest, and have it pass executortest.Run.
//
// It owns the plugin's end of executor.v1, as docs/executors.md has it. It runs inside the sandbox, in
// the one trust domain of plugin and application, and so it guards nothing: what an enclave relies on is
// checked by plugins/host. An executor is one file that needs nothing beside it but the runtime in the
// image; it is started from a memory file, so its own path means nothing.
package sdk

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/proto"
)

// executableFD is the descriptor that the host starts a plugin from.
const executableFD = 3

// healthService is the one that go-plugin's clients ask after (go-plugin, grpc_server.go).
const healthService = "plugin"

// Serve answers the enclave with impl until the sandbox is torn down. Where no enclave started
// the process it says so on stderr and exits with status 2. The methods of impl are called in
// the order that [executor.Executor] states; of an error that they return only the sentinel
// crosses.
//
// An impl with a method Begin has it called first: it may begin there what Prepare will wait for, while the
// enclave connects.
//
// Whatever impl prints goes nowhere: from the first call on, stdout and stderr are /dev/null.
func Serve(impl executor.Executor) {
	if os.Getenv(proto.CookieKey) != proto.CookieValue {
		fmt.Fprint(os.Stderr, byHand(filepath.Base(os.Args[0])))
		os.Exit(2)
	}
	unix.CloseOnExec(executableFD) // no application inherits it
	// A person's interrupt is for whoever started the enclave. It is not ignored: an application would
	// inherit that.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	if early, ok := impl.(interface{ Begin() }); ok {
		early.Begin()
	}
	if err := serve(impl); err != nil {
		fmt.Fprintf(os.Stderr, "%s: error: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

// byHand is what a person reads who starts an executor from a shell.
func byHand(command string) string {
	return fmt.Sprintf(`%[1]s: error: this is an executor plugin: an enclave starts it, not a person
%[1]s: hint: install it in an enclave image with a manifest, and name it as "executor" in a job
`, command)
}

// serve is go-plugin's handshake, and then the protocol. go-plugin's own server would do; it makes a
// certificate that costs 10 ms, and opens a broker and pipes that no enclave reads.
func serve(impl executor.Executor) error {
	certificate, err := proto.NewCertificate()
	if err != nil {
		return err
	}
	host := x509.NewCertPool()
	if !host.AppendCertsFromPEM([]byte(os.Getenv("PLUGIN_CLIENT_CERT"))) {
		return errors.New("PLUGIN_CLIENT_CERT: no certificate")
	}
	socket := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), fmt.Sprintf("executor-%d", os.Getpid()))
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13,
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: host,
		})),
		grpc.MaxRecvMsgSize(proto.MaxRequest),
		grpc.MaxHeaderListSize(proto.MaxHeaders),
	)
	proto.Register(server, impl)
	checks := health.NewServer()
	checks.SetServingStatus(healthService, grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(server, checks)
	const handshake = 1 // the version of go-plugin's line
	_, err = fmt.Fprintf(os.Stdout, "%d|%d|unix|%s|grpc|%s\n", handshake, proto.Version, socket,
		base64.RawStdEncoding.EncodeToString(certificate.Certificate[0]))
	if err != nil {
		return err
	}
	if err := silence(); err != nil {
		return err
	}
	return server.Serve(l)
}

// silence gives prints somewhere to go: nobody reads them, and full pipes would block the plugin.
func silence() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for _, fd := range []int{1, 2} {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}
