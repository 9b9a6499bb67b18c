// Package devkit owns the simulated far end of an enclave on one machine: the hypervisor's NSM, the
// measurement of a local image and a KMS, with the keys and accounts behind them.
//
// It speaks the protocols of the real ones, so that the enclave's and the owner's code is the code
// that meets AWS. What it holds is worth nothing outside: its accounts and keys are of the partition
// cloister-dev, its documents are under a development root. It trusts the folder that it is given
// and whoever owns it, and nothing that comes in over a socket before that is verified.
//
// It is never linked into cloisterd, calls no service of AWS, and logs no plaintext and no secret.
package devkit

import (
	"crypto/rand"
	"fmt"
)

// partition is that of every ARN here, the same as keys.PartitionDev and jobspec's.
const partition = "cloister-dev"

// newUUID is a random UUID (RFC 9562, 5.4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return formatUUID(b)
}

func formatUUID(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
