package keys_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/keys"
)

const awsHost = "kms.eu-west-2.amazonaws.com"

func decrypt(t testing.TB, c *keys.Client, key string) ([]byte, error) {
	t.Helper()
	dataKey, id, err := c.Decrypt(t.Context(), key, wrapped, bound)
	if err == nil && id != simID || err != nil && (dataKey != nil || id != "") {
		t.Fatalf("%d bytes, request %q, %v", len(dataKey), id, err)
	}
	return dataKey, err
}

func TestDecrypt(t *testing.T) {
	for name, row := range map[string]struct{ host, key string }{"AWS": {awsHost, devKey}, "simulated": {"", simKey}} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, row.host)
			got, err := decrypt(t, f.client(), row.key)
			if err != nil || !bytes.Equal(got, f.dataKey) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			r := f.seen()[0]
			if r.KeyID != row.key || !bytes.Equal(r.CiphertextBlob, wrapped) || !maps.Equal(r.EncryptionContext, bound) ||
				r.Recipient.KeyEncryptionAlgorithm != "RSAES_OAEP_SHA_256" || r.EncryptionAlgorithm != "SYMMETRIC_DEFAULT" {
				t.Errorf("asked for %+v", r)
			}
			if r.document == nil || !bytes.Equal(r.document.UserData, attest.UserData(attest.KindKMS, nil)) {
				t.Error("the document is not of the kind kms")
			}
			if row.host != "" && (r.host != row.host || f.dialed[0] != row.host+":443") {
				t.Errorf("asked %s at %s", r.host, f.dialed)
			}
		})
	}
}

// TestI4_EveryRequestHasAKeyOfItsOwn: within a job, and when the KMS is asked again.
func TestI4_EveryRequestHasAKeyOfItsOwn(t *testing.T) {
	f := newFake(t, "")
	f.override = func(w http.ResponseWriter, _ *request, n int) bool {
		if n == 2 {
			refuse(w, 400, "ThrottlingException")
		}
		return n == 2
	}
	c := f.client()
	for range 2 {
		if _, err := decrypt(t, c, simKey); err != nil {
			t.Fatal(err)
		}
	}
	public, documents := map[string]bool{}, map[string]bool{}
	for _, r := range f.seen() {
		public[string(r.document.PublicKey)] = true
		documents[string(r.Recipient.AttestationDocument)] = true
	}
	if len(f.seen()) != 3 || len(public) != 3 || len(documents) != 3 {
		t.Errorf("%d requests, %d keys, %d documents", len(f.seen()), len(public), len(documents))
	}
}

// TestI5_OtherMeasurementsGetNoKey: what the KMS denies is a refusal, at once.
func TestI5_OtherMeasurementsGetNoKey(t *testing.T) {
	f := newFake(t, "")
	f.nsm.pcrs = attest.PCRSet{0: register(9), 1: register(2), 2: register(3)}
	_, err := decrypt(t, f.client(), simKey)
	e, ok := errors.AsType[*keys.Error](err)
	if !ok || !errors.Is(err, keys.ErrRefused) || e.Code != "AccessDeniedException" || e.RequestID != simID || len(f.seen()) != 1 {
		t.Errorf("%d requests, %v", len(f.seen()), err)
	}
	if strings.ContainsAny(err.Error(), "\n\r") {
		t.Errorf("%q is more than a line", err)
	}
}

func TestErrorsOfKMS(t *testing.T) {
	for _, row := range []struct {
		code   string
		status int
		want   error
	}{
		{"AccessDeniedException", 400, keys.ErrRefused},
		{"InvalidCiphertextException", 400, keys.ErrRefused},
		{"IncorrectKeyException", 400, keys.ErrRefused},
		{"KMSInvalidStateException", 400, keys.ErrRefused},
		{"NotFoundException", 400, keys.ErrRefused},
		{"DisabledException", 400, keys.ErrRefused},
		{"InvalidKeyUsageException", 400, keys.ErrRefused},
		{"ValidationException", 400, keys.ErrRefused},
		{"ExpiredTokenException", 400, keys.ErrRefused},
		{"UnrecognizedClientException", 400, keys.ErrRefused},
		{"SomethingNewException", 400, keys.ErrRefused},
		{"ThrottlingException", 400, keys.ErrUnavailable},
		{"LimitExceededException", 400, keys.ErrUnavailable},
		{"DependencyTimeoutException", 503, keys.ErrUnavailable},
		{"KeyUnavailableException", 500, keys.ErrUnavailable},
		{"KMSInternalException", 500, keys.ErrUnavailable},
		{"SomethingNewException", 500, keys.ErrUnavailable},
		{"", 429, keys.ErrUnavailable},
		{"", 400, keys.ErrAnswer},
	} {
		f := newFake(t, "")
		f.override = func(w http.ResponseWriter, _ *request, _ int) bool { refuse(w, row.status, row.code); return true }
		_, err := decrypt(t, f.client(), simKey)
		want := 1
		if errors.Is(row.want, keys.ErrUnavailable) {
			want = 3
		}
		if !errors.Is(err, row.want) || len(f.seen()) != want {
			t.Errorf("%s, %d: %d requests, %v", row.code, row.status, len(f.seen()), err)
		}
	}
}

