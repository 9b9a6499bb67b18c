package boot

import (
	"fmt"
	"io"
	"os"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/keys"
	"github.com/cloister-run/cloister/policies/abi"
)

// maxProfile bounds the profile in bytes.
const maxProfile = 16 << 10

// listenUnix makes the enclave listen on image.Socket, listenVsock at image.APIPort.
const (
	listenUnix  = "unix"
	listenVsock = "vsock"
)

// nsmSocket takes the NSM at image.NSM, nsmDevice that of /dev/nsm.
const (
	nsmSocket = "socket"
	nsmDevice = "device"
)

// profile is the one measured file that fixes what an enclave trusts and where it listens. An image that
// trusts anything simulated has another profile than one that does not, and so other PCRs.
type profile struct {
	// Realm is whose word receipts are: "aws" for Nitro Enclaves, "local" for simulated ones.
	Realm attest.Realm `json:"realm"`
	// Listen is "vsock", or "unix" in the realm "local". With "vsock" the enclave is alone with a kernel
	// and boots by itself; with "unix" it is a process on somebody's machine.
	Listen string `json:"listen"`
	// NSM is "device", or "socket" in the realm "local".
	NSM string     `json:"nsm"`
	KMS kmsProfile `json:"kms"`
	// Rehearsal, in the realm "local" alone, shows whoever runs a job the application's logs, whatever
	// policies say. It is measured like the rest: a key that is released to other images is not
	// released to this one.
	Rehearsal bool `json:"rehearsal,omitempty"`
}

// kmsProfile says which KMS is asked for data keys.
type kmsProfile struct {
	// Partition is "cloister-dev" in the realm "local", and only there; else one of AWS's.
	Partition string `json:"partition"`
	// Endpoint is the URL of the KMS of cloister-dev. AWS's follow from the partition and the key.
	Endpoint string `json:"endpoint,omitempty"`
}

// readProfile reads the profile at path.
func readProfile(path string) (profile, error) {
	f, err := os.Open(path)
	if err != nil {
		return profile{}, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err != nil {
		return profile{}, fmt.Errorf("profile: %w", err)
	}
	return parseProfile(raw)
}

// parseProfile reads a profile strictly: it is measured, so what is not understood is no mistake
// of the enclave's to be lenient about.
func parseProfile(raw []byte) (profile, error) {
	var p profile
	if err := abi.DecodeExact(raw, maxProfile, &p); err != nil {
		return profile{}, fmt.Errorf("profile: %w", err)
	}
	if err := p.check(); err != nil {
		return profile{}, fmt.Errorf("profile.%w", err)
	}
	return p, nil
}

// check keeps what is simulated and what is not apart. What else is wrong with the KMS is for package
// keys to say.
func (p *profile) check() error {
	local := p.Realm == attest.RealmLocal
	switch {
	case !local && p.Realm != attest.RealmAWS:
		return fmt.Errorf("realm: %.80q is neither %q nor %q", p.Realm, attest.RealmAWS, attest.RealmLocal)
	case p.Listen != listenVsock && p.Listen != listenUnix:
		return fmt.Errorf("listen: %.80q is neither %q nor %q", p.Listen, listenVsock, listenUnix)
	case p.Listen == listenUnix && !local:
		return fmt.Errorf("listen: %q is for the realm %q alone", listenUnix, attest.RealmLocal)
	case p.Listen == listenVsock && p.NSM != nsmDevice:
		return fmt.Errorf("nsm: an enclave that listens on %q has %q", listenVsock, nsmDevice)
	case p.NSM != nsmDevice && p.NSM != nsmSocket:
		return fmt.Errorf("nsm: %.80q is neither %q nor %q", p.NSM, nsmDevice, nsmSocket)
	case p.NSM == nsmSocket && !local:
		return fmt.Errorf("nsm: %q is for the realm %q alone", nsmSocket, attest.RealmLocal)
	case p.KMS.Partition == "", local != (p.KMS.Partition == keys.PartitionDev):
		return fmt.Errorf("kms.partition: %.80q does not belong to the realm %q", p.KMS.Partition, p.Realm)
	case p.Rehearsal && !local:
		return fmt.Errorf("rehearsal: it is for the realm %q alone", attest.RealmLocal)
	case local != (p.KMS.Endpoint != ""):
		return fmt.Errorf("kms.endpoint: required in the realm %q, and refused elsewhere", attest.RealmLocal)
	}
	return nil
}
