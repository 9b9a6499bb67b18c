package aws_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/aws"
)

func TestGenerate(t *testing.T) {
	for name, row := range map[string]struct {
		encrypted   bool
		key, region string
	}{"simulated": {false, simKey, "local"}, "AWS": {true, awsKey, "eu-west-2"}} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, row.encrypted)
			plaintext, blob, err := f.account(t).Generate(t.Context(), row.key, bound)
			if err != nil || !bytes.Equal(plaintext, dataKey) || !bytes.Equal(blob, wrapped) {
				t.Fatalf("%d bytes, %q, %v", len(plaintext), blob, err)
			}
			r := f.seen()[0]
			if r.Target != "TrentService.GenerateDataKey" || r.KeyID != row.key || r.KeySpec != "AES_256" || !maps.Equal(r.EncryptionContext, bound) {
				t.Errorf("asked for %+v", r)
			}
			if !strings.Contains(r.Authorization, "Credential=AKIDGIVEN/") || !strings.Contains(r.Authorization, "/"+row.region+"/kms/aws4_request") || r.Token != "tokengiven" {
				t.Errorf("signed as %q with %q", r.Authorization, r.Token)
			}
		})
	}
}

// TestGenerateAsksNothing: a request that may not be made is not made.
func TestGenerateAsksNothing(t *testing.T) {
	f := newFake(t, false)
	a := f.account(t)
	for name, row := range map[string]struct {
		key     string
		context map[string]string
	}{
		"another partition": {awsKey, bound},
		"an alias":          {"arn:cloister-dev:kms:local:111122223333:alias/mine", bound},
		"an id of two":      {"arn:cloister-dev:kms:local:111122223333:key/a/b", bound},
		"no kind":           {"arn:cloister-dev:kms:local:111122223333:mine", bound},
		"an id alone":       {"1234abcd-12ab-34cd-56ef-1234567890ab", bound},
		"another service":   {strings.Replace(simKey, "kms", "s3", 1), bound},
		"no region":         {strings.Replace(simKey, "local", "", 1), bound},
		"a host for region": {strings.Replace(simKey, "local", "evil.example/", 1), bound},
		"no account":        {strings.Replace(simKey, "111122223333", "", 1), bound},
		"no context":        {simKey, nil},
	} {
		plaintext, blob, err := a.Generate(t.Context(), row.key, row.context)
		if !errors.Is(err, aws.ErrRequest) || plaintext != nil || blob != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(f.seen()) > 0 {
		t.Errorf("%d requests", len(f.seen()))
	}
}

// TestNoKeyInPlain: a KMS of AWS is not asked without TLS, whatever the configuration says.
func TestNoKeyInPlain(t *testing.T) {
	f := newFake(t, false)
	somebody(t)
	t.Setenv("AWS_ENDPOINT_URL", f.url)
	a, err := aws.Load(t.Context(), aws.Options{Partition: "aws"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Generate(t.Context(), awsKey, bound); !errors.Is(err, aws.ErrRequest) || len(f.seen()) > 0 {
		t.Errorf("%d requests, %v", len(f.seen()), err)
	}
}

// TestErrorsOfKMS: what the KMS says no to is asked once, what it has no time for is asked again.
func TestErrorsOfKMS(t *testing.T) {
	for _, row := range []struct {
		code   string
		status int
		want   error
		asked  int
	}{
		{"AccessDeniedException", 400, aws.ErrRefused, 1},
		{"NotFoundException", 400, aws.ErrRefused, 1},
		{"DisabledException", 400, aws.ErrRefused, 1},
		{"InvalidKeyUsageException", 400, aws.ErrRefused, 1},
		{"KMSInvalidStateException", 400, aws.ErrRefused, 1},
		{"UnrecognizedClientException", 400, aws.ErrRefused, 1},
		{"ExpiredTokenException", 400, aws.ErrRefused, 1},
		{"SomethingNewException", 400, aws.ErrRefused, 1},
		{"ThrottlingException", 400, aws.ErrUnavailable, 3},
		{"DependencyTimeoutException", 503, aws.ErrUnavailable, 3},
		{"KMSInternalException", 500, aws.ErrUnavailable, 3},
		{"SomethingNewException", 502, aws.ErrUnavailable, 3},
		{"", 400, aws.ErrAnswer, 1},
		{"", 404, aws.ErrAnswer, 1},
	} {
		t.Run(fmt.Sprint(row.code, row.status), func(t *testing.T) {
			f := newFake(t, false)
			f.answer = func(w http.ResponseWriter, _ *request, _ int) { refuse(w, row.status, row.code) }
			_, _, err := f.account(t).Generate(t.Context(), simKey, bound)
			e, ok := errors.AsType[*aws.Error](err)
			if !ok || !errors.Is(err, row.want) || e.Code != row.code || e.RequestID != simID || len(f.seen()) != row.asked {
				t.Errorf("%d requests, %#v", len(f.seen()), err)
			}
			if ok && strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%q is not one printable line", err)
			}
		})
	}
}

func TestThrottledThenGood(t *testing.T) {
	f := newFake(t, false)
	f.answer = func(w http.ResponseWriter, r *request, n int) {
		if n < 3 {
			refuse(w, 400, "ThrottlingException")
			return
		}
		reply(w, good(r))
	}
	if got, _, err := f.account(t).Generate(t.Context(), simKey, bound); err != nil || !bytes.Equal(got, dataKey) || len(f.seen()) != 3 {
		t.Errorf("%d requests, %v", len(f.seen()), err)
	}
}

// TestAnswersThatAreNone: none of them gives a key.
func TestAnswersThatAreNone(t *testing.T) {
	edited := func(edit func(map[string]any)) func(http.ResponseWriter, *request) {
		return func(w http.ResponseWriter, r *request) {
			m := good(r)
			edit(m)
			reply(w, m)
		}
	}
	large := bytes.Repeat([]byte("A"), 10<<20)
	for name, answer := range map[string]func(http.ResponseWriter, *request){
		"another key":      edited(func(m map[string]any) { m["KeyId"] = strings.Replace(simKey, "1234", "4321", 1) }),
		"the id alone":     edited(func(m map[string]any) { m["KeyId"] = simKey[len(simKey)-36:] }),
		"no key id":        edited(func(m map[string]any) { delete(m, "KeyId") }),
		"no data key":      edited(func(m map[string]any) { delete(m, "Plaintext") }),
		"a short data key": edited(func(m map[string]any) { m["Plaintext"] = dataKey[:16] }),
		"a long data key":  edited(func(m map[string]any) { m["Plaintext"] = append(dataKey[:32:32], 0) }),
		"no blob":          edited(func(m map[string]any) { delete(m, "CiphertextBlob") }),
		"an empty blob":    edited(func(m map[string]any) { m["CiphertextBlob"] = []byte{} }),
		"a blob too long":  edited(func(m map[string]any) { m["CiphertextBlob"] = large[:6145] }),
		"no base64":        edited(func(m map[string]any) { m["Plaintext"] = "***" }),
		"no JSON":          func(w http.ResponseWriter, _ *request) { fmt.Fprint(w, "<html>secret</html>") },
		"10 MB, announced": func(w http.ResponseWriter, _ *request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(large)))
			_, _ = w.Write(large)
		},
		"10 MB, in chunks": func(w http.ResponseWriter, _ *request) {
			fmt.Fprint(w, `{"KeyId":"`)
			w.(http.Flusher).Flush()
			_, _ = w.Write(large)
		},
		"without end": func(w http.ResponseWriter, _ *request) {
			for err := error(nil); err == nil; {
				_, err = w.Write(large)
			}
		},
		"a redirect":         redirect(http.StatusFound),
		"a redirect of POST": redirect(http.StatusTemporaryRedirect),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, false)
			f.answer = func(w http.ResponseWriter, r *request, _ int) { answer(w, r) }
			plaintext, blob, err := f.account(t).Generate(t.Context(), simKey, bound)
			if !errors.Is(err, aws.ErrAnswer) || plaintext != nil || blob != nil {
				t.Errorf("%d bytes, %v", len(plaintext), err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%q tells of the answer", err)
			}
			if (strings.HasPrefix(name, "10 MB") || name == "without end") && !strings.Contains(err.Error(), "more than 65536 bytes") {
				t.Errorf("%v: it was read", err)
			}
			if len(f.seen()) != 1 && !strings.Contains(err.Error(), "more than") {
				t.Errorf("%d requests: it was followed, or asked again", len(f.seen()))
			}
		})
	}
}