func TestThrottledThenGood(t *testing.T) {
	f := newFake(t, "")
	f.override = func(w http.ResponseWriter, _ *request, n int) bool {
		if n < 3 {
			refuse(w, 400, "ThrottlingException")
		}
		return n < 3
	}
	if got, err := decrypt(t, f.client(), simKey); err != nil || !bytes.Equal(got, f.dataKey) || len(f.seen()) != 3 {
		t.Errorf("%d requests, %v", len(f.seen()), err)
	}
}

// TestAnswersThatAreNone: each is refused at once, and none gives a key.
func TestAnswersThatAreNone(t *testing.T) {
	other := newKey(t)
	edited := func(edit func(f *fake, in *request, good map[string]any)) func(*fake, http.ResponseWriter, *request) {
		return func(f *fake, w http.ResponseWriter, in *request) {
			good := f.good(in)
			edit(f, in, good)
			reply(w, good)
		}
	}
	large := bytes.Repeat([]byte("A"), 10<<20)
	for name, answer := range map[string]func(*fake, http.ResponseWriter, *request){
		"another key":      edited(func(_ *fake, _ *request, m map[string]any) { m["KeyId"] = strings.Replace(simKey, "1234", "4321", 1) }),
		"the same in part": edited(func(_ *fake, _ *request, m map[string]any) { m["KeyId"] = simKey[strings.Index(simKey, "/")+1:] }),
		"no key id":        edited(func(_ *fake, _ *request, m map[string]any) { delete(m, "KeyId") }),
		"plaintext too":    edited(func(f *fake, _ *request, m map[string]any) { m["Plaintext"] = f.dataKey }),
		"plaintext only": edited(func(f *fake, _ *request, m map[string]any) {
			m["Plaintext"] = f.dataKey
			delete(m, "CiphertextForRecipient")
		}),
		"nothing for the recipient": edited(func(_ *fake, _ *request, m map[string]any) { delete(m, "CiphertextForRecipient") }),
		"another algorithm":         edited(func(_ *fake, _ *request, m map[string]any) { m["EncryptionAlgorithm"] = "RSAES_OAEP_SHA_1" }),
		"garbage CMS":               edited(func(_ *fake, _ *request, m map[string]any) { m["CiphertextForRecipient"] = random(493) }),
		"CMS for another key": edited(func(f *fake, _ *request, m map[string]any) {
			m["CiphertextForRecipient"] = seal(&other.PublicKey, f.dataKey)
		}),
		"a data key of 16 bytes": edited(func(f *fake, in *request, m map[string]any) {
			m["CiphertextForRecipient"] = seal(in.publicKey(f.t), random(16))
		}),
		"a data key of 33 bytes": edited(func(f *fake, in *request, m map[string]any) {
			m["CiphertextForRecipient"] = seal(in.publicKey(f.t), random(33))
		}),
		"no request id": func(f *fake, w http.ResponseWriter, in *request) {
			_ = json.NewEncoder(w).Encode(f.good(in))
		},
		"a request id that no record holds": func(f *fake, w http.ResponseWriter, in *request) {
			w.Header().Set("X-Amzn-Requestid", strings.Repeat("a", 65))
			_ = json.NewEncoder(w).Encode(f.good(in))
		},
		"not JSON": func(_ *fake, w http.ResponseWriter, _ *request) { fmt.Fprint(w, "<html>") },
		"10 MB, announced": func(_ *fake, w http.ResponseWriter, _ *request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(large)))
			_, _ = w.Write(large)
		},
		"10 MB, in chunks": func(_ *fake, w http.ResponseWriter, _ *request) {
			fmt.Fprint(w, `{"KeyId":"`)
			w.(http.Flusher).Flush()
			_, _ = w.Write(large)
		},
		"10 MB of an error": func(_ *fake, w http.ResponseWriter, _ *request) {
			w.WriteHeader(500)
			_, _ = w.Write(large)
		},
		"good, then spaces": func(f *fake, w http.ResponseWriter, in *request) {
			reply(w, f.good(in))
			_, _ = w.Write(bytes.Repeat([]byte(" "), keys.MaxAnswer))
		},
		"a redirection": func(f *fake, w http.ResponseWriter, _ *request) {
			w.Header().Set("Location", f.url)
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"a redirection to see": func(f *fake, w http.ResponseWriter, _ *request) {
			w.Header().Set("Location", f.url)
			w.WriteHeader(http.StatusSeeOther)
		},
	} {
		f := newFake(t, "")
		f.override = func(w http.ResponseWriter, in *request, _ int) bool { answer(f, w, in); return true }
		_, err := decrypt(t, f.client(), simKey)
		if !errors.Is(err, keys.ErrAnswer) || len(f.seen()) != 1 {
			t.Errorf("%s: %d requests, %v", name, len(f.seen()), err)
		}
		if name == "nothing for the recipient" && !strings.Contains(err.Error(), "nothing in it is encrypted") {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), string(f.dataKey)) {
			t.Errorf("%s: the error has the data key", name)
		}
	}
}

