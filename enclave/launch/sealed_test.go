package launch_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/aws"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/enclave/keys"
	"github.com/cloister-run/cloister/enclave/launch"
	"github.com/cloister-run/cloister/enclave/launch/launchtest"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/policies"
)

const (
	owner    = "111122223333"
	operator = "444455556666"
)

// world is an owner, an operator and the KMS that both use.
type world struct {
	home *devkit.Home
	kms  string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	home := newHome(t)
	return &world{home: home, kms: serveKMS(t, home)}
}

// become makes this process an account, as far as the AWS SDK looks.
func (w *world) become(t testing.TB, id string) *aws.Account {
	t.Helper()
	a, err := w.home.Account(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ENDPOINT_URL_KMS", w.kms)
	t.Setenv("AWS_ACCESS_KEY_ID", a.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", a.SecretAccessKey)
	t.Setenv("AWS_REGION", "local")
	account, err := aws.Load(t.Context(), aws.Options{Partition: keys.PartitionDev})
	if err != nil {
		t.Fatal(err)
	}
	return account
}

// key makes a key of the owner that answers enclaves with these PCRs.
func (w *world) key(t testing.TB, pcrs attest.PCRSet, shared bool) string {
	t.Helper()
	policy, err := aws.KeyPolicy(aws.PolicySpec{
		Partition: keys.PartitionDev, Account: owner, Users: []string{operator}, PCRs: pcrs, Shared: shared,
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := w.become(t, owner).CreateKey(t.Context(), policy)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// seal seals a file as a model under a key, with a policy of the library.
func (w *world) seal(t testing.TB, key, from, library, config, to string) {
	t.Helper()
	policy, err := os.ReadFile(library)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := policies.ReadManifest(policy)
	if err != nil {
		t.Fatal(err)
	}
	source, err := tree.Open(from, tree.Limits{Bytes: 1 << 30, Entries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	var bundle bytes.Buffer
	spec := envelope.Spec{Name: "model", Kind: jobspec.ModelKind, Key: key, Config: []byte(config), Codes: parsed.Codes}
	if _, err := envelope.Seal(t.Context(), &bundle, spec, source, policy, w.become(t, owner)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, bundle.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// trust is a client of an enclave, with the operator's credentials.
func (w *world) trust(t testing.TB, e *launch.Simulated) client.Config {
	t.Helper()
	account := w.become(t, operator)
	cfg := trust(e)
	cfg.Credentials = func(ctx context.Context, _ string) (wire.Credentials, error) {
		c, err := account.Credentials(ctx)
		return wire.Credentials(c), err
	}
	return cfg
}

const copies = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"

// sealedJob is a job whose input is a sealed bundle under a key.
func (w *world) sealedJob(t testing.TB, key, content string) job {
	t.Helper()
	j := newJob(t, content, copies)
	bundle := filepath.Join(j.dir, "in.sealed")
	library := filepath.Join(filepath.Dir(launchtest.Image(t)), "library", "size-cap.wasm")
	w.seal(t, key, filepath.Join(j.dir, "in"), library, `{"max_total_bytes": 100}`, bundle)
	if err := os.Remove(filepath.Join(j.dir, "in")); err != nil {
		t.Fatal(err)
	}
	j.text = strings.Replace(header, "from: in}", "from: in.sealed}", 1)
	return j
}

// An asset is unsealed in a measured enclave, and its policy decides what of it leaves.
func TestASealedAssetInALocalEnclave(t *testing.T) {
	w := newWorld(t)
	e := startOf(t, launch.Simulation{Image: launchtest.Image(t), Home: w.home, KMS: w.kms})
	key := w.key(t, e.PCRs(), true)
	small, large := w.sealedJob(t, key, "within the cap"), w.sealedJob(t, key, strings.Repeat("over the cap", 10))
	cfg := w.trust(t, e)
	report, err := small.run(t.Context(), t, cfg, client.Observer{})
	if err != nil {
		t.Fatal(err)
	}
	if run := report.Statement.Predicate; report.Result.Outcome != receipt.Succeeded || len(run.Keys) != 1 || run.Keys[0].Key != key || small.out() != "within the cap" {
		t.Errorf("%+v, %q", run, small.out())
	}
	if _, err := receipt.Verify(report.Receipt, receipt.Expect{Root: e.Root(), Realm: attest.RealmLocal, PCRs: e.PCRs()}); err != nil {
		t.Error(err)
	}
	report, err = large.run(t.Context(), t, cfg, client.Observer{})
	if err != nil {
		t.Fatal(err)
	}
	if report.Result.Outcome != receipt.Denied || len(report.Landed) > 0 {
		t.Errorf("%+v", report)
	}
	if entries, err := os.ReadDir(large.dir); err != nil || len(entries) != 2 {
		t.Errorf("there is %v, %v", entries, err)
	}
}

// A key that asks for a fresh enclave is released to its first job, and to none that comes after one.
func TestI5_AKeyThatAsksForAFreshEnclaveIsReleasedOnce(t *testing.T) {
	w := newWorld(t)
	e := startOf(t, launch.Simulation{Image: launchtest.Image(t), Home: w.home, KMS: w.kms})
	key := w.key(t, e.PCRs(), false)
	first, second := w.sealedJob(t, key, "first"), w.sealedJob(t, key, "second")
	cfg := w.trust(t, e)
	if report, err := first.run(t.Context(), t, cfg, client.Observer{}); err != nil || report.Result.Outcome != receipt.Succeeded {
		t.Fatalf("%+v, %v", report, err)
	}
	report, err := second.run(t.Context(), t, cfg, client.Observer{})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Result; r.Outcome != receipt.KeyRefused || !strings.Contains(r.Detail, "AccessDeniedException") || second.out() != "" {
		t.Errorf("%+v", r)
	}
}

// An image with one byte more has other PCRs: its client is told, and no key is released to it.
func TestI5_AChangedImageGetsNoKey(t *testing.T) {
	w := newWorld(t)
	genuine := launchtest.Image(t)
	expected, err := devkit.Measure(genuine)
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "image")
	if err := os.CopyFS(changed, os.DirFS(genuine)); err != nil {
		t.Fatal(err)
	}
	daemon, err := os.OpenFile(filepath.Join(changed, "cloisterd"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = daemon.WriteString("x")
	if err := errors.Join(err, daemon.Close()); err != nil {
		t.Fatal(err)
	}
	e := startOf(t, launch.Simulation{Image: changed, Home: w.home, KMS: w.kms})
	j := w.sealedJob(t, w.key(t, expected, true), "secret")
	cfg := w.trust(t, e)
	report, err := j.run(t.Context(), t, cfg, client.Observer{})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Result; r.Outcome != receipt.KeyRefused || j.out() != "" {
		t.Errorf("%+v", r)
	}
	cfg.PCRs = expected
	_, err = j.run(t.Context(), t, cfg, client.Observer{Phase: func(p core.Phase) { t.Errorf("the job came to %s", p) }})
	if v, ok := errors.AsType[*attest.Violation](err); !ok || v.Rule != attest.RulePCR(0) {
		t.Errorf("%v", err)
	}
}

// Without a KMS to ask the job ends in time, and says so.
func TestAKMSThatIsNotThere(t *testing.T) {
	w := newWorld(t)
	e := startOf(t, launch.Simulation{Image: launchtest.Image(t), Home: w.home, KMS: noKMS})
	j := w.sealedJob(t, w.key(t, e.PCRs(), true), "secret")
	report, err := j.run(t.Context(), t, w.trust(t, e), client.Observer{})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Result; r.Outcome != receipt.Broken || r.Fault != core.FaultKMS || !strings.Contains(r.Detail, "502") {
		t.Errorf("%+v", r)
	}
}
