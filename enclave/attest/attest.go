// Package attest owns attestation documents: it asks a Nitro Security Module for one, and
// it verifies one that came from anywhere.
//
// It trusts a root certificate that is pinned or given by name, and nothing inside a document
// before the signature and the chain to that root hold. It never reads a clock to verify,
// never fetches anything, and never returns a document together with an error.
//
// docs/attestation.md states the same rules for other implementations.
package attest

// Limits of the format.
const (
	// MaxDocument bounds a document before it is decoded. AWS bounds its payload to 16384 bytes
	// and the driver a whole answer to 12288 ("Nitro Enclaves attestation process", 3.1).
	MaxDocument = 16 << 10
	// MaxUserData, MaxNonce and MaxPublicKey bound what an enclave may put in (3.2.2.2).
	MaxUserData  = 512
	MaxNonce     = 512
	MaxPublicKey = 1024

	// maxCertificate bounds each certificate (3.2.2.2).
	maxCertificate = 1024
	// maxBundle bounds the certificates between root and leaf, both ends of today's four included twice over.
	maxBundle = 8
)
