package aws_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cloister-run/cloister/enclave/aws"
)

const (
	simKey = "arn:cloister-dev:kms:local:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	awsKey = "arn:aws:kms:eu-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	simID  = "6a1b3c5d-0000-4000-8000-000000000001"
)

var (
	wrapped = []byte("wrapped under the owner's key")
	dataKey = bytes.Repeat([]byte{7}, 32)
	bound   = map[string]string{"cloister:bundle": "00ff", "cloister:asset": "digits"}
)

// request is what came in.
type request struct {
	Target            string `json:"-"`
	Authorization     string `json:"-"`
	KeyID             string `json:"KeyId"`
	KeySpec           string
	KeyUsage          string
	Policy            string
	EncryptionContext map[string]string
	Token             string `json:"-"`
}

// fake plays a KMS: what it takes and gives is what the KMS API says.
type fake struct {
	url    string
	server *httptest.Server
	answer func(w http.ResponseWriter, r *request, n int)

	mu       sync.Mutex
	requests []*request
}

// newFake listens, with or without TLS.
func newFake(t testing.TB, encrypted bool) *fake {
	t.Helper()
	f := &fake{answer: func(w http.ResponseWriter, r *request, _ int) { reply(w, good(r)) }}
	f.server = httptest.NewUnstartedServer(f)
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not like its certificate
	if encrypted {
		f.server.StartTLS()
	} else {
		f.server.Start()
	}
	t.Cleanup(f.server.Close)
	f.url = f.server.URL
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	in := &request{Target: r.Header.Get("X-Amz-Target"), Authorization: r.Header.Get("Authorization"), Token: r.Header.Get("X-Amz-Security-Token")}
	f.mu.Lock()
	f.requests = append(f.requests, in)
	n := len(f.requests)
	f.mu.Unlock()
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/" {
		refuse(w, 404, "UnknownOperationException")
		return
	}
	if err := json.Unmarshal(body, in); err != nil {
		refuse(w, 400, "SerializationException")
		return
	}
	f.answer(w, in, n)
}

func (f *fake) seen() []*request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

func good(r *request) map[string]any {
	if r.Target == "TrentService.CreateKey" {
		return map[string]any{"KeyMetadata": map[string]any{"Arn": simKey, "KeyId": simKey[len(simKey)-36:]}}
	}
	return map[string]any{"KeyId": r.KeyID, "Plaintext": dataKey, "CiphertextBlob": wrapped}
}

func reply(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", simID)
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", simID)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": "because\nof \x1b[31mit"})
}

// nobody is an environment in which nothing of the user's is found, and no metadata service.
func nobody(t testing.TB) {
	t.Helper()
	home := t.TempDir()
	for name, value := range map[string]string{
		"HOME": home, "AWS_CONFIG_FILE": filepath.Join(home, "config"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(home, "credentials"),
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_PROFILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_ENDPOINT_URL": "",
		"AWS_ENDPOINT_URL_KMS": "", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_CA_BUNDLE": "",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "",
		"HTTP_PROXY": "", "HTTPS_PROXY": "", "http_proxy": "", "https_proxy": "",
	} {
		t.Setenv(name, value)
		if value == "" {
			os.Unsetenv(name)
		}
	}
}

// somebody adds credentials.
func somebody(t testing.TB) {
	t.Helper()
	nobody(t)
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIDGIVEN", "AWS_SECRET_ACCESS_KEY": "secretgiven", "AWS_SESSION_TOKEN": "tokengiven"} {
		t.Setenv(name, value)
	}
}

// account is one that asks f, in the partition of its kind.
func (f *fake) account(t testing.TB) *aws.Account {
	t.Helper()
	somebody(t)
	t.Setenv("AWS_ENDPOINT_URL_KMS", f.url)
	partition := "cloister-dev"
	if f.server.Certificate() != nil {
		partition = "aws"
		bundle := filepath.Join(t.TempDir(), "bundle.pem")
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})
		if err := os.WriteFile(bundle, block, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("AWS_CA_BUNDLE", bundle)
	}
	a, err := aws.Load(t.Context(), aws.Options{Partition: partition})
	if err != nil {
		t.Fatal(err)
	}
	return aws.Impatient(a)
}
