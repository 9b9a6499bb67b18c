package coretest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/jobspec"
)

// authority is the development root of all fakes: to make one for each is slow.
var authority = sync.OnceValues(func() (*devca.CA, error) { return devca.New(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) }) //nolint:gochecknoglobals // a constant that takes time

// Root is the root of the documents that fakes make.
func Root(t testing.TB) attest.Root {
	t.Helper()
	return Authority(t).Root()
}

// Authority is the development root itself.
func Authority(t testing.TB) *devca.CA {
	t.Helper()
	ca, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// PCRs are those of every fake enclave.
func PCRs() attest.PCRSet { return attest.PCRSet{0: {1}, 1: {2}, 2: {3}} }

// NSM is a simulated NSM that fails on demand. It is safe for concurrent use.
type NSM struct {
	module *devkit.NSM

	mu      sync.Mutex
	failure map[string]error
	calls   []string
}

var _ core.NSM = (*NSM)(nil)

// NewNSM is the module of a fake enclave with [PCRs], under [Root].
func NewNSM(t testing.TB) *NSM {
	t.Helper()
	return &NSM{module: devkit.NewNSM(Authority(t), PCRs(), time.Now), failure: map[string]error{}}
}

// ModuleID is the module's.
func (n *NSM) ModuleID() string { return n.module.ModuleID() }

// Break makes calls of a name, such as "Attest", fail from now on, unless the error is nil.
func (n *NSM) Break(call string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failure[call] = err
}

// Calls are the calls that changed a register, in order.
func (n *NSM) Calls() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.calls...)
}

// ask asks the module, unless the call fails on demand.
func (n *NSM) ask(ctx context.Context, call string, r request.Request) (response.Response, error) {
	n.mu.Lock()
	err := n.failure[call]
	n.mu.Unlock()
	if err != nil {
		return response.Response{}, err
	}
	answer := n.module.Answer(ctx, r)
	if answer.Error != "" {
		return response.Response{}, &attest.Refusal{Code: string(answer.Error)}
	}
	return answer, nil
}

func (n *NSM) note(call string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, call)
}

// Attest asks the module.
func (n *NSM) Attest(ctx context.Context, r attest.Request) ([]byte, error) {
	answer, err := n.ask(ctx, "Attest", &request.Attestation{UserData: r.UserData, Nonce: r.Nonce, PublicKey: r.PublicKey})
	if err != nil {
		return nil, err
	}
	return answer.Attestation.Document, nil
}

// DescribePCR asks the module.
func (n *NSM) DescribePCR(ctx context.Context, index int) (attest.PCR, bool, error) {
	answer, err := n.ask(ctx, "DescribePCR", &request.DescribePCR{Index: uint16(index)})
	if err != nil {
		return attest.PCR{}, false, err
	}
	return attest.PCR(answer.DescribePCR.Data), answer.DescribePCR.Lock, nil
}

// ExtendPCR asks the module.
func (n *NSM) ExtendPCR(ctx context.Context, index int, data []byte) (attest.PCR, error) {
	answer, err := n.ask(ctx, "ExtendPCR", &request.ExtendPCR{Index: uint16(index), Data: data})
	if err != nil {
		return attest.PCR{}, err
	}
	n.note(fmt.Sprintf("extend %d by %s", index, data))
	return attest.PCR(answer.ExtendPCR.Data), nil
}

// LockPCRs asks the module.
func (n *NSM) LockPCRs(ctx context.Context, count int) error {
	_, err := n.ask(ctx, "LockPCRs", &request.LockPCRs{Range: uint16(count)})
	if err == nil {
		n.note(fmt.Sprintf("lock %d", count))
	}
	return err
}

// Verify holds a receipt against a fake enclave's root and PCRs.
func Verify(t testing.TB, raw []byte) *receipt.Verified {
	t.Helper()
	v, err := receipt.Verify(raw, receipt.Expect{Root: Root(t), Realm: attest.RealmLocal, PCRs: PCRs()})
	if err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return v
}

// Credentials are those that the KMS takes.
const Credentials = "the credentials"

