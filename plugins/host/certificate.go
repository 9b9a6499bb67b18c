package host

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"
)

// peer is the name in both certificates of a connection (go-plugin, mtls.go).
const peer = "localhost"

// newTLS makes the host's end of one session's mutual TLS, and its certificate for the plugin. The
// plugin's own comes with its handshake, where go-plugin adds it as the one root.
//
// It is go-plugin's AutoMTLS with another curve: that one has P-521, which the gRPC of Python, Node.js
// and everything else on BoringSSL does not take from a client.
func newTLS() (cfg *tls.Config, certificate string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: peer}, DNSNames: []string{peer}, SerialNumber: big.NewInt(now.UnixNano()),
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour), // longer than any job
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IsCA:        true, BasicConstraintsValid: true, // a plugin takes it as its one root
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, "", err
	}
	var text bytes.Buffer
	if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		return nil, "", err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      x509.NewCertPool(), // nobody, until the handshake names one
		ServerName:   peer,
		MinVersion:   tls.VersionTLS13,
	}, text.String(), nil
}