func redirect(status int) func(http.ResponseWriter, *request) {
	return func(w http.ResponseWriter, _ *request) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}
}

func TestNoAnswer(t *testing.T) {
	t.Run("broken off", func(t *testing.T) {
		f := newFake(t, false)
		f.answer = func(w http.ResponseWriter, _ *request, _ int) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"KeyId":`)
		}
		if _, _, err := f.account(t).Generate(t.Context(), simKey, bound); !errors.Is(err, aws.ErrUnavailable) {
			t.Error(err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		f := newFake(t, false)
		a := f.account(t)
		f.server.Close()
		if _, _, err := a.Generate(t.Context(), simKey, bound); !errors.Is(err, aws.ErrUnavailable) {
			t.Error(err)
		}
	})
	t.Run("silence", func(t *testing.T) {
		f := newFake(t, false)
		done := make(chan struct{})
		f.answer = func(http.ResponseWriter, *request, int) { <-done }
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, _, err := f.account(t).Generate(ctx, simKey, bound)
		close(done)
		if !errors.Is(err, aws.ErrUnavailable) || len(f.seen()) != 3 {
			t.Errorf("%d requests, %v", len(f.seen()), err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		f := newFake(t, false)
		cause := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan struct{})
		f.answer = func(http.ResponseWriter, *request, int) { cancel(cause); <-done }
		_, _, err := f.account(t).Generate(ctx, simKey, bound)
		close(done)
		if !errors.Is(err, cause) || len(f.seen()) != 1 {
			t.Errorf("%d requests, %v", len(f.seen()), err)
		}
	})
	t.Run("another's certificate", func(t *testing.T) {
		f := newFake(t, true)
		a := f.account(t)
		t.Setenv("AWS_CA_BUNDLE", "")
		os.Unsetenv("AWS_CA_BUNDLE")
		other, err := aws.Load(t.Context(), aws.Options{Partition: "aws"})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := aws.Impatient(other).Generate(t.Context(), awsKey, bound); !errors.Is(err, aws.ErrAnswer) || len(f.seen()) != 0 {
			t.Errorf("%d requests, %v", len(f.seen()), err)
		}
		if _, _, err := a.Generate(t.Context(), awsKey, bound); err != nil {
			t.Errorf("with the right roots: %v", err)
		}
	})
}

func TestCreateKey(t *testing.T) {
	f := newFake(t, false)
	a := f.account(t)
	made, err := a.CreateKey(t.Context(), []byte(`{"Version":"2012-10-17"}`))
	if r := f.seen()[0]; err != nil || made != simKey || r.Target != "TrentService.CreateKey" || r.Policy != `{"Version":"2012-10-17"}` ||
		r.KeySpec != "SYMMETRIC_DEFAULT" || r.KeyUsage != "ENCRYPT_DECRYPT" {
		t.Errorf("%q, %v, asked for %+v", made, err, r)
	}
	for name, arn := range map[string]string{
		"another partition": awsKey, "an alias": "arn:cloister-dev:kms:local:111122223333:alias/x", "nothing": "",
		"another region": strings.Replace(simKey, "local", "other", 1),
	} {
		f.answer = func(w http.ResponseWriter, _ *request, _ int) {
			reply(w, map[string]any{"KeyMetadata": map[string]any{"Arn": arn, "KeyId": "x"}})
		}
		if made, err := a.CreateKey(t.Context(), nil); !errors.Is(err, aws.ErrAnswer) || made != "" {
			t.Errorf("%s: %q, %v", name, made, err)
		}
	}
	f.answer = func(w http.ResponseWriter, _ *request, _ int) { reply(w, map[string]any{}) }
	if _, err := a.CreateKey(t.Context(), nil); !errors.Is(err, aws.ErrAnswer) {
		t.Errorf("no metadata: %v", err)
	}
	somebody(t)
	a, err = aws.Load(t.Context(), aws.Options{Partition: "aws"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.CreateKey(t.Context(), nil); !errors.Is(err, aws.ErrConfiguration) {
		t.Errorf("no region: %v", err)
	}
}

func TestLoad(t *testing.T) {
	nobody(t)
	if _, err := aws.Load(t.Context(), aws.Options{Partition: "aws-moon"}); !errors.Is(err, aws.ErrRequest) {
		t.Errorf("an unknown partition: %v", err)
	}
	for _, partition := range []string{"cloister-dev", "aws"} {
		a, err := aws.Load(t.Context(), aws.Options{Partition: partition, Region: "eu-west-2"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Credentials(t.Context()); !errors.Is(err, aws.ErrConfiguration) {
			t.Errorf("%s: no credentials: %v", partition, err)
		}
	}
	t.Setenv("AWS_PROFILE", "absent")
	if _, err := aws.Load(t.Context(), aws.Options{Partition: "aws"}); !errors.Is(err, aws.ErrConfiguration) {
		t.Errorf("no such profile: %v", err)
	}
	home := t.TempDir()
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(home, "config"))
	text := "[profile mine]\nregion = eu-west-2\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = secretprofile\n"
	if err := os.WriteFile(filepath.Join(home, "config"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_PROFILE", "mine")
	a, err := aws.Load(t.Context(), aws.Options{Partition: "aws"})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := a.Credentials(t.Context()); err != nil || c.AccessKeyID != "AKIDPROFILE" || c.SecretAccessKey != "secretprofile" {
		t.Errorf("a profile's: %v", err)
	}
}

// TestDevAsksNoMetadata: in the partition cloister-dev no metadata service is asked.
func TestDevAsksNoMetadata(t *testing.T) {
	nobody(t)
	os.Unsetenv("AWS_EC2_METADATA_DISABLED")
	f := newFake(t, false)
	asked := make(chan struct{}, 100)
	f.server.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{} })
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f.url)
	a, err := aws.Load(t.Context(), aws.Options{Partition: "cloister-dev"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Credentials(t.Context()); !errors.Is(err, aws.ErrConfiguration) || len(asked) > 0 {
		t.Errorf("%d requests, %v", len(asked), err)
	}
}

func TestDevKMS(t *testing.T) {
	nobody(t)
	if got, err := aws.DevKMS(); err != nil || got != aws.DevEndpoint {
		t.Errorf("%q, %v", got, err)
	}
	for value, want := range map[string]string{
		"http://127.0.0.1:5000": "http://127.0.0.1:5000", "https://kms.test:443/": "https://kms.test:443", "http://[::1]:80": "http://[::1]:80",
		"http://127.0.0.1": "", "127.0.0.1:5000": "", "ftp://h:1": "", "http://h:1/path": "", "http://h:1?q": "", "http://u:p@h:1": "",
		"http://:1": "", "http://h:1/#f": "", "http://h:x": "", "http://h:1//": "",
	} {
		t.Setenv("AWS_ENDPOINT_URL", value)
		got, err := aws.DevKMS()
		if got != want || (err != nil) != (want == "") || err != nil && !errors.Is(err, aws.ErrConfiguration) {
			t.Errorf("%q: %q, %v", value, got, err)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	t.Setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:2")
	if got, err := aws.DevKMS(); err != nil || got != "http://127.0.0.1:2" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestCredentialsAreNotPrinted by any verb, logger or encoder.
func TestCredentialsAreNotPrinted(t *testing.T) {
	somebody(t)
	a, err := aws.Load(t.Context(), aws.Options{Partition: "cloister-dev"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Credentials(t.Context())
	if err != nil || c.SessionToken != "tokengiven" {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb, c)
		fmt.Fprintf(&out, verb, &c)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "c", c)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "c", c)
	_ = json.NewEncoder(&out).Encode(map[string]any{"c": c})
	if text := out.String(); strings.Contains(text, "given") || strings.Contains(text, "GIVEN") || strings.Contains(text, fmt.Sprintf("%x", "given")) {
		t.Error(text)
	}
}
