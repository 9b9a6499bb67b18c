package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/aws"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/launch"
	"github.com/cloister-run/cloister/enclave/wire"
)

// imageOf finds the image of a simulated enclave that is started for one command, by its reserved name.
func imageOf(enclave, beside string) (dir string, ok bool) {
	image, ok := map[string]string{"local": "enclave", "rehearsal": "rehearsal"}[enclave]
	return filepath.Join(beside, image), ok
}

// isBrief reports whether an enclave is started for one command and ends with it.
func isBrief(enclave string) bool {
	_, ok := imageOf(enclave, "")
	return ok
}

// simulate starts a local enclave of an image, under the development root of this user.
func simulate(ctx context.Context, image string) (*launch.Simulated, error) {
	home, kms, err := simulation()
	if err != nil {
		return nil, err
	}
	return launch.Simulate(ctx, launch.Simulation{Image: image, Home: home, KMS: kms})
}

// simulation is the far end of SIMULATED enclaves: this user's development root, and the KMS.
func simulation() (home *devkit.Home, kms string, err error) {
	if home, err = openDevHome(""); err != nil {
		return nil, "", err
	}
	if kms, err = aws.DevKMS(); err != nil {
		return nil, "", err
	}
	if !strings.HasPrefix(kms, "http://") {
		return nil, "", usage("set AWS_ENDPOINT_URL_KMS to where cloister dev kms listens, or unset it",
			"AWS_ENDPOINT_URL_KMS or AWS_ENDPOINT_URL: %s is no simulated KMS, which a local enclave reaches over http", printable(kms))
	}
	return home, kms, nil
}

// startLocal starts a local enclave of an image for this command, and gives a client that trusts it and
// nothing else. stop ends both.
func startLocal(ctx context.Context, image string) (c *client.Client, stop func() error, err error) {
	enclave, err := simulate(ctx, image)
	if err != nil {
		return nil, nil, err
	}
	c, err = client.New(client.Config{
		Dial: enclave.Dial, Root: enclave.Root(), Realm: attest.RealmLocal, PCRs: enclave.PCRs(),
		Credentials: credentials, Now: time.Now,
	})
	if err != nil {
		return nil, nil, errors.Join(err, enclave.Stop())
	}
	return c, func() error {
		c.Close()
		return enclave.Stop()
	}, nil
}

// credentials are those of the AWS configuration of this user.
func credentials(ctx context.Context, partition string) (wire.Credentials, error) {
	account, err := aws.Load(ctx, aws.Options{Partition: partition})
	if err != nil {
		return wire.Credentials{}, err
	}
	c, err := account.Credentials(ctx)
	return wire.Credentials(c), err
}
