package envelope

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies/abi"
)

// Header is what a bundle says in the open. Until KMS answered for the key and the payload
// reached its authenticated end, all of it is a claim.
type Header struct {
	Version int   `json:"version"`
	Asset   Asset `json:"asset"`
	// ID is random, 32 lower-case hexadecimal digits: an owner can revoke this one bundle.
	ID string `json:"id"`
	// Command is how an application is run; nil for every other kind.
	Command *jobspec.Command `json:"command,omitempty"`
	// Key is the full ARN of the KMS key that wrapped the data key.
	Key string `json:"key"`
	// EncryptionContext is what the key was wrapped with. [Read] recomputes it and refuses
	// every other; use [Bundle.Context].
	EncryptionContext map[string]string `json:"encryption_context"`
	// WrappedKey is the CiphertextBlob of KMS.
	WrappedKey []byte `json:"wrapped_key"`
	Policy     Policy `json:"policy"`
}

// Asset describes what is sealed.
type Asset struct {
	Name string       `json:"name"`
	Kind jobspec.Kind `json:"kind"`
	// Form is "file" or "tree": whether a job is given a file or a folder.
	Form string `json:"form"`
	// Bytes sums the content of all files, Entries counts files and folders: what the enclave
	// reserves, and the limits to unpack under.
	Bytes   int64 `json:"bytes"`
	Entries int   `json:"entries"`
}

// The forms of an asset.
const (
	FileForm = "file"
	TreeForm = "tree"
)

// Limits bound what the payload may hold.
func (a Asset) Limits() tree.Limits { return tree.Limits{Bytes: a.Bytes, Entries: a.Entries} }

// Policy is the reference to the policy that goes with the asset.
type Policy struct {
	// ModuleBytes is the length of the module, which follows the header.
	ModuleBytes int64 `json:"module_bytes"`
	// Config is canonical JSON (see [jobspec.CanonicalConfig]); "null" if there is none.
	Config json.RawMessage `json:"config"`
	Limits Limits          `json:"limits"`
	// Codes are the module's denial codes with their hints, for people who have no engine at
	// hand. The engine goes by the module: see [Bundle.CheckManifest].
	Codes []abi.Code `json:"codes"`
	// Digest is [Policy.digest]; [Read] recomputes it.
	Digest string `json:"digest"`
}

// encode writes the header as Seal stores it.
func (h *Header) encode() ([]byte, error) { return marshal(h) }

