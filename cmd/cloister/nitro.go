package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"os"

	"github.com/cloister-run/cloister/enclave/aws"
	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/launch/nitro"
	"github.com/cloister-run/cloister/enclave/vsock"
)

// genuine is a Nitro Enclave as its keeper has it.
type genuine struct{ *nitro.Enclave }

var _ kept = genuine{}

// RootPEM is nothing: AWS's root vouches for it.
func (genuine) RootPEM() []byte { return nil }

// Address is the enclave's own.
func (g genuine) Address() vsock.Address { return vsock.PortAddress(g.CID(), image.APIPort) }

// Follow writes what is on the console of an enclave in debug mode.
func (g genuine) Follow(ctx context.Context, w io.Writer) error { return g.Console(ctx, w) }

// Why is nothing that anybody tells.
func (genuine) Why() error {
	return errors.New("nitro-cli does not say why; with --debug its console may")
}

// PID is none of this user's.
func (genuine) PID() int { return 0 }

// startNitro has nitro-cli start an enclave.
func (b *backend) startNitro(ctx context.Context) (kept, error) {
	regions := b.regions
	if len(regions) == 0 {
		account, err := aws.Load(ctx, aws.Options{Partition: "aws"})
		if err != nil {
			return nil, err
		}
		if account.Region() == "" {
			return nil, usage("name the region of the owners' keys: --region eu-central-1", "no AWS region is configured")
		}
		regions = []string{account.Region()}
	}
	cpus, memory, err := b.resources()
	if err != nil {
		return nil, err
	}
	e, err := nitro.Start(ctx, nitro.Config{
		Path: b.nitroCLI, Name: b.known, Image: b.image, CPUs: cpus, Memory: int((memory + 1<<20 - 1) >> 20), Regions: regions, Debug: b.debug,
		Log: slog.New(slog.NewTextHandler(keeperLog{}, nil)),
	})
	if err != nil {
		return nil, err
	}
	return genuine{e}, nil
}

// maxLog bounds a keeper's log: what was before is given up.
const maxLog = 8 << 20

// keeperLog is the standard error of a keeper.
type keeperLog struct{}

func (keeperLog) Write(p []byte) (int, error) {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > maxLog {
		_ = os.Stderr.Truncate(0) // it is appended to
	}
	return os.Stderr.Write(p)
}

// resources are those that were asked for, or else those that the image asks for.
func (b *backend) resources() (cpus int, memory int64, err error) {
	cpus = b.cpus
	if memory, err = b.bytes(); err != nil || cpus != 0 && memory != 0 {
		return cpus, memory, err
	}
	f, size, err := openImage(b.image)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	img, err := eif.Read(f, size)
	if err != nil {
		return 0, 0, damagedImage(b.image, err)
	}
	if cpus == 0 {
		cpus = int(min(img.CPUs, math.MaxInt32))
	}
	if memory == 0 {
		memory = int64(min(img.Memory, math.MaxInt64))
	}
	return cpus, memory, nil
}
