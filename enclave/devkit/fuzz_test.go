package devkit_test

import (
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/devkit"
)

// FuzzPolicy: any text is a policy or an error, and whatever is a policy allows nobody whom it does not name.
func FuzzPolicy(f *testing.F) {
	for _, seed := range []string{
		"", "{}", administers(mayDecrypt(stranger, image())), policyOf(statement("Deny", `{"Null":{"kms:ViaService":true}}`)),
		policyOf(statement("Allow", `{"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["a","b"]}}`)),
		policyOf(statement("Allow", `{"StringLike":{"kms:EncryptionContext:a":"*b?"}}`)),
		`{"Version":"2008-10-17","Id":"x","Statement":{"Effect":"Allow","Principal":{"AWS":["*"]},"Action":"*","Resource":"*"}}`,
		"[[[[[[[[[[[[[[[[[[", `{"a":1,"a":2}`,
	} {
		f.Add(seed)
	}
	facts := map[string][]string{"kms:encryptioncontext:a": {"ab"}, "kms:encryptioncontextkeys": {"a"}, "kms:calleraccount": {owner}}
	f.Fuzz(func(t *testing.T, text string) {
		verdict, err := devkit.Decide(text, owner, "kms:Decrypt", someKey, facts)
		if (err == nil) != (devkit.CheckPolicy(text) == nil) || (err == nil) != (verdict != "") {
			t.Errorf("%q: %v", verdict, err)
		}
		if again, _ := devkit.Decide(text, owner, "kms:Decrypt", someKey, facts); again != verdict {
			t.Errorf("%q, then %q", verdict, again)
		}
		if err == nil && !json.Valid([]byte(text)) {
			t.Error("a policy that is no JSON")
		}
	})
}

// FuzzRequest: any body that an account signs is answered, in the form of KMS, and never by a fault of
// the KMS's own.
func FuzzRequest(f *testing.F) {
	w := newWorld(f)
	arn := w.create(administers(mayDecrypt(owner, `{}`)))
	_, blob := w.generate(arn)
	text, err := json.Marshal(map[string]any{"CiphertextBlob": blob, "EncryptionContext": bound, "KeyId": arn,
		"Recipient": map[string]any{"AttestationDocument": []byte("x"), "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}})
	if err != nil {
		f.Fatal(err)
	}
	actions := []string{"DescribeKey", "ListKeys", "GetKeyPolicy", "PutKeyPolicy", "GenerateDataKey", "Encrypt", "Decrypt", "EnableKey"}
	for i := range actions {
		for _, body := range []string{"{}", "null", "[", string(text), `{"KeyId":"` + arn + `"}`,
			`{"KeyId":"` + arn + `","KeySpec":"AES_256"}`, `{"KeyId":"` + arn + `","Plaintext":"eA=="}`, `{"KeyId":"` + arn + `","Policy":"{}"}`} {
			f.Add(uint8(i), []byte(body))
		}
	}
	account := w.account(owner)
	f.Fuzz(func(t *testing.T, action uint8, body []byte) {
		r := signed(t, "http://kms.test", account, actions[int(action)%len(actions)], string(body), time.Now())
		recorder := httptest.NewRecorder()
		w.kms.ServeHTTP(recorder, r)
		out := recorder.Body.Bytes()
		if len(out) > 0 && !json.Valid(out) || recorder.Code != 200 && recorder.Code != 400 && recorder.Code != 412 && recorder.Code != 413 {
			t.Errorf("%d %s", recorder.Code, out)
		}
	})
}