// TestI4_NoRequestWithoutAPinnedKey: what is not fit to be asked is never asked.
func TestI4_NoRequestWithoutAPinnedKey(t *testing.T) {
	f := newFake(t, "")
	c := f.client()
	for name, row := range map[string]struct {
		key     string
		wrapped []byte
		context map[string]string
	}{
		"alias":                {"arn:cloister-dev:kms:local:111122223333:alias/owner", wrapped, bound},
		"key id":               {"1234abcd-12ab-34cd-56ef-1234567890ab", wrapped, bound},
		"none":                 {"", wrapped, bound},
		"another partition":    {devKey, wrapped, bound},
		"a host in the region": {strings.Replace(simKey, "local", "evil.example/", 1), wrapped, bound},
		"a line more":          {simKey + "\n", wrapped, bound},
		"long":                 {simKey + strings.Repeat("0", 1000), wrapped, bound},
		"nothing wrapped":      {simKey, nil, bound},
		"too much wrapped":     {simKey, make([]byte, 6145), bound},
		"no context":           {simKey, wrapped, nil},
	} {
		if got, _, err := c.Decrypt(t.Context(), row.key, row.wrapped, row.context); !errors.Is(err, keys.ErrRequest) || got != nil || len(err.Error()) > 300 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(f.seen()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// TestUnavailable runs on a clock that stands still while anything runs: however slow the
// machine is, a deadline passes only where nothing else could happen.
func TestUnavailable(t *testing.T) {
	const attempt, pause = 10 * time.Second, time.Second
	twice := func(c *keys.Config) { c.Attempt, c.Attempts, c.Pause, c.Timeout = attempt, 2, pause, time.Hour }
	for name, row := range map[string]struct {
		hang func(w http.ResponseWriter, release <-chan struct{})
		took time.Duration
	}{
		"no header": {func(_ http.ResponseWriter, release <-chan struct{}) { <-release }, 2*attempt + pause},
		"no end": {func(w http.ResponseWriter, release <-chan struct{}) {
			fmt.Fprint(w, "{")
			w.(http.Flusher).Flush()
			<-release
		}, 2*attempt + pause},
		"hangs up": {func(http.ResponseWriter, <-chan struct{}) { panic(http.ErrAbortHandler) }, pause},
	} {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			defer close(release)
			f := newStillFake(t)
			f.override = func(w http.ResponseWriter, _ *request, _ int) bool { row.hang(w, release); return true }
			start := time.Now()
			_, err := decrypt(t, f.client(twice), simKey)
			if took := time.Since(start); !errors.Is(err, keys.ErrUnavailable) || len(f.seen()) != 2 || took != row.took {
				t.Errorf("%s: %d requests in %v, %v", name, len(f.seen()), took, err)
			}
		})
	}
}

// TestAnAnswerMayComeBeforeTheRequestIsDone: the SDK closes the request's body as soon as there is
// an answer, while the connection may still ask for more of it. See [transport.Do].
func TestAnAnswerMayComeBeforeTheRequestIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newStillFake(t)
		f.override = func(w http.ResponseWriter, in *request, _ int) bool {
			w.Header().Set("X-Amzn-Requestid", simID)
			w.(http.Flusher).Flush()
			time.Sleep(time.Minute)
			_ = json.NewEncoder(w).Encode(f.good(in))
			return true
		}
		late := func(c *keys.Config) {
			c.Attempt, c.Timeout = time.Hour, time.Hour
			c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := f.dial(ctx, network, address)
				return lateConn{conn}, err
			}
		}
		if got, err := decrypt(t, f.client(late), simKey); err != nil || !bytes.Equal(got, f.dataKey) || len(f.seen()) != 1 {
			t.Errorf("%d requests, %v", len(f.seen()), err)
		}
	})
}

