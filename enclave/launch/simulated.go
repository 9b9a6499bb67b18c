package launch

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/proxy"
)

// devKMS is what a local enclave asks for when it asks its KMS (deploy/local/profile.json).
const devKMS = "kms.cloister-dev.internal:80"

// Simulation configures a local enclave with a simulated far end. Every field is required.
type Simulation struct {
	// Image is as in [Config].
	Image string
	// Home holds the development root that vouches for the enclave.
	Home *devkit.Home
	// KMS is the URL of the simulated KMS, over http: where the door leads.
	KMS string
}

// Simulated is a local enclave, and how to know it.
type Simulated struct {
	*Enclave
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
	door, err := doorTo(s.KMS)
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
	e, err := Local(ctx, Config{
		Image: dir,
		NSM:   devkit.NewNSM(s.Home.CA(), pcrs, time.Now),
		Door:  door,
	})
	if err != nil {
		return nil, err
	}
	return &Simulated{Enclave: e, ca: s.Home.CA(), pcrs: pcrs}, nil
}

// doorTo is a door that leads to the simulated KMS at a URL, and nowhere else.
func doorTo(kms string) (proxy.Config, error) {
	u, err := url.Parse(kms)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" {
		return proxy.Config{}, fmt.Errorf("the simulated KMS: %.80q is no URL of http and a host", kms)
	}
	address := net.JoinHostPort(u.Hostname(), orDefault(u.Port(), "80"))
	return proxy.Config{Allow: []string{devKMS}, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}, nil
}

// Virtual configures an enclave in a virtual machine with a simulated far end.
type Virtual struct {
	// Image, QEMU, CPUs, Memory and Debug are as in [VMConfig].
	Image, QEMU string
	CPUs        int
	Memory      int64
	Debug       bool
	// Home and KMS are as in [Simulation]. Required.
	Home *devkit.Home
	KMS  string
}

// SimulatedVM is an enclave in a virtual machine, and how to know it.
type SimulatedVM struct {
	*VM
	ca *devca.CA
}

// Root is the development root that vouches for the enclave.
func (s *SimulatedVM) Root() attest.Root { return s.ca.Root() }

// RootPEM is the same for a file.
func (s *SimulatedVM) RootPEM() []byte { return s.ca.PEM() }

// SimulateVM boots an image as [QEMU] does, with the same far end as [Simulate].
func SimulateVM(ctx context.Context, s Virtual) (*SimulatedVM, error) {
	door, err := doorTo(s.KMS)
	if err != nil {
		return nil, fmt.Errorf("launch: %w", err)
	}
	vm, err := QEMU(ctx, VMConfig{
		Image: s.Image, QEMU: s.QEMU, CPUs: s.CPUs, Memory: s.Memory, Debug: s.Debug, Door: door,
		NSM: func(pcrs attest.PCRSet) attest.Handler { return devkit.NewNSM(s.Home.CA(), pcrs, time.Now) },
	})
	if err != nil {
		return nil, err
	}
	return &SimulatedVM{vm, s.Home.CA()}, nil
}

func orDefault(port, by string) string {
	if port == "" {
		return by
	}
	return port
}
