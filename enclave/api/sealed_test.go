package api_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/wire"
)

// A client is answered by a document over its nonce, with no public key and nothing else of its own.
func TestAttestation(t *testing.T) {
	s := serve(t, 0)
	nonce := bytes.Repeat([]byte{7}, 32)
	r := s.call(http.MethodGet, wire.AttestPath+hex.EncodeToString(nonce), "", nil)
	if r.status != http.StatusOK || r.header.Get("Content-Type") != wire.DocumentType {
		t.Fatalf("%+v", r)
	}
	doc, err := attest.Verify([]byte(r.body), attest.Options{
		At: time.Now(), Root: coretest.Root(t), Realm: attest.RealmLocal, PCRs: coretest.PCRs(), Kind: attest.KindClient, Nonce: nonce,
	})
	if err != nil || doc.ModuleID != s.NSM.ModuleID() || doc.PublicKey != nil {
		t.Errorf("%+v, %v", doc, err)
	}
	for rule, text := range map[string]string{
		"too short": strings.Repeat("0", 2*attest.MinNonce-2), "too long": strings.Repeat("0", 2*attest.MaxNonce+2), "odd": strings.Repeat("0", 33),
		"upper case": strings.Repeat("A", 32), "no digits": strings.Repeat("x", 32),
	} {
		if r := s.call(http.MethodGet, wire.AttestPath+text, "", nil); r.status != 422 || r.code() != wire.Invalid {
			t.Errorf("%s: %+v", rule, r)
		}
	}
}

// sealed submits a job with a sealed input and sends its front, up to admission.
func (s *server) sealed(id string) (coretest.Job, string) {
	s.t.Helper()
	j := coretest.Simple(id)
	s.Seal(s.t, &j, "inputs.data", "b", "allow")
	got := s.submit(j)
	if len(got.Fronts) != 1 || got.Fronts[0] != "inputs.data" || len(got.Modules) != 0 {
		s.t.Fatalf("%+v", got)
	}
	front := coretest.Front(s.t, j.Sealed["inputs.data"])
	if r := s.call(http.MethodPut, at(wire.FrontPath, id, "inputs.data"), got.Token, bytes.NewReader(front)); r.status != http.StatusNoContent {
		s.t.Fatalf("%+v", r)
	}
	if r := s.call(http.MethodGet, at(wire.AdmitPath, id, ""), got.Token, nil); r.status != http.StatusOK {
		s.t.Fatalf("%+v", r)
	}
	return j, got.Token
}

func TestASealedJobFromSubmitToReceipt(t *testing.T) {
	s := serve(t, 0)
	j, token := s.sealed("job")
	credentials, asset := at(wire.CredentialsPath, "job", ""), at(wire.AssetPath, "job", "inputs.data")
	bundle := j.Sealed["inputs.data"]
	if r := s.call(http.MethodPut, asset, token, bytes.NewReader(bundle)); r.code() != wire.Order {
		t.Errorf("without credentials: %+v", r)
	}
	if r := s.call(http.MethodPut, credentials, token, strings.NewReader("wrong")); r.code() != wire.Invalid || strings.Contains(r.body, "wrong") {
		t.Errorf("%+v", r)
	}
	if r := s.call(http.MethodPut, credentials, token, strings.NewReader(strings.Repeat("x", wire.MaxCredentials+1))); r.code() != wire.Invalid {
		t.Errorf("too long: %+v", r)
	}
	if r := s.call(http.MethodPut, credentials, token, strings.NewReader(coretest.Credentials)); r.status != http.StatusNoContent {
		t.Fatalf("%+v", r)
	}
	if r := s.call(http.MethodPut, asset, token, bytes.NewReader(bundle)); r.status != http.StatusNoContent {
		t.Fatalf("%+v", r)
	}
	application := coretest.Tar(t, j.Assets["application"])
	if r := s.call(http.MethodPut, at(wire.AssetPath, "job", "application"), token, bytes.NewReader(application)); r.status != http.StatusNoContent {
		t.Fatalf("%+v", r)
	}
	s.call(http.MethodGet, at(wire.PhasesPath, "job", ""), token, nil)
	v := coretest.Verify(t, []byte(s.call(http.MethodGet, at(wire.ReceiptPath, "job", ""), token, nil).body))
	if run := v.Statement.Predicate; run.Outcome != receipt.Succeeded || len(run.Keys) != 1 {
		t.Errorf("%+v", run)
	}
	if log := s.log.String(); strings.Contains(log, coretest.Credentials) || strings.Contains(log, token) {
		t.Errorf("the log holds a secret: %s", log)
	}
}

func TestAKeyThatIsRefusedIsTold(t *testing.T) {
	s := serve(t, 0)
	s.Keys.Unwrapping = func(context.Context, string) error {
		return &core.KeyError{Refused: true, Reason: "AccessDeniedException"}
	}
	j, token := s.sealed("job")
	s.call(http.MethodPut, at(wire.CredentialsPath, "job", ""), token, strings.NewReader(coretest.Credentials))
	r := s.call(http.MethodPut, at(wire.AssetPath, "job", "inputs.data"), token, bytes.NewReader(j.Sealed["inputs.data"]))
	if r.status != http.StatusForbidden || r.code() != wire.NoKey || !strings.Contains(r.body, "inputs.data: AccessDeniedException") {
		t.Errorf("%+v", r)
	}
	r = s.call(http.MethodGet, at(wire.PhasesPath, "job", ""), token, nil)
	if !strings.Contains(r.body, `"outcome":"key-refused"`) {
		t.Errorf("%+v", r)
	}
}

func TestFrontsAreBounded(t *testing.T) {
	s := serve(t, 0)
	j := coretest.Simple("job")
	s.Seal(t, &j, "inputs.data", "b", "allow")
	token := s.submit(j).Token
	for _, test := range []struct {
		rule, asset, body string
	}{
		{"not sealed", "application", "x"}, {"no asset", "inputs.other", "x"},
		{"too long", "inputs.data", strings.Repeat("x", wire.MaxFront+1)},
	} {
		if r := s.call(http.MethodPut, at(wire.FrontPath, "job", test.asset), token, strings.NewReader(test.body)); r.code() != wire.Invalid {
			t.Errorf("%s: %+v", test.rule, r)
		}
	}
	front := coretest.Front(t, j.Sealed["inputs.data"])
	if r := s.call(http.MethodPut, at(wire.FrontPath, "job", "inputs.data"), token, bytes.NewReader(front)); r.status != http.StatusNoContent {
		t.Errorf("a refused call ended the job: %+v", r)
	}
	if r := s.call(http.MethodPut, at(wire.FrontPath, "job", "inputs.data"), token, bytes.NewReader(front)); r.code() != wire.Conflict {
		t.Errorf("%+v", r)
	}
}

// Two jobs with one id: the second is refused, and learns no token.
func TestTwoSealedJobsWithOneID(t *testing.T) {
	s := serve(t, 0)
	_, token := s.sealed("job")
	other := coretest.Simple("job")
	s.Seal(t, &other, "inputs.data", "b", "allow")
	raw, err := json.Marshal(wire.Submit{ID: "job", Job: string(other.Submission(t).Job), Assets: other.Submission(t).Assets})
	if err != nil {
		t.Fatal(err)
	}
	if r := s.call(http.MethodPost, wire.JobsPath, "", bytes.NewReader(raw)); r.code() != wire.Conflict || strings.Contains(r.body, token) {
		t.Errorf("%+v", r)
	}
}
