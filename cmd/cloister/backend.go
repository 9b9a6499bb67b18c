package main

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/launch"
	"github.com/cloister-run/cloister/enclave/launch/nitro"
	"github.com/cloister-run/cloister/enclave/vsock"
	"github.com/cloister-run/cloister/jobspec"
)

// The backends: where an enclave runs.
const (
	backendLocal = "local"
	backendQEMU  = "qemu"
	backendNitro = "nitro"
)

// backend says where and of what an enclave is started.
type backend struct {
	name, image string
	cpus        int
	memory      string
	fresh       bool
	debug       bool
	qemu        string
	nitroCLI    string
	regions     []string
	// known is what nitro-cli knows an enclave by.
	known string
}

func (b *backend) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&b.name, "backend", backendLocal, `"local": a process of this machine; "qemu": a virtual machine; "nitro": a Nitro Enclave, by nitro-cli`)
	flags.StringVar(&b.image, "image", "", "the enclave image, FILE.eif (required but for local)")
	flags.IntVar(&b.cpus, "cpus", 0, "how many CPUs it gets [as many as its image asks for]")
	flags.StringVar(&b.memory, "memory", "", "how much memory it gets, as 4GiB [as much as its image asks for; a virtual machine gets no more than half of this one unasked]")
	flags.BoolVar(&b.fresh, "fresh", false, "start it anew for every job with sealed assets: their keys are for enclaves that ran nothing before, unless owners say otherwise")
	flags.BoolVar(&b.debug, "debug", false, "let cloister enclave console show its console; its PCRs are all zero then, and no key is released to it")
	flags.StringVar(&b.qemu, "qemu", "", "the command that is QEMU 11.1 or later [CLOISTER_QEMU, or qemu-system-x86_64]; deploy/debian/qemu fetches one")
	flags.StringVar(&b.nitroCLI, "nitro-cli", "nitro-cli", "the command that is nitro-cli")
	flags.StringArrayVar(&b.regions, "region", nil, "an AWS region whose KMS a Nitro Enclave may reach (can be repeated) [that of your AWS configuration]")
}

// args are the flags again, for the keeper.
func (b *backend) args() []string {
	args := []string{
		"--backend", b.name, "--image", b.image, "--cpus", strconv.Itoa(b.cpus), "--memory", b.memory, "--qemu", b.qemu,
		"--nitro-cli", b.nitroCLI, "--fresh=" + strconv.FormatBool(b.fresh), "--debug=" + strconv.FormatBool(b.debug),
	}
	for _, region := range b.regions {
		args = append(args, "--region", region)
	}
	return args
}

// check finds what is wrong with the flags, and makes paths independent of the folder.
func (b *backend) check() (err error) {
	switch {
	case b.name == backendLocal && (b.image != "" || b.cpus != 0 || b.memory != "" || b.debug):
		return usage("leave them out, or name another --backend", "--image, --cpus, --memory and --debug are for the backends %s and %s", backendQEMU, backendNitro)
	case b.name != backendLocal && b.name != backendQEMU && b.name != backendNitro:
		return usage("the backends are local, qemu and nitro", "--backend: there is no %q", b.name)
	case b.name != backendLocal && b.image == "":
		return usage("cloister image build makes one; name it with --image FILE.eif", "no image is named")
	case b.cpus < 0:
		return usage("name how many", "--cpus: %d", b.cpus)
	}
	if _, err := b.bytes(); err != nil {
		return err
	}
	if b.image != "" {
		if b.image, err = filepath.Abs(b.image); err != nil {
			return err
		}
		if _, err := os.Stat(b.image); err != nil {
			return usage("name an enclave image", "--image: %v", err)
		}
	}
	if b.qemu == "" {
		b.qemu = os.Getenv("CLOISTER_QEMU")
	}
	if b.qemu == "" {
		b.qemu = "qemu-system-x86_64"
	}
	for _, command := range []*string{&b.qemu, &b.nitroCLI} {
		if strings.Contains(*command, "/") { // the others are looked for in PATH
			if *command, err = filepath.Abs(*command); err != nil {
				return err
			}
		}
	}
	return nil
}

// left is how another process ends the enclave if its keeper is killed: nil where it ends with its keeper.
func (b *backend) left() *nitro.Left {
	if b.name != backendNitro {
		return nil
	}
	if b.known == "" {
		b.known = nitro.RandomName()
	}
	return &nitro.Left{Path: b.nitroCLI, Name: b.known}
}

// bytes is the memory that was asked for, or 0.
func (b *backend) bytes() (int64, error) {
	if b.memory == "" {
		return 0, nil
	}
	n, fault, hint := jobspec.ParseSize(b.memory)
	if fault != "" {
		return 0, usage(hint, "--memory: %s", fault)
	}
	return n, nil
}

// kept is an enclave as its keeper has it.
type kept interface {
	Dial(ctx context.Context) (net.Conn, error)
	// Address is where others dial it, or empty.
	Address() vsock.Address
	// PCRs are those of its image, RootPEM what vouches for it if it is SIMULATED.
	PCRs() attest.PCRSet
	RootPEM() []byte
	// PID is its process on this machine, or 0.
	PID() int
	Ended() <-chan struct{}
	// Why is why it ended, once it did.
	Why() error
	// Follow writes what is on its console, and then whatever comes.
	Follow(ctx context.Context, w io.Writer) error
	Stop() error
}

var _ kept = (*launch.Simulated)(nil)

// start starts an enclave of the backend.
func (b *backend) start(ctx context.Context, beside string) (kept, error) {
	switch b.name {
	case backendLocal:
		return simulate(ctx, filepath.Join(beside, "enclave"))
	case backendQEMU:
		return b.startQEMU(ctx)
	default:
		return b.startNitro(ctx)
	}
}

// startQEMU starts a SIMULATED enclave in a virtual machine.
func (b *backend) startQEMU(ctx context.Context) (kept, error) {
	home, kms, err := simulation()
	if err != nil {
		return nil, err
	}
	memory, err := b.bytes()
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath(b.qemu); err != nil {
		return nil, usage("deploy/debian/qemu FOLDER fetches one; name FOLDER/qemu/run with --qemu, or in CLOISTER_QEMU", "--qemu: %v", err)
	}
	return launch.SimulateVM(ctx, launch.Simulation{Image: b.image, Home: home, KMS: kms},
		launch.VMConfig{QEMU: b.qemu, CPUs: b.cpus, Memory: memory, Debug: b.debug})
}
