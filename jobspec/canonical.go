package jobspec

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"
)

// digestDomain separates the digest of a job from every other hash.
const digestDomain = "cloister job v1"

// ErrNotCanonical says that the bytes are a valid job in another spelling than the canonical one.
var ErrNotCanonical = errors.New("job is not in its canonical form")

// Canonical is the job as the enclave gets it. modules[i] is the digest, "sha256:…", of the
// module of policy i. Defaults are filled in. Every rule is applied again, since a Job can be
// made without [Parse]; the error is then a [*Problems] without lines.
func (j *Job) Canonical(modules []string) (*Canonical, error) {
	if len(modules) != len(j.Policies) {
		return nil, fmt.Errorf("jobspec: %d policies have %d module digests", len(j.Policies), len(modules))
	}
	canonical := j.canonical(modules)
	if err := canonical.validate(inFile); err != nil {
		return nil, err
	}
	return canonical, nil
}

// canonical drops the operator's paths and fills the defaults in. It shares no memory with j.
func (j *Job) canonical(modules []string) *Canonical {
	c := &Canonical{
		Version:     Version,
		Name:        j.Name,
		Environment: j.Environment != "",
		Command:     j.Application.Command,
		Inputs:      sorted(j.Inputs),
		Parameters:  maps.Clone(j.Parameters),
		Outputs:     sorted(j.Outputs),
		SealTo:      map[string][]string{},
		Logs:        CanonicalLogs{Stdout: j.Logs.Stdout != "", Stderr: j.Logs.Stderr != ""},
		Exit:        j.ExitTo != "",
		Limits:      j.Limits,
		Keep:        cmp.Or(j.Keep, DefaultKeep),
	}
	c.Command.Executor = cmp.Or(c.Command.Executor, DefaultExecutor)
	d := DefaultLimits()
	c.Limits.CPUs = cmp.Or(c.Limits.CPUs, d.CPUs)
	c.Limits.Memory = cmp.Or(c.Limits.Memory, d.Memory)
	c.Limits.Disk = cmp.Or(c.Limits.Disk, d.Disk)
	c.Limits.Processes = cmp.Or(c.Limits.Processes, d.Processes)
	c.Limits.Run = cmp.Or(c.Limits.Run, d.Run)
	for i, policy := range j.Policies {
		c.Policies = append(c.Policies, CanonicalPolicy{Module: modules[i], Config: policy.Config})
	}
	for name, output := range j.Outputs {
		if output.SealTo != nil {
			c.SealTo[name] = output.SealTo
		}
	}
	c = c.normal()
	for name, p := range c.Command.Parameters {
		if _, ok := c.Parameters[name]; !ok && p.Default != nil {
			c.Parameters[name] = *p.Default
		}
	}
	return c
}

// normal is a copy in which absent and empty are one, lists of names are sorted and
// configurations are canonical where they can be.
func (c *Canonical) normal() *Canonical {
	n := *c
	n.Command = c.Command.Normal()
	n.Inputs = append([]string{}, c.Inputs...)
	n.Outputs = append([]string{}, c.Outputs...)
	slices.Sort(n.Inputs)
	slices.Sort(n.Outputs)
	n.SealTo = filled(c.SealTo)
	for name, recipients := range n.SealTo {
		n.SealTo[name] = slices.Sorted(slices.Values(recipients))
	}
	n.Parameters = filled(c.Parameters)
	n.Policies = append([]CanonicalPolicy{}, c.Policies...)
	for i, policy := range n.Policies {
		if config, err := canonicalConfig(policy.Config); err == nil {
			n.Policies[i].Config = config
		}
	}
	return &n
}

func filled[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return maps.Clone(m)
}

// validate applies the shared rules; where says how messages spell a path.
func (c *Canonical) validate(where func(path) path) error {
	found := newCollector("job", jobFormat())
	r := &rules{
		job:    c,
		report: func(p path, message, hint string) { found.report(where(p), message, hint) },
		intact: func(path) bool { return true },
	}
	r.run()
	return found.err()
}

// JSON is the one spelling of the job: fields in the order of the types, names sorted, no
// spaces. It is nil for a Canonical made by hand whose configurations are no JSON.
func (c *Canonical) JSON() []byte {
	out, err := encode(c.normal())
	if err != nil {
		return nil
	}
	return out
}

// Digest is "sha256:" and the hexadecimal SHA-256 over the domain and the JSON, each behind
// its length as eight bytes, big endian. It is empty where [Canonical.JSON] is nil.
func (c *Canonical) Digest() string {
	content := c.JSON()
	if content == nil {
		return ""
	}
	h := sha256.New()
	for _, field := range [][]byte{[]byte(digestDomain), content} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(field))))
		h.Write(field)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// ParseCanonical reads what [Canonical.JSON] wrote, on the enclave's side, where the bytes
// come from the host. Every rule of [Parse] that does not concern the operator's disk holds
// here too. Other spellings of a valid job are [ErrNotCanonical].
func ParseCanonical(data []byte) (*Canonical, error) {
	if len(data) > MaxCanonical {
		return nil, fmt.Errorf("jobspec: the job is %d bytes long; at most %d are allowed", len(data), MaxCanonical)
	}
	if !utf8.Valid(data) {
		return nil, errors.New("jobspec: the job is not UTF-8")
	}
	// A configuration stands three levels down: job, policies, policy.
	if _, err := readJSON(data, maxDepth+3); err != nil {
		return nil, fmt.Errorf("jobspec: the job %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var c Canonical
	if err := decoder.Decode(&c); err != nil {
		return nil, fmt.Errorf("jobspec: %w", err)
	}
	n := c.normal()
	if err := n.validate(func(p path) path { return p }); err != nil {
		return nil, err
	}
	if !bytes.Equal(n.JSON(), data) {
		return nil, fmt.Errorf("jobspec: %w", ErrNotCanonical)
	}
	return n, nil
}
