package host

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"

	"github.com/cloister-run/cloister/plugins/proto"
)

// newTLS makes the host's end of one session's mutual TLS, and its certificate for the plugin. The
// plugin's own comes with its handshake, where go-plugin adds it as the one root.
func newTLS() (cfg *tls.Config, certificate string, err error) {
	ours, err := proto.NewCertificate()
	if err != nil {
		return nil, "", err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{ours},
		RootCAs:      x509.NewCertPool(), // nobody, until the handshake names one
		ServerName:   proto.Peer,
		MinVersion:   tls.VersionTLS13,
	}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ours.Certificate[0]})), nil
}