// marshal is JSON without spaces and without escapes for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// decodeHeader reads the bytes of a header and checks everything that needs no module.
func decodeHeader(data []byte) (*Header, error) {
	// The version is known already; it stands here as well so that the JSON can stand alone.
	var h Header
	if err := abi.DecodeExact(data, MaxHeader, &h); err != nil {
		return nil, fail(ErrHeader, "", "%v", err)
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	return &h, nil
}

// check applies every rule for a header by itself.
func (h *Header) check() error {
	if h.Version != Version {
		return fail(ErrHeader, "", "version: %d in a bundle of version %d", h.Version, Version)
	}
	stated := jobspec.Bundle{
		Asset:   jobspec.Asset{Name: h.Asset.Name, Kind: h.Asset.Kind},
		Command: h.Command, Key: h.Key, Policy: jobspec.Policy{Config: h.Policy.Config},
	}
	if err := stated.CheckSealed(); err != nil {
		return fail(ErrHeader, "", "%v", err)
	}
	if err := h.Asset.check(); err != nil {
		return err
	}
	if id, err := hex.DecodeString(h.ID); err != nil || len(id) != idSize || h.ID != hex.EncodeToString(id) {
		return fail(ErrHeader, "", "id: not %d lower-case hexadecimal digits", 2*idSize)
	}
	if n := len(h.WrappedKey); n == 0 || n > MaxWrappedKey {
		return fail(ErrHeader, "", "wrapped_key: %d bytes; 1 to %d are allowed", n, MaxWrappedKey)
	}
	return h.Policy.check()
}

// Bounds on what an asset claims, so that sums of claims cannot overflow.
const (
	maxBytes   = 1 << 50
	maxEntries = 1 << 30
	idSize     = 16
)

func (a Asset) check() error {
	if a.Form != FileForm && a.Form != TreeForm {
		return fail(ErrHeader, "", "asset.form: %.32q is neither %q nor %q", a.Form, FileForm, TreeForm)
	}
	if a.Bytes < 0 || a.Bytes > maxBytes || a.Entries < 0 || a.Entries > maxEntries {
		return fail(ErrHeader, "", "asset: %d bytes in %d entries are out of bounds", a.Bytes, a.Entries)
	}
	if a.Form == FileForm && a.Entries != 1 {
		return fail(ErrHeader, "", "asset: a file of %d entries", a.Entries)
	}
	return nil
}

// Bounds on an owner's limits for a policy, as in [Limits].
const (
	wasmPage        = 64 << 10 // WebAssembly Core 2.0, "Memory Instances"
	maxPolicyMemory = 2 << 30
	maxDecideMillis = 10 * 60 * 1000
)

func (p Policy) check() error {
	if p.ModuleBytes < 1 || p.ModuleBytes > MaxModule {
		return fail(ErrPolicy, "a sealed bundle has a policy; library/allow-all allows everything",
			"module of %d bytes; 1 to %d are allowed", p.ModuleBytes, MaxModule)
	}
	if canonical, err := jobspec.CanonicalConfig(p.Config); err != nil {
		return fail(ErrPolicy, "", "%v", err)
	} else if !bytes.Equal(canonical, p.Config) {
		return fail(ErrPolicy, "", "the configuration is not in its canonical form")
	}
	l := p.Limits
	if l.MemoryBytes < 0 || l.MemoryBytes > maxPolicyMemory || l.MemoryBytes%wasmPage != 0 {
		return fail(ErrPolicy, "", "limits.memory_bytes: %d is not a multiple of 64 KiB up to 2 GiB", l.MemoryBytes)
	}
	if l.DecideMillis < 0 || l.DecideMillis > maxDecideMillis {
		return fail(ErrPolicy, "", "limits.decide_ms: %d is not 0 to %d", l.DecideMillis, maxDecideMillis)
	}
	// The rules for codes are those of a manifest, which has them under some name.
	if err := (abi.Manifest{ABI: abi.Version, Name: "policy", Codes: p.Codes}).Validate(); err != nil {
		return fail(ErrPolicy, "", "%v", err)
	}
	return nil
}

// digest names module, configuration, limits and codes together: SHA-256 over a domain and
// the four, each behind its length. Equal digests mean equal policies.
func (p Policy) digest(module []byte) (string, error) {
	limits, err := marshal(p.Limits)
	if err != nil {
		return "", err
	}
	listed, err := marshal(codes(p.Codes))
	if err != nil {
		return "", err
	}
	sum := sumSHA256(module)
	return "sha256:" + hex.EncodeToString(sumParts(policyDomain, sum[:], p.Config, limits, listed)), nil
}

// context is the KMS encryption context that binds a wrapped key to a bundle: KMS refuses to
// unwrap it under any other, and CloudTrail shows it with every use.
//
// It covers the version, the asset's kind and name, the bundle's id and the policy. It cannot
// cover the wrapped key, which is made with it. It need not cover the rest of the header: the
// key derivation does, and an enclave that was given a data key for an edited header finds
// that it does not fit. What is here is what KMS, CloudTrail and the owner's key policy are to
// see.
func (h *Header) context() map[string]string {
	return map[string]string{
		"cloister:version": fmt.Sprint(h.Version),
		"cloister:kind":    string(h.Asset.Kind),
		"cloister:asset":   h.Asset.Name,
		"cloister:bundle":  h.ID,
		"cloister:policy":  h.Policy.Digest,
	}
}

// bind checks what the header says of itself against the module and its own fields.
func (h *Header) bind(module []byte) error {
	digest, err := h.Policy.digest(module)
	if err != nil {
		return fail(ErrPolicy, "", "%v", err)
	}
	if digest != h.Policy.Digest {
		return fail(ErrPolicy, "get the bundle from its owner again",
			"module, configuration, limits and codes are %s and the header names %.80q", digest, h.Policy.Digest)
	}
	if !maps.Equal(h.context(), h.EncryptionContext) {
		return fail(ErrHeader, "", "encryption_context: not what the header makes it")
	}
	return nil
}

// CheckManifest compares the codes that the header shows with those that the module declares.
// The caller reads the manifest from the module with an engine's rules.
func (b *Bundle) CheckManifest(m abi.Manifest) error {
	if !slices.Equal(codes(m.Codes), codes(b.Header.Policy.Codes)) {
		return fail(ErrPolicy, "", "the header shows other codes than the module declares")
	}
	return nil
}
