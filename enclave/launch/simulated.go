package launch

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/proxy"
	"github.com/cloister-run/cloister/enclave/vsock"
)

// devKMS is what a local enclave asks for when it asks its KMS (deploy/local/profile.json).
const devKMS = "kms.cloister-dev.internal:80"

// Running is an enclave, wherever it runs. It is safe for concurrent use.
type Running interface {
	// Dial opens a connection to the enclave's API. Who answers must prove to be the enclave that is meant.
	Dial(ctx context.Context) (net.Conn, error)
	// Address is where other processes of this user dial it: empty where it is reached through this one alone.
	Address() vsock.Address
	// PID is the number of the enclave's first process on this machine.
	PID() int
	// Ended is closed when nothing of the enclave runs any more.
	Ended() <-chan struct{}
	// Why is why it ended, if nobody stopped it, with its last words. It is called once Ended is closed.
	Why() error
	// Console is the last of what the enclave wrote there.
	Console() string
	// Follow writes what is on the console, and then whatever comes, until the enclave ends or ctx does.
	Follow(ctx context.Context, w io.Writer) error
	// Stop ends the enclave. It may be called again.
	Stop() error
}

var (
	_ Running = (*Enclave)(nil)
	_ Running = (*VM)(nil)
)

// Simulation configures an enclave with a simulated far end. Every field is required.
type Simulation struct {
	// Image is as in [Config], or as in [VMConfig].
	Image string
	// Home holds the development root that vouches for the enclave.
	Home *devkit.Home
	// KMS is the URL of the simulated KMS, over http: where the door leads.
	KMS string
}

// Simulated is an enclave with a simulated far end, and how to know it.
type Simulated struct {
	Running
	ca   *devca.CA
	pcrs attest.PCRSet
}

// Root is the development root that vouches for the enclave.
func (s *Simulated) Root() attest.Root { return s.ca.Root() }

// RootPEM is the same for a file.
func (s *Simulated) RootPEM() []byte { return s.ca.PEM() }

// PCRs are those of the image that was started.
func (s *Simulated) PCRs() attest.PCRSet { return s.pcrs }

// Simulate measures an image, starts it as [Local] does, and plays the hypervisor: a module whose
// documents are under the home's development root, and a door that leads to the simulated KMS.
func Simulate(ctx context.Context, s Simulation) (*Simulated, error) {
	door, err := s.door()
	if err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	dir, err := filepath.Abs(s.Image)
	if err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	pcrs, err := devkit.Measure(dir)
	if err != nil {
		return nil, fmt.Errorf("launch: %w: %w", ErrStart, err)
	}
	e, err := Local(ctx, Config{Image: dir, NSM: s.module(pcrs), Door: door})
	if err != nil {
		return nil, err
	}
	return &Simulated{Running: e, ca: s.Home.CA(), pcrs: pcrs}, nil
}

// SimulateVM is Simulate for an enclave that starts as [QEMU] does. The image, the module and the door of cfg
// are those of s.
func SimulateVM(ctx context.Context, s Simulation, cfg VMConfig) (*Simulated, error) {
	door, err := s.door()
	if err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	cfg.Image, cfg.NSM, cfg.Door = s.Image, s.module, door
	v, err := QEMU(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Simulated{Running: v, ca: s.Home.CA(), pcrs: v.PCRs()}, nil
}

// module plays the module of an enclave with these registers.
func (s Simulation) module(pcrs attest.PCRSet) attest.Handler {
	return devkit.NewNSM(s.Home.CA(), pcrs, time.Now)
}

// door leads to the simulated KMS.
func (s Simulation) door() (proxy.Config, error) {
	u, err := url.Parse(s.KMS)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" {
		return proxy.Config{}, fmt.Errorf("the simulated KMS: %.80q is no URL of http and a host", s.KMS)
	}
	address := net.JoinHostPort(u.Hostname(), orDefault(u.Port(), "80"))
	return proxy.Config{Allow: []string{devKMS}, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}, nil
}

func orDefault(port, by string) string {
	if port == "" {
		return by
	}
	return port
}
