package wire_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/wire"
)

func TestCredentialsPrintAsNothing(t *testing.T) {
	c := wire.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "wJalrXUtnFEMI", SessionToken: "FwoGZXIvYXdz"}
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "c", c, "p", &c)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		fmt.Fprintf(&b, verb, c)
		fmt.Fprintf(&b, verb, &c)
	}
	for _, secret := range []string{"AKIDEXAMPLE", "wJalrXUtnFEMI", "FwoGZXIvYXdz"} {
		if strings.Contains(b.String(), secret) || strings.Contains(b.String(), fmt.Sprintf("%x", secret)) {
			t.Errorf("printed: %s", b.String())
		}
	}
}

func TestDecodeCredentials(t *testing.T) {
	good := `{"access_key_id":"AKIDEXAMPLE","secret_access_key":"wJalrXUtnFEMI","session_token":""}`
	if c, err := wire.DecodeCredentials([]byte(good)); err != nil || c.SecretAccessKey != "wJalrXUtnFEMI" {
		t.Error(err)
	}
	for rule, raw := range map[string]string{
		"nothing": "", "null": "null", "an unknown field": strings.Replace(good, `"session_token"`, `"sessionToken"`, 1),
		"no id":     strings.Replace(good, "AKIDEXAMPLE", "", 1),
		"no secret": strings.Replace(good, "wJalrXUtnFEMI", "", 1),
		"more":      good + "{}", "a number": strings.Replace(good, `"wJalrXUtnFEMI"`, "7", 1),
		"too long": strings.Replace(good, "AKIDEXAMPLE", strings.Repeat("A", wire.MaxCredentials), 1),
	} {
		_, err := wire.DecodeCredentials([]byte(raw))
		if err == nil || strings.Contains(err.Error(), "wJalrXUtnFEMI") || strings.Contains(err.Error(), "AKIDEXAMPLE") {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

// FuzzCredentials: what is taken is whole, and no error quotes what it is about.
func FuzzCredentials(f *testing.F) {
	f.Add([]byte(`{"access_key_id":"AKIDEXAMPLE","secret_access_key":"wJalrXUtnFEMI","session_token":"FwoGZXIvYXdz"}`))
	f.Add([]byte(`{"access_key_id":"","secret_access_key":"x","session_token":""}`))
	f.Add([]byte(`{"access_key_id":"a","secret_access_key":"b","session_token":"c","more":1}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := wire.DecodeCredentials(raw)
		switch {
		case err != nil && c != (wire.Credentials{}):
			t.Error("an error came with credentials")
		case err != nil && len(err.Error()) > 100:
			t.Errorf("a long error: %v", err)
		case err == nil && (c.AccessKeyID == "" || c.SecretAccessKey == "" || len(raw) > wire.MaxCredentials):
			t.Errorf("taken: %q", raw)
		}
	})
}
