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
	cfg.Rootfs, cfg.Init = "/nonexistent", "/nonexistent"
	h, err := host.NewWith(cfg, Start)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// Install writes p's manifest into dir.
func Install(t testing.TB, dir string, p Plugin) {
	t.Helper()
	raw, err := json.Marshal(proto.Manifest{
		Name: p.Name, Version: p.Version, Protocol: proto.Version,
		Executable: p.Executable, Args: p.Args, SHA256: digest(t, p.Executable),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, p.Name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, p.Name, "manifest.json"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

func digest(t testing.TB, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