// lateConn has written for a second when it says so.
type lateConn struct{ net.Conn }

func (l lateConn) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	time.Sleep(time.Second)
	return n, err
}

func TestNoWayToTheKMS(t *testing.T) {
	f := newFake(t, "")
	refused := func(c *keys.Config) {
		c.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no way out") }
	}
	if _, err := decrypt(t, f.client(refused), simKey); !errors.Is(err, keys.ErrUnavailable) {
		t.Errorf("no connection: %v", err)
	}
}

// TestTheTimeOfAllAttemptsIsBounded, pauses included.
func TestTheTimeOfAllAttemptsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newStillFake(t)
		f.override = func(w http.ResponseWriter, _ *request, _ int) bool {
			refuse(w, 400, "ThrottlingException")
			return true
		}
		start := time.Now()
		whole := func(c *keys.Config) { c.Timeout, c.Pause = time.Second, time.Hour }
		_, err := decrypt(t, f.client(whole), simKey)
		if took := time.Since(start); !errors.Is(err, keys.ErrUnavailable) || len(f.seen()) != 1 || took != time.Second {
			t.Errorf("%d requests in %v: %v", len(f.seen()), took, err)
		}
	})
}

// TestI8_OnlyTheGivenRootsProveAKMS: neither another root nor another name is taken.
func TestI8_OnlyTheGivenRootsProveAKMS(t *testing.T) {
	f := newFake(t, awsHost)
	_, strangers := newCertificate(t, awsHost)
	for name, edit := range map[string]func(*keys.Config){"other roots": func(c *keys.Config) { c.Roots = strangers }} {
		if _, err := decrypt(t, f.client(edit), devKey); !errors.Is(err, keys.ErrAnswer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	elsewhere := strings.Replace(devKey, "eu-west-2", "eu-west-1", 1)
	if _, err := decrypt(t, f.client(), elsewhere); !errors.Is(err, keys.ErrAnswer) {
		t.Errorf("another region's name: %v", err)
	}
	if len(f.seen()) != 0 {
		t.Error("a request, with a document, went to a stranger")
	}
}

// TestI8_EnvironmentAndFilesChangeNothing: the same request goes to the same place.
func TestI8_EnvironmentAndFilesChangeNothing(t *testing.T) {
	f := newFake(t, awsHost)
	if _, err := decrypt(t, f.client(), devKey); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	folder := filepath.Join(home, ".aws")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	config := "[default]\nregion = us-east-1\nendpoint_url = http://127.0.0.1:1\nuse_fips_endpoint = true\nmax_attempts = 1\nca_bundle = /none\n"
	for name, text := range map[string]string{"config": config, "credentials": "[default]\naws_access_key_id = AKIDFILE\naws_secret_access_key = file\n"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{
		"HOME": home, "AWS_CONFIG_FILE": filepath.Join(folder, "config"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(folder, "credentials"),
		"AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "env", "AWS_SESSION_TOKEN": "env", "AWS_PROFILE": "other",
		"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:1",
		"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_CA_BUNDLE": "/none", "AWS_MAX_ATTEMPTS": "1",
		"AWS_EXECUTION_ENV": "leaked-by-env", "AWS_LAMBDA_FUNCTION_NAME": "leaked-by-env", "_X_AMZN_TRACE_ID": "leaked-by-env", "AWS_SDK_UA_APP_ID": "leaked-by-env",
		"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1", "SSL_CERT_FILE": "/none", "SSL_CERT_DIR": "/none",
	} {
		t.Setenv(name, value)
	}
	if _, err := decrypt(t, f.client(), devKey); err != nil {
		t.Fatal(err)
	}
	if keys.HasProxy(f.config()) {
		t.Error("there may be a proxy")
	}
	before, after := f.seen()[0], f.seen()[1]
	if before.host != after.host || f.dialed[0] != f.dialed[1] {
		t.Errorf("asked %s at %s", after.host, f.dialed)
	}
	changing := map[string]bool{"Authorization": true, "X-Amz-Date": true, "Amz-Sdk-Invocation-Id": true, "Content-Length": true, "Amz-Sdk-Request": true}
	for name := range maps.Keys(after.header) {
		if !changing[name] && before.header.Get(name) != after.header.Get(name) {
			t.Errorf("%s: %q, then %q", name, before.header.Get(name), after.header.Get(name))
		}
	}
	for _, r := range f.seen() {
		if !strings.Contains(r.header.Get("Authorization"), "Credential=AKIDGIVEN/") || !strings.Contains(r.header.Get("Authorization"), "/eu-west-2/kms/aws4_request") ||
			r.header.Get("X-Amz-Security-Token") != "tokengiven" || r.header.Get("User-Agent") != "cloister" {
			t.Errorf("%v", r.header)
		}
	}
}

func TestI8_ConfigIsChecked(t *testing.T) {
	f, plain := newFake(t, awsHost), newFake(t, "")
	for name, edit := range map[string]func(*keys.Config){
		"no attester":            func(c *keys.Config) { c.Attester = nil },
		"no way out":             func(c *keys.Config) { c.Dial = nil },
		"no partition":           func(c *keys.Config) { c.Partition = "" },
		"unknown partition":      func(c *keys.Config) { c.Partition, c.Endpoint = "aws-iso", "https://127.0.0.1" },
		"an endpoint in aws":     func(c *keys.Config) { c.Endpoint = "https://kms.example" },
		"plain HTTP in aws":      func(c *keys.Config) { c.Endpoint = "http://127.0.0.1" },
		"no roots":               func(c *keys.Config) { c.Roots = nil },
		"no endpoint in dev":     func(c *keys.Config) { c.Partition = keys.PartitionDev },
		"https in dev, no roots": func(c *keys.Config) { c.Partition, c.Endpoint, c.Roots = keys.PartitionDev, "https://127.0.0.1", nil },
		"endpoint with a path":   func(c *keys.Config) { c.Partition, c.Endpoint = keys.PartitionDev, "http://127.0.0.1/x" },
		"endpoint with a user":   func(c *keys.Config) { c.Partition, c.Endpoint = keys.PartitionDev, "http://u@127.0.0.1" },
		"endpoint of a file":     func(c *keys.Config) { c.Partition, c.Endpoint = keys.PartitionDev, "file:///etc" },
		"too many attempts":      func(c *keys.Config) { c.Attempts = 11 },
		"negative time":          func(c *keys.Config) { c.Timeout = -1 },
	} {
		c := f.config()
		edit(&c)
		if got, err := keys.New(c); err == nil || got != nil {
			t.Errorf("%s: taken", name)
		}
	}
	kms, err := keys.New(plain.config())
	if err != nil {
		t.Fatal(err)
	}
	defer kms.Close()
	for name, bad := range map[string]keys.Credentials{
		"none": {}, "no secret": {AccessKeyID: "A"}, "a line more": {AccessKeyID: "A\r\nX: y", SecretAccessKey: "s"},
	} {
		if client, err := kms.Login(bad); err == nil || client != nil {
			t.Errorf("credentials: %s: taken", name)
		}
	}
}

func TestCredentialsDoNotPrint(t *testing.T) {
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "c", credentials, "p", &credentials)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "c", credentials, "p", &credentials)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&log, verb+"\n"+verb+"\n", credentials, &credentials)
	}
	text, err := json.Marshal(credentials)
	if err != nil {
		t.Fatal(err)
	}
	f := newFake(t, "")
	fmt.Fprintf(&log, "%+v %#v", f.client(), f.client())
	if out := log.String() + string(text); strings.Contains(out, "given") || strings.Contains(out, "GIVEN") {
		t.Error(out)
	}
}

// A KMS that is closed asks nothing more, whoever still has a client of it.
func TestAClosedKMSAsksNothing(t *testing.T) {
	f := newFake(t, "")
	kms, err := keys.New(f.config())
	if err != nil {
		t.Fatal(err)
	}
	client, err := kms.Login(credentials)
	if err != nil {
		t.Fatal(err)
	}
	for keys.Spare(kms) == 0 { // so that there is one to be forgotten
		runtime.Gosched()
	}
	if err := errors.Join(kms.Close(), kms.Close()); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		dataKey, _, err := client.Decrypt(t.Context(), simKey, wrapped, bound)
		if err == nil || dataKey != nil || len(f.seen()) > 0 {
			t.Fatalf("%v, %d requests", err, len(f.seen()))
		}
	}
}
