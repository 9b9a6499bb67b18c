// Package hosttest launches executors as package host does, but without walls, so that a
// plugin's protocol can be tested on any machine.
//
// Everything of plugins/host is real — the sealed executable, the handshake, mutual TLS, the
// deadlines — except the sandbox. It is for tests alone: nothing here holds anybody back.
package hosttest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/proto"
)

// Plugin is an executor to install.
type Plugin struct {
	// Name and Version are those of its manifest. Required.
	Name, Version string
	// Executable is an absolute path. Required.
	Executable string
	Args       []string
}

// New is a host with one executor installed, which it starts with [Start]. cfg may be the zero
// Config: its folders are filled in.
func New(t testing.TB, cfg host.Config, p Plugin) *host.Host {
	t.Helper()
	cfg.Dir = t.TempDir()
	Install(t, cfg.Dir, p)
	h, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// Open is a host of the executors in cfg.Dir, which it starts with [Start]. The caller closes it.
func Open(cfg host.Config) (*host.Host, error) {
	cfg.Rootfs, cfg.Init = "/nonexistent", "/nonexistent"
	return host.NewWith(cfg, Start)
}

// Install writes p's manifest into dir.
func Install(t testing.TB, dir string, p Plugin) {
	t.Helper()
	m := proto.Manifest{Name: p.Name, Version: p.Version, Protocol: proto.Version, Executable: p.Executable, Args: p.Args}
	if err := Write(dir, m); err != nil {
		t.Fatal(err)
	}
}

// Write writes a manifest into dir, with the digest of its executable.
func Write(dir string, m proto.Manifest) error {
	sum, err := digest(m.Executable)
	if err != nil {
		return err
	}
	m.SHA256 = sum
	if err := m.Check(); err != nil {
		return err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, m.Name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, m.Name, "manifest.json"), raw, 0o644)
}

func digest(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