// Keys is a KMS in memory. It is safe for concurrent use.
type Keys struct {
	// Unwrapping, if it is not nil, is called before a data key is given.
	Unwrapping func(ctx context.Context, keyARN string) error

	mu      sync.Mutex
	wrapped map[string]wrapping
	asked   []string
}

// wrapping is a data key that was wrapped.
type wrapping struct {
	dataKey []byte
	key     string
	context map[string]string
}

var (
	_ core.Keys         = (*Keys)(nil)
	_ core.Unwrapper    = (*Keys)(nil)
	_ envelope.DataKeys = (*Keys)(nil)
)

// Login takes Credentials.
func (k *Keys) Login(credentials []byte) (core.Unwrapper, error) {
	if string(credentials) != Credentials {
		return nil, errors.New("not the credentials")
	}
	return k, nil
}

// Generate makes a data key.
func (k *Keys) Generate(_ context.Context, keyARN string, encryptionContext map[string]string) (dataKey, wrapped []byte, err error) {
	dataKey, wrapped = make([]byte, envelope.KeySize), make([]byte, 40)
	_, _ = rand.Read(dataKey) // never fails
	_, _ = rand.Read(wrapped)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wrapped == nil {
		k.wrapped = map[string]wrapping{}
	}
	k.wrapped[string(wrapped)] = wrapping{bytes.Clone(dataKey), keyARN, maps.Clone(encryptionContext)}
	return dataKey, wrapped, nil
}

// Unwrap gives a data key to whoever names its key and its context.
func (k *Keys) Unwrap(ctx context.Context, keyARN string, wrapped []byte, encryptionContext map[string]string) ([]byte, string, error) {
	k.mu.Lock()
	k.asked = append(k.asked, keyARN)
	asked := len(k.asked)
	known := k.wrapped[string(wrapped)]
	k.mu.Unlock()
	if k.Unwrapping != nil {
		if err := k.Unwrapping(ctx, keyARN); err != nil {
			return nil, "", err
		}
	}
	if known.key != keyARN || !maps.Equal(known.context, encryptionContext) {
		return nil, "", &core.KeyError{Refused: true, Reason: "InvalidCiphertextException"}
	}
	return bytes.Clone(known.dataKey), fmt.Sprintf("request-%d", asked), nil
}

// Asked lists the keys of every request so far.
func (k *Keys) Asked() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.asked...)
}

// OwnerKey is the ARN of a key of owner "a", "b" or another hexadecimal digit.
func OwnerKey(owner string) string {
	return "arn:cloister-dev:kms:eu-west-2:111122223333:key/00000000-0000-4000-8000-00000000000" + owner
}

// Seal seals an asset of a job for an owner with a policy of Policies. For the application the
// command is the job's. What is sealed can be changed at last.
func (e *Enclave) Seal(t testing.TB, j *Job, asset, owner, module string, change ...func(*envelope.Spec)) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range j.Assets[asset] {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	from := dir
	if asset != "application" && len(j.Assets[asset]) == 1 {
		for name := range j.Assets[asset] {
			from = path.Join(dir, name)
		}
	}
	source, err := tree.Open(from, tree.Limits{Bytes: 1 << 30, Entries: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	spec := envelope.Spec{Name: "asset", Kind: jobspec.ModelKind, Key: OwnerKey(owner), Codes: e.Policies.Known[module].Codes}
	if asset == "application" {
		command := j.Spec.Command.Normal()
		spec.Kind, spec.Command = jobspec.ApplicationKind, &command
	}
	for _, c := range change {
		c(&spec)
	}
	var bundle bytes.Buffer
	if _, err := envelope.Seal(t.Context(), &bundle, spec, source, []byte(module), e.Keys); err != nil {
		t.Fatal(err)
	}
	if j.Sealed == nil {
		j.Sealed = map[string][]byte{}
	}
	j.Sealed[asset] = bundle.Bytes()
}

func open(t testing.TB, bundle []byte) *envelope.Bundle {
	t.Helper()
	b, err := envelope.Read(bytes.NewReader(bundle))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Front is what stands in the open in a bundle.
func Front(t testing.TB, bundle []byte) []byte {
	t.Helper()
	return open(t, bundle).Front()
}
