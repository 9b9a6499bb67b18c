package proto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// MaxManifest bounds a manifest in bytes.
const MaxManifest = 16 << 10

const (
	maxManifestArgs = 16
	maxManifestArg  = 256
	maxPluginName   = 63
)

// Manifest describes an executor that is installed in an enclave. It is part of the measured
// image, and it is all that the enclave knows of a plugin before it starts it.
type Manifest struct {
	// Name is lower-case kebab, at most 63 bytes, and the name of the manifest's folder.
	Name string `json:"name"`
	// Version is the plugin's own. What the plugin describes itself as must equal it.
	Version string `json:"version"`
	// Protocol is [Version].
	Protocol int `json:"protocol"`
	// Executable is a path inside the folder of executors, or absolute.
	Executable string   `json:"executable"`
	Args       []string `json:"args"`
	// SHA256 of the executable, lower-case hex.
	SHA256 string `json:"sha256"`
}

// ParseManifest reads a manifest and reports every problem of it at once.
func ParseManifest(raw []byte) (Manifest, error) {
	if len(raw) > MaxManifest {
		return Manifest{}, fmt.Errorf("manifest of more than %d bytes", MaxManifest)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var m Manifest
	if err := dec.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Manifest{}, errors.New("manifest: something follows the object")
	}
	if err := m.Check(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// Check reports every problem of m at once.
func (m Manifest) Check() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if !PluginLabel(m.Name) {
		add("name: %.80q is not lower-case letters, digits and single hyphens, at most %d", m.Name, maxPluginName)
	}
	if !Label(m.Version) {
		add("version: is not 1 to %d printable characters", maxLabel)
	}
	if m.Protocol != Version {
		add("protocol: %d, this host speaks %d", m.Protocol, Version)
	}
	switch {
	case m.Executable == "":
		add("executable: is empty")
	case badString(m.Executable, MaxPath) != "":
		add("executable: %s", badString(m.Executable, MaxPath))
	case filepath.Clean(m.Executable) != m.Executable:
		add("executable: %.200q is not written plainly", m.Executable)
	case !filepath.IsAbs(m.Executable) && !filepath.IsLocal(m.Executable):
		add("executable: %.200q leaves the folder of executors", m.Executable)
	}
	if len(m.Args) > maxManifestArgs {
		add("args: %d, at most %d", len(m.Args), maxManifestArgs)
	}
	for i, arg := range m.Args {
		if problem := badString(arg, maxManifestArg); problem != "" {
			add("args[%d]: %s", i, problem)
		}
	}
	if sum, err := hex.DecodeString(m.SHA256); err != nil || len(sum) != 32 || strings.ToLower(m.SHA256) != m.SHA256 {
		add("sha256: is not 64 lower-case hexadecimal digits")
	}
	return errors.Join(problems...)
}

// PluginLabel reports whether s can name a plugin: lower-case kebab, at most 63 bytes.
func PluginLabel(s string) bool {
	if s == "" || len(s) > maxPluginName {
		return false
	}
	for part := range strings.SplitSeq(s, "-") {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			return false
		}
	}
	return true
}
