package devca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// FileName is where Open keeps key and certificate, in one file, so that neither is ever without the other.
const FileName = "development-root.pem"

// maxFile bounds that file; one takes about 1200 bytes.
const maxFile = 16 << 10

// Open is the root kept in a folder, which is made, mode 0700, if it is not there. Where the folder
// has none, a root is made as of now; of several processes that try, one succeeds and all
// take its root. A file that anyone but its owner may read or write is refused.
func Open(folder string, now time.Time) (*CA, error) {
	key, certificate, err := load(filepath.Join(folder, FileName))
	if errors.Is(err, fs.ErrNotExist) {
		if err = create(folder, now); err == nil {
			key, certificate, err = load(filepath.Join(folder, FileName))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	return newCA(key, certificate)
}

func load(path string) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, nil, fmt.Errorf("%s: not a file that its owner alone may read and write", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return nil, nil, err
	}
	key, certificate, err := decode(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, certificate, nil
}

// decode reads a certificate and its key, in this order, and nothing else.
func decode(data []byte) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	first, rest := pem.Decode(data)
	if first == nil || first.Type != "CERTIFICATE" {
		return nil, nil, errors.New("no certificate")
	}
	second, rest := pem.Decode(rest)
	if second == nil || second.Type != "PRIVATE KEY" || len(rest) > 0 {
		return nil, nil, errors.New("no key after the certificate, or more than that")
	}
	certificate, err := x509.ParseCertificate(first.Bytes)
	if err != nil {
		return nil, nil, err
	}
	if !strings.HasPrefix(certificate.Subject.CommonName, RootName) || !certificate.IsCA {
		return nil, nil, errors.New("not a " + RootName)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(second.Bytes)
	if err != nil {
		return nil, nil, errors.New("the key cannot be read") // the cause might quote it
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P384() || !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, nil, errors.New("the key is not the certificate's")
	}
	return key, certificate, nil
}

// create writes a root under a name of its own and then links it to the name that counts, which
// fails where another process was faster.
func create(folder string, now time.Time) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	key, certificate, err := newRoot(now)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	data := append(pemOf(certificate.Raw), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	file, err := os.CreateTemp(folder, ".development-root-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	err = os.Link(file.Name(), filepath.Join(folder, FileName))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
