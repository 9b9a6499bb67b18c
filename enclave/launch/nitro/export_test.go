package nitro

import (
	"context"
	"net"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
)

// StartOn is [Start] with sockets of the caller's.
func StartOn(
	ctx context.Context, cfg Config,
	listen func(port uint32, admit func(cid uint32) bool) (net.Listener, error),
	dial func(ctx context.Context, cid, port uint32) (net.Conn, error),
) (*Enclave, error) {
	return start(ctx, cfg, sockets{listen, dial})
}

// Complaint reads what nitro-cli wrote to its standard error.
func Complaint(verb, says string) *Error { return complaint(verb, says) }

// KMSHosts are what the door leads to.
func KMSHosts(regions []string) []string { return kmsHosts(regions) }

// CheckRun and CheckDescribe read what nitro-cli prints and hold it against what was measured.
func CheckRun(out []byte) error {
	_, err := parseRun(out)
	return err
}

func CheckDescribe(out []byte, pcrs attest.PCRSet, debug bool) error {
	all, err := parseDescribe(out)
	if err != nil {
		return err
	}
	for _, r := range all {
		if err := r.check(pcrs, debug); err != nil {
			return err
		}
	}
	return nil
}

// Impatient gives run-enclave no more time than d.
func Impatient(cfg Config, d time.Duration) Config {
	cfg.patience = d
	return cfg
}
