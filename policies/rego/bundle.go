package rego

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
)

// Bounds of a bundle.
const (
	maxBundleModule  = 16 << 20
	maxBundleBytes   = 64 << 20 // of all that it unpacks to
	maxBundleEntries = 10_000
)

// IsBundle reports whether a file is compressed as OPA's bundles are, which no module is.
func IsBundle(file []byte) bool { return bytes.HasPrefix(file, []byte{0x1f, 0x8b}) }

// Unbundle takes the module and the data document out of what `opa build -t wasm` writes, bundle.tar.gz:
// /policy.wasm and /data.json in its root. Data is nil if there is none, or nothing in it. It is read for the owner of
// the policy, before anything is packed; an enclave sees no bundle.
func Unbundle(bundle io.Reader) (wasm, data []byte, err error) {
	unpacked, err := gzip.NewReader(bundle)
	if err != nil {
		return nil, nil, fmt.Errorf("bundle: %w", err)
	}
	archive := tar.NewReader(io.LimitReader(unpacked, maxBundleBytes))
	for range maxBundleEntries {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			// The checksum stands at the end.
			_, err = io.Copy(io.Discard, io.LimitReader(unpacked, maxBundleBytes))
			if err == nil && wasm == nil {
				err = errors.New("no /policy.wasm: build it with `opa build -t wasm`")
			}
			if err != nil {
				return nil, nil, fmt.Errorf("bundle: %w", err)
			}
			return wasm, data, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("bundle: %w", err)
		}
		switch path.Clean("/" + header.Name) {
		case "/policy.wasm":
			if wasm != nil {
				return nil, nil, errors.New("bundle: /policy.wasm is there twice")
			}
			wasm, err = readAtMost(archive, maxBundleModule)
		case "/data.json":
			if data != nil {
				return nil, nil, errors.New("bundle: /data.json is there twice")
			}
			if data, err = readAtMost(archive, MaxDataBytes); string(bytes.TrimSpace(data)) == "{}" {
				data = nil
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("bundle: %s: %w", header.Name, err)
		}
	}
	return nil, nil, fmt.Errorf("bundle: more than %d entries", maxBundleEntries)
}

func readAtMost(from io.Reader, limit int) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(from, int64(limit)+1))
	if err == nil && len(content) > limit {
		err = fmt.Errorf("over %d bytes", limit)
	}
	return content, err
}
