package devkit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/keys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	owner    = "111122223333"
	stranger = "444455556666"
	region   = "local"
)

// world is a home, and a KMS over HTTP.
type world struct {
	t    testing.TB
	home *devkit.Home
	kms  *devkit.KMS
	url  string
	log  *lines
}

// lines is what was logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func openHome(t testing.TB) *devkit.Home {
	t.Helper()
	home, err := devkit.OpenHome(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	return home
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, home: openHome(t), log: &lines{}}
	w.kms = devkit.NewKMS(w.home, slog.New(slog.NewTextHandler(w.log, nil)))
	server := httptest.NewServer(w.kms)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

func (w *world) account(id string) devkit.Account {
	w.t.Helper()
	account, err := w.home.Account(id)
	if err != nil {
		w.t.Fatal(err)
	}
	return account
}

// client is the real SDK for an account.
func (w *world) client(id string, edit ...func(*kms.Options)) *kms.Client {
	w.t.Helper()
	account := w.account(id)
	o := kms.Options{
		Region: region, BaseEndpoint: aws.String(w.url), Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: account.AccessKeyID, SecretAccessKey: account.SecretAccessKey}, nil
		}),
	}
	for _, e := range edit {
		e(&o)
	}
	return kms.New(o)
}

// create makes a key of the owner's and gives its ARN.
func (w *world) create(policy string) string {
	w.t.Helper()
	out, err := w.client(owner).CreateKey(context.Background(), &kms.CreateKeyInput{Policy: aws.String(policy)})
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.KeyMetadata.Arn
}

var bound = map[string]string{"cloister:bundle": "00ff", "cloister:asset": "digits"}

// generate makes a data key under bound.
func (w *world) generate(arn string) (plaintext, blob []byte) {
	w.t.Helper()
	out, err := w.client(owner).GenerateDataKey(context.Background(),
		&kms.GenerateDataKeyInput{KeyId: aws.String(arn), KeySpec: types.DataKeySpecAes256, EncryptionContext: bound})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.Plaintext, out.CiphertextBlob
}

func register(b byte) attest.PCR { return attest.PCR(bytes.Repeat([]byte{b}, 48)) }

func measured() attest.PCRSet {
	return attest.PCRSet{0: register(1), 1: register(2), 2: register(3)}
}

// serve has an NSM answer on a socket until the test ends.
func serve(t testing.TB, nsm *devkit.NSM) (path string) {
	t.Helper()
	folder, err := os.MkdirTemp("", "nsm") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(folder, "nsm")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- attest.Serve(ctx, listener, nsm) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-served, os.RemoveAll(folder)); err != nil {
			t.Error(err)
		}
	})
	return path
}

// enclave is the enclave's client of the KMS, with the device of its NSM.
func (w *world) enclave(account string, nsm *devkit.NSM) (*keys.Client, attest.Device) {
	w.t.Helper()
	device := attest.OpenSocket(serve(w.t, nsm))
	a := w.account(account)
	kms, err := keys.New(keys.Config{Attester: device, Dial: new(net.Dialer).DialContext,
		Partition: keys.PartitionDev, Endpoint: w.url, Attempts: 1})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = kms.Close() })
	client, err := kms.Login(keys.Credentials{AccessKeyID: a.AccessKeyID, SecretAccessKey: a.SecretAccessKey})
	if err != nil {
		w.t.Fatal(err)
	}
	return client, device
}

func (w *world) nsm(pcrs attest.PCRSet) *devkit.NSM {
	return devkit.NewNSM(w.home.CA(), pcrs, time.Now)
}

// code is AWS's name for an error, "" for none.
func code(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		t.Fatalf("no error of the API: %v", err)
	}
	return api.ErrorCode()
}

// administers lets the owner do all but decrypt, and has more statements.
func administers(more ...string) string {
	first := `{"Effect":"Allow","Principal":{"AWS":"arn:cloister-dev:iam::` + owner + `:root"},"Action":` +
		`["kms:CreateKey","kms:Describe*","kms:List*","kms:Get*","kms:Put*","kms:Generate*","kms:Encrypt","kms:EnableKey","kms:DisableKey"],"Resource":"*"}`
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(append([]string{first}, more...), ",") + `]}`
}

// mayDecrypt lets an account decrypt under a condition.
func mayDecrypt(account, condition string) string {
	return fmt.Sprintf(`{"Effect":"Allow","Principal":{"AWS":%q},"Action":"kms:Decrypt","Resource":"*","Condition":%s}`, account, condition)
}
