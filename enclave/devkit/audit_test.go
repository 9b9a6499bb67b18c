package devkit_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cloister-run/cloister/enclave/devkit"
)

// TestEveryRequestHasItsLine: with who, what, under which context and the outcome; with nothing secret.
func TestEveryRequestHasItsLine(t *testing.T) {
	w := newWorld(t)
	arn := w.create(administers(mayDecrypt(owner, image())))
	plaintext, blob := w.generate(arn)
	client, _ := w.enclave(owner, w.nsm(measured()))
	_, id, err := client.Decrypt(t.Context(), arn, blob, bound)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.client(owner).Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: bound})
	if code(t, err) != "AccessDeniedException" {
		t.Fatal(err)
	}
	if _, err = w.client(owner).ListKeys(t.Context(), &kms.ListKeysInput{}); err != nil {
		t.Fatal(err)
	}
	request := signed(t, w.url, w.account(owner), "ListKeys", "{}", time.Now())
	request.Header.Set("X-Amz-Target", "TrentService.CreateKey")
	send(t, request)
	lines := strings.Split(strings.TrimSpace(w.log.String()), "\n")
	if len(lines) != 6 {
		t.Fatalf("%d lines: %s", len(lines), w.log)
	}
	for i, parts := range [][]string{
		{"action=CreateKey", "outcome=success", "key=" + arn},
		{"action=GenerateDataKey", "outcome=success", "key=" + arn, "cloister:asset", "digits"},
		{"action=Decrypt", "outcome=success", "key=" + arn, "00ff", "request=" + id, "principal=arn:cloister-dev:iam::" + owner + ":root", "image=" + register(1).String(), "module=i-"},
		{"action=Decrypt", "outcome=AccessDeniedException", "key=" + arn, "00ff", "detail=", "not authorized"},
		{"action=ListKeys", "outcome=success"},
		{"action=CreateKey", "outcome=InvalidSignatureException"},
	} {
		for _, part := range append(parts, "time=", "request=") {
			if !strings.Contains(lines[i], part) {
				t.Errorf("%q is not in %s", part, lines[i])
			}
		}
	}
	if strings.Contains(lines[5], "principal=") {
		t.Errorf("a principal that did not sign: %s", lines[5])
	}
	stored, err := os.ReadFile(filepath.Join(w.home.Dir(), "keys", arn[len(arn)-36:]+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var key struct{ Material string }
	if err := json.Unmarshal(stored, &key); err != nil || key.Material == "" {
		t.Fatal(err)
	}
	for name, secret := range map[string]string{"data key": base64.StdEncoding.EncodeToString(plaintext), "key": key.Material, "secret": w.account(owner).SecretAccessKey} {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the %s is in the log", name)
		}
	}
}

// broken is a log that cannot be written.
type broken struct{ slog.Handler }

func (broken) Handle(context.Context, slog.Record) error { return errors.New("disk full") }

// TestNoLineNoAnswer: a data key that nobody would know of is not given.
func TestNoLineNoAnswer(t *testing.T) {
	w := newWorld(t)
	arn := w.create(administers())
	server := httptest.NewServer(devkit.NewKMS(w.home, slog.New(broken{slog.DiscardHandler})))
	defer server.Close()
	client := w.client(owner, func(o *kms.Options) { o.BaseEndpoint = &server.URL })
	out, err := client.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &arn, KeySpec: "AES_256"})
	if code(t, err) != "KMSInternalException" || out != nil {
		t.Errorf("%v", err)
	}
}

// TestServeEndsWithItsContext: and answers until then.
func TestServeEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- w.kms.Serve(ctx, listener) }()
	url := "http://" + listener.Addr().String()
	client := w.client(owner, func(o *kms.Options) { o.BaseEndpoint = &url })
	if _, err := client.ListKeys(t.Context(), &kms.ListKeysInput{}); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		conn.Close()
		t.Error("still listening")
	}
	if err := w.kms.Serve(t.Context(), listener); err == nil {
		t.Error("a closed listener is served")
	}
}
